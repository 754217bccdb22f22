"""Artifact bundles: a directory of data files with a manifest that is written last.

A directory without ``manifest.json`` does not exist. A bundle's uuid is derived from its contents
(kind, parents, config hash and every file's sha256), so the same inputs give the same uuid.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid as uuidlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from mec.errors import BundleError
from mec.version import __version__

MANIFEST = "manifest.json"
WEIGHTS_FILE = "weights.safetensors"  # of a model
_NAMESPACE = uuidlib.UUID("6d656300-0000-5000-8000-000000000001")
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Manifest:
    """What a bundle is, where it comes from, and the checksum of every file in it."""

    kind: str
    uuid: str
    parents: dict[str, str]  # role -> uuid
    created: str  # ISO 8601, UTC
    mec_version: str
    code_hash: str
    config_hash: str
    data_version: str
    files: dict[str, dict[str, Any]]  # relative name -> {"sha256", "bytes"}
    extra: dict[str, Any]  # what readers of this kind need; JSON values only


@dataclass(frozen=True)
class Bundle:
    """A complete, verified bundle on disk."""

    path: Path
    manifest: Manifest

    @property
    def uuid(self) -> str:
        return self.manifest.uuid

    @property
    def extra(self) -> dict[str, Any]:
        return self.manifest.extra

    def file(self, name: str) -> Path:
        """Path of one file of the bundle; a ``BundleError`` if the manifest does not list it."""
        if name not in self.manifest.files:
            raise BundleError(
                f"bundle {self.path} ({self.manifest.kind}) has no file {name!r}",
                found=sorted(self.manifest.files),
                fix="run the step that makes this bundle again",
            )
        return self.path / name

    def json(self, name: str) -> dict[str, Any]:
        """The object in one JSON file of the bundle."""
        return read_json(self.file(name))

    def num_bytes(self) -> int:
        """Bytes of all data files, the manifest left out."""
        return sum(int(f["bytes"]) for f in self.manifest.files.values())


@dataclass
class BundleDraft:
    """A bundle being written: put files under ``path``, facts for readers into ``extra``."""

    path: Path
    extra: dict[str, Any] = field(default_factory=dict)
    parents: dict[str, str] = field(default_factory=dict)
    data_version: str = ""


@contextmanager
def write_bundle(
    path: Path,
    kind: str,
    *,
    parents: Mapping[str, Bundle | str] | None = None,
    config: Mapping[str, Any] | None = None,
    data_version: str = "",
) -> Iterator[BundleDraft]:
    """Write a bundle: data files inside the ``with`` block, the manifest at its end.

    Whatever an earlier, unfinished attempt left under ``path`` is removed first. If the block
    raises, no manifest is written and the directory is removed.

    Args:
        path: Directory of the bundle.
        kind: ``counts``, ``vocabulary``, ``dataset``, ``pretrained``, ``codebook``, ``codes``,
            ``model``, ``publication``, ``evaluation``, ``scorer`` or ``registration``.
        parents: Role -> bundle (or uuid) that this one was made from.
        config: The settings that shaped it; only their hash is kept.
        data_version: Identity of the rows it stems from; inherited from a parent bundle if empty.
    """
    path = Path(path)
    bundles = dict(parents or {})
    for parent in bundles.values():
        if not data_version and isinstance(parent, Bundle):
            data_version = parent.manifest.data_version
    draft = BundleDraft(
        path=path,
        parents={role: p.uuid if isinstance(p, Bundle) else p for role, p in bundles.items()},
        data_version=data_version,
    )
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        path.mkdir(parents=True)
    except OSError as error:
        raise BundleError(
            f"cannot write the {kind} bundle to {path}",
            found=error.strerror,
            fix="choose an output directory that you may write to, with space left",
        ) from error
    try:
        yield draft
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise
    files = {
        str(f.relative_to(path)): {"sha256": file_sha256(f), "bytes": f.stat().st_size}
        for f in sorted(path.rglob("*"))
        if f.is_file() and f.name != "step.json"
    }
    config_hash = json_hash(config or {})
    # the manifest of a bundle inside this one tells when it was made, which is no part of what it is
    contents = {name: fact for name, fact in files.items() if Path(name).name != MANIFEST}
    identity = json_hash(
        {"kind": kind, "parents": draft.parents, "config": config_hash, "files": contents, "extra": draft.extra}
    )
    manifest = Manifest(
        kind=kind,
        uuid=str(uuidlib.uuid5(_NAMESPACE, identity)),
        parents=draft.parents,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        mec_version=__version__,
        code_hash=code_hash(),
        config_hash=config_hash,
        data_version=draft.data_version,
        files=files,
        extra=draft.extra,
    )
    write_json(path / MANIFEST, manifest.__dict__)


def open_bundle(path: Path | str, kind: str | None = None, *, verify: bool = True) -> Bundle:
    """Open a complete bundle and check every file against the manifest.

    Args:
        path: Directory of the bundle.
        kind: The kind expected; None takes any.
        verify: Hash every file; False compares sizes only.

    Raises:
        BundleError: No manifest, another kind, a missing file, or a checksum that differs (the file is named).
    """
    path = Path(path)
    try:
        raw = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        manifest = Manifest(**raw)
    except FileNotFoundError:
        raise BundleError(
            f"no {kind or 'artifact'} bundle at {path}: it has no {MANIFEST}",
            fix="the step that writes it did not finish; run it again",
        ) from None
    except (json.JSONDecodeError, TypeError, UnicodeDecodeError) as error:
        raise BundleError(
            f"{path / MANIFEST} is not a bundle manifest", found=error, fix="run the step that writes it again"
        ) from None
    if kind is not None and manifest.kind != kind:
        raise BundleError(
            f"{path} is not a {kind} bundle", found=manifest.kind, fix=f"pass the directory of a {kind} bundle"
        )
    for name, fact in manifest.files.items():
        file = path / name
        again = "restore the file or run the step that writes this bundle again"
        if not file.is_file():
            raise BundleError(f"bundle {path} ({manifest.kind}) misses its file {name!r}", fix=again)
        if file.stat().st_size != fact["bytes"]:
            raise BundleError(
                f"{file} does not have the size its manifest states ({fact['bytes']} bytes)",
                found=f"{file.stat().st_size} bytes",
                fix=again,
            )
        if verify:
            found = file_sha256(file)
            if found != fact["sha256"]:
                raise BundleError(
                    f"{file} does not match its checksum {fact['sha256'][:12]}…", found=f"{found[:12]}…", fix=again
                )
    return Bundle(path, manifest)


def read_json(path: Path) -> dict[str, Any]:
    """An object that ``write_json`` wrote."""
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value


def write_json(path: Path, value: object) -> None:
    """Write JSON so that readers see the old file or the new one, never a part of it."""
    temporary = path.with_name(path.name + ".part")
    with temporary.open("w", encoding="utf-8") as stream:
        json.dump(value, stream, indent=2, sort_keys=True, allow_nan=False)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def json_hash(value: object) -> str:
    """sha256 of a JSON value in canonical form."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """sha256 of a file, read in pieces of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(_CHUNK_BYTES):
            digest.update(piece)
    return digest.hexdigest()


@cache
def code_hash() -> str:
    """sha256 over the source of the mec package: what a cached step result depends on."""
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(str(file.relative_to(root)).encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()
