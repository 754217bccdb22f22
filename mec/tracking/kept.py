"""Bundles that outlive the run that made them: what a refresh or a rollback of a registered version needs.

A version's tags name them by uuid and place: under the store, on a volume that later runs mount too. A run's own
directory may be gone by then, and on a cluster the path of an artifact means nothing outside the step that it was given
to. Encoded rows are among them, for a refresh replays old ones.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid as uuidlib
from collections.abc import Mapping
from pathlib import Path

from mec.bundle import MANIFEST, Bundle, open_bundle
from mec.errors import BundleError

BUNDLES = "bundles"  # directory under the store
PRUNED_TAG = "pruned"  # of a version whose bundles were deleted by will: when, ISO 8601, UTC
_TAG = "bundle."


def keep_bundles(bundles: Mapping[str, Bundle], store: Path) -> dict[str, Path]:
    """Keep the bundles of a version under the store.

    Args:
        bundles: Role -> bundle.
        store: Directory of the embedded stores.

    Returns:
        Role -> absolute path of the bundle that outlives the run.

    Raises:
        BundleError: A bundle cannot be written there.
    """
    return {role: keep_bundle(bundle, store) for role, bundle in bundles.items()}


def keep_bundle(bundle: Bundle, store: Path) -> Path:
    """Put one bundle under ``store/bundles``: hard links where both are on one file system, else a copy.

    Raises:
        BundleError: The store cannot be written to.
    """
    place = Path(store).resolve() / BUNDLES / f"{bundle.manifest.kind}-{bundle.uuid}"
    if _holds(place, bundle):
        return place
    part = place.with_name(f".{place.name}.{uuidlib.uuid4().hex[:8]}.part")
    try:
        if place.exists():
            shutil.rmtree(place)
        link_bundle(bundle, part)
        part.replace(place)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        if _holds(place, bundle):  # another run kept the same bundle meanwhile
            return place
        raise BundleError(
            f"cannot keep the {bundle.manifest.kind} bundle {bundle.path} as {place}",
            found=error.strerror,
            fix="set `store` to a directory that you may write to, with space left",
        ) from error
    return place


def link_bundle(bundle: Bundle, to: Path) -> None:
    """Make a directory with a bundle's files, the manifest last; nothing of them is copied within a file system."""
    for name in [*sorted(bundle.manifest.files), MANIFEST]:
        target = to / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(bundle.path / name, target)
        except OSError:  # another file system, or one without hard links
            shutil.copyfile(bundle.path / name, target)


def bundle_tags(bundles: Mapping[str, Bundle], places: Mapping[str, Path]) -> dict[str, str]:
    """Tags of a version by which ``tagged_bundle`` finds its bundles again."""
    return {
        _TAG + role: json.dumps({"uri": str(places[role]), "uuid": bundle.uuid}) for role, bundle in bundles.items()
    }


def tagged_places(tags: Mapping[str, str]) -> list[Path]:
    """Directories of all bundles that a version's tags name, there or not."""
    return list(tagged_by_role(tags).values())


def tagged_by_role(tags: Mapping[str, str]) -> dict[str, Path]:
    """Role -> directory of every bundle that a version's tags name, there or not."""
    return {
        name.removeprefix(_TAG): Path(json.loads(text)["uri"]) for name, text in tags.items() if name.startswith(_TAG)
    }


def tagged_bundle(tags: Mapping[str, str], role: str, *, owner: str, verify: bool = True) -> Bundle:
    """Open the bundle that a version's tags name.

    Args:
        tags: Of the version.
        role: Such as ``pretrained``.
        owner: What the tags are of, for the error, such as ``shop version 3``.
        verify: Hash every file; False compares sizes only.

    Raises:
        BundleError: The version names none, or the bundle is gone, damaged or another one.
    """
    text = tags.get(_TAG + role)
    if text is None:
        raise BundleError(
            f"{owner} does not say where its {role} bundle is",
            found=", ".join(sorted(tags)) or "no tags",
            fix="it was registered by an older mec: run the train pipeline again, which registers what is missing",
        )
    named = json.loads(text)
    try:
        bundle = open_bundle(Path(named["uri"]), role, verify=verify)
    except BundleError as error:
        if PRUNED_TAG in tags:
            raise BundleError(
                f"the {role} bundle of {owner} was deleted by `mec prune`, at {tags[PRUNED_TAG]}",
                found=error.problem,
                fix="name a version that `mec prune` has kept, or train anew with `mec run`",
            ) from error
        raise BundleError(
            f"the {role} bundle {named['uuid']} of {owner} is gone or damaged: {error.problem}",
            found=error.found,
            fix=f"put it back at {named['uri']}, or train anew with `mec run`",
        ) from error
    if bundle.uuid != named["uuid"]:
        raise BundleError(
            f"{named['uri']} is not the {role} bundle of {owner}, {named['uuid']}",
            found=bundle.uuid,
            fix="put the right one back, or train anew with `mec run`",
        )
    return bundle


def _holds(place: Path, bundle: Bundle) -> bool:
    try:
        return open_bundle(place, bundle.manifest.kind).uuid == bundle.uuid
    except BundleError:
        return False
