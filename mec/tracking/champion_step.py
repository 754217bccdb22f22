"""The champion step: what is in service, as a refresh needs it, looked up in the registry.

A refresh works on the version that it looked up, whatever becomes of the aliases meanwhile: if another version is
champion when it wants to publish or promote, it is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mec.bundle import Bundle, open_bundle, write_bundle, write_json
from mec.config import DataConfig, RefreshConfig, TrackingConfig
from mec.data.readers import open_source
from mec.errors import DataError, MecError, TrackingError
from mec.progress import note
from mec.refresh.overlap import write_row_hashes
from mec.steps import step
from mec.tracking.generations import knows_rows, lineage
from mec.tracking.kept import bundle_tags, keep_bundles, tagged_bundle
from mec.tracking.registry import ModelRegistry, Version
from mec.tracking.runs import connected
from mec.tracking.training_rows import trained_on

STEP = "champion"
CHAMPION_FILE = "champion.json"
_ROLES = ("vocabulary", "pretrained", "codebook", "codes", "model", "evaluation")


def champion_step(
    *,
    tracking: TrackingConfig,
    name: str,
    store: Path,
    version: str,
    data: DataConfig,
    data_version: str,
    refresh: RefreshConfig,
    seed: int,
    out: Path,
) -> None:
    """Find the version to refresh and its bundles, and write the "champion" bundle: their places and uuids.

    Where the trained version has no hashes of its training rows yet, they are made of what it was trained on, if that
    is still there, and noted in the registry for all refreshes to come.

    Args:
        tracking: Server and model name.
        name: The run's name; names the registered model unless ``tracking.model_name`` does.
        store: Directory of the embedded stores.
        version: Number of the version; see ``mec.tracking.base_version``.
        data: Of the train run, for versions that do not say what they were trained on.
        data_version: Of the new rows.
        refresh: Whether old rows are replayed.
        seed: Of the random split of ``data``.
        out: Directory of the bundle.

    Raises:
        TrackingError: The server does not answer, or there is no such model or version.
        DataError: The version was trained or refreshed on these rows already.
        BundleError: A bundle of the version is gone or damaged; it is named.
    """
    with step(STEP, out) as record, connected(tracking, store=store) as server:
        registry = ModelRegistry(server, tracking.model_name or name, create=False)
        base = registry.version(version)
        if knows_rows(registry, base, data_version):
            raise DataError(
                f"nothing new: version {base.number} of {registry.name} has learned from these rows already",
                found=data_version,
                fix="refresh with rows that came after them",
            )
        chain = lineage(registry, base)
        bundles = {role: _bundle(registry, base, role) for role in _ROLES}
        _note_row_hashes(registry, chain[-1], trained_on(chain[-1], data), seed, store)
        hashes = [registry.version(v.number) for v in chain]
        found: dict[str, Any] = {role: str(bundle.path) for role, bundle in bundles.items()}
        found["row_hashes"] = [
            str(_bundle(registry, v, "row_hashes").path) for v in hashes if "bundle.row_hashes" in v.tags
        ]
        replayed = chain if refresh.replay != "none" else []
        # named by path and not read here: looking a champion up must not cost the history
        found["dataset"] = [str(_bundle(registry, v, "dataset", verify=False).path) for v in replayed]
        facts = {
            "model": registry.name,
            "version": base.number,
            "generation": int(bundles["codes"].extra["generation"]),
            "parent_generation": bundles["codes"].extra["parent_generation"],
            "codebook": bundles["codebook"].uuid,
            "bundles": found,
        }
        with write_bundle(out, "champion", parents=bundles, data_version=data_version) as draft:
            write_json(draft.path / CHAMPION_FILE, facts)
            draft.extra = facts
        record.summary = f"{registry.name} version {base.number}, generation {facts['generation']}"


@dataclass(frozen=True)
class Base:
    """What a refresh starts from.

    Attributes:
        model: Registered model.
        version: Number of the version.
        generation: Of its codes.
        parent_generation: Of the codes before them; None for those of a train run.
        codebook: uuid.
    """

    model: str
    version: str
    generation: int
    parent_generation: int | None
    codebook: str
    bundle: Bundle

    @classmethod
    def open(cls, path: Path | str) -> Base:
        """Read a "champion" bundle.

        Raises:
            BundleError: No such bundle.
        """
        bundle = open_bundle(path, "champion")
        facts = {name: value for name, value in bundle.extra.items() if name != "bundles"}
        return cls(**facts, bundle=bundle)

    @property
    def data_version(self) -> str:
        """Of the new rows, as whoever started the refresh named it."""
        return self.bundle.manifest.data_version

    def path(self, role: str) -> Path:
        """Directory of the vocabulary, pretrained, codebook, codes, model or evaluation bundle."""
        return Path(self.bundle.extra["bundles"][role])

    def paths(self, role: str) -> list[Path]:
        """Directories of the row_hashes bundles, or of the dataset bundles to replay, newest first."""
        return [Path(path) for path in self.bundle.extra["bundles"][role]]


def require_champion(registry: ModelRegistry) -> Version:
    """The champion.

    Raises:
        TrackingError: There is none.
    """
    champion = registry.champion()
    if champion is None:
        raise TrackingError(
            f"{registry.name} has no champion, so there is nothing to refresh or to replace",
            found=", ".join(f"version {v.number}" for v in registry.versions()) or "no versions",
            fix="train one with `mec run`, or put a version in service with `mec promote`",
        )
    return champion


def _bundle(registry: ModelRegistry, version: Version, role: str, *, verify: bool = True) -> Bundle:
    return tagged_bundle(version.tags, role, owner=f"{registry.name} version {version.number}", verify=verify)


def _note_row_hashes(registry: ModelRegistry, trained: Version, data: DataConfig, seed: int, store: Path) -> None:
    """Hash the rows of the train run, once; a person is told where that is not possible."""
    if "bundle.row_hashes" in trained.tags:
        return
    wanted = trained.tags.get("data_version")
    folder = Path(store) / "bundles"
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder, prefix=".hashing-") as temporary:
        try:
            source = open_source(data, seed=seed)
            if source.data_version != wanted:
                raise DataError("the rows have changed", found=source.data_version, fix=f"name those of {wanted}")
            bundles = {"row_hashes": write_row_hashes(source, Path(temporary, "row_hashes"))}
        except MecError as error:
            note(STEP, f"rows of the train run cannot be looked for in the new ones: {error}")
            return
        registry.tag(trained, bundle_tags(bundles, keep_bundles(bundles, store)))
