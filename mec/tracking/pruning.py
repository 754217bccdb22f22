"""Delete what was kept of old versions: bundles under the store, and codes online, that no version to be kept needs.

A version stays whole if an alias points to it or if it is among the newest. What stays of the others is what later
refreshes of those read: the rows that they learned from, encoded to be replayed and hashed to be compared with. Bundles
are shared between versions, and between models of one space: what any other version names is left alone. So are the
codes of a codebook that any of them names; those of codebooks that were renewed since go with feature view and service.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from mec.config import TrackingConfig
from mec.errors import BundleError, TrackingError
from mec.publish.locking import publisher_lock, refresh_lock
from mec.publish.retiring import find_published, retire
from mec.publish.store import STORE_YAML
from mec.tracking.generations import lineage
from mec.tracking.kept import BUNDLES, PRUNED_TAG, tagged_by_role
from mec.tracking.registry import ModelRegistry, Version
from mec.tracking.runs import TrackedRun, connected

RETIRED_TAG = "retired"  # of a pruned version whose codes are no longer online: when, ISO 8601, UTC
_ROWS = ("dataset", "row_hashes")
_PAGE = 100  # models of one request


@dataclass(frozen=True)
class Unneeded:
    """Codes of one codebook in a feature repo.

    Attributes:
        repo: The feature repo.
        codebook: uuid.
        rows: Online rows, as they were published; 0 if an attempt to delete them was cut off.
        versions: Numbers of the versions that were served with it, oldest first.
    """

    repo: Path
    codebook: str
    rows: int
    versions: tuple[str, ...]


@dataclass(frozen=True)
class Prunable:
    """What may go.

    Attributes:
        versions: Numbers of the versions that can no longer be put in service or refreshed without it, oldest first.
        places: Directories of their bundles, sorted.
        num_bytes: Size of these. Files that a run directory holds too (hard links) take up space until it is deleted.
        online: Codes that no version to be kept is served with.
        gone: Feature repos of old versions that are not there any more, so that nothing was looked for in them.
    """

    versions: tuple[str, ...]
    places: tuple[Path, ...]
    num_bytes: int
    online: tuple[Unneeded, ...]
    gone: tuple[Path, ...]


def prune(model: str, keep: int, *, tracking: TrackingConfig, store: Path, delete: bool) -> Prunable:
    """Find what may go of a model's old versions, and delete it if wanted.

    Args:
        model: Registered model.
        keep: Newest versions that stay, whatever their aliases; 1 or more.
        tracking: Server. Only versions on this server are known: a store is of one server.
        store: Directory of the embedded stores.
        delete: False changes nothing.

    Raises:
        TrackingError: No such model, or ``keep`` is below 1.
        PublishError: A refresh or switch of this model is going on, or an online store does not answer.
        BundleError: A directory cannot be deleted.
    """
    if keep < 1:
        raise TrackingError("at least the newest version stays", found=f"keep {keep}", fix="keep 1 or more")
    who = f"refresh or switch of {model}"
    with connected(tracking, store=store) as server:
        registry = ModelRegistry(server, model, create=False)
        with publisher_lock(refresh_lock(store, model), wait_s=0, who=who):
            others = [
                version
                for name in _models(server)
                if name != model
                for version in ModelRegistry(server, name, create=False).versions()
            ]
            found = find_prunable(registry, keep, others, store)
            if delete:
                now = datetime.now(UTC).isoformat(timespec="seconds")
                for number in found.versions:  # before anything goes, so that what is gone is known to be pruned
                    registry.tag(registry.version(number), {PRUNED_TAG: now})
                for codes in found.online:
                    retire(codes.repo, codes.codebook)
                    for number in codes.versions:
                        registry.tag(registry.version(number), {RETIRED_TAG: now})
                for place in found.places:
                    _delete(place)
            return found


def find_prunable(registry: ModelRegistry, keep: int, others: Iterable[Version], store: Path) -> Prunable:
    """What of a model's old versions may go.

    Args:
        registry: Of the model.
        keep: Newest versions that stay.
        others: Versions of other models; what they name stays.
        store: Directory of the embedded stores; only what lies in its ``bundles`` is named.
    """
    versions, aliased = registry.versions(), set(registry.aliases().values())
    whole = [v for v in versions if v.number in aliased or v in versions[-keep:]]
    old = [v for v in versions if v not in whole]
    needed = {place for version in [*whole, *others] for place in tagged_by_role(version.tags).values()}
    for version in whole:
        for earlier in lineage(registry, version):
            needed |= {place for role, place in tagged_by_role(earlier.tags).items() if role in _ROWS}
    folder = (Path(store).resolve() / BUNDLES).resolve()
    going: dict[Path, None] = {}
    numbers = []
    for version in old:
        places = [p for p in tagged_by_role(version.tags).values() if p.parent.resolve() == folder]
        mine = [place for place in places if place not in needed and place.is_dir()]
        if mine:
            numbers.append(version.number)
            going |= dict.fromkeys(mine)
    places = sorted(going)
    served = _only_old(old, [*whole, *others])
    gone = sorted({repo for repo, _ in served if not (repo / STORE_YAML).is_file()})
    online = _online({key: named for key, named in served.items() if key[0] not in gone})
    numbers += [number for codes in online for number in codes.versions]
    ordered = sorted(set(numbers), key=int)
    return Prunable(tuple(ordered), tuple(places), sum(map(_num_bytes, places)), tuple(online), tuple(gone))


def _only_old(old: Iterable[Version], kept: Iterable[Version]) -> dict[tuple[Path, str], list[Version]]:
    """(feature repo, codebook) -> the versions served with it, where no version to be kept names that codebook."""
    needed = {version.tags.get("codebook") for version in kept}
    served: dict[tuple[Path, str], list[Version]] = {}
    for version in old:
        repo, codebook = version.tags.get("feature_repo", "none"), version.tags.get("codebook")
        if repo != "none" and codebook is not None and codebook not in needed:
            served.setdefault((Path(repo), codebook), []).append(version)
    return served


def _online(served: Mapping[tuple[Path, str], Sequence[Version]]) -> list[Unneeded]:
    """What of this is online, or was left by an attempt to delete it."""
    found = []
    for repo in sorted({repo for repo, _ in served}):
        codebooks = {codebook: versions for (other, codebook), versions in served.items() if other == repo}
        there = find_published(repo, codebooks)
        for codebook, versions in codebooks.items():
            cut_off = any(PRUNED_TAG in v.tags and RETIRED_TAG not in v.tags for v in versions)
            if codebook in there or cut_off:
                numbers = tuple(version.number for version in versions)
                found.append(Unneeded(repo, codebook, there.get(codebook, 0), numbers))
    return found


def prune_facts(found: Prunable) -> Mapping[str, int]:
    """Bundles by kind, for a person."""
    kinds = [place.name.rsplit("-", 5)[0] for place in found.places]
    return {kind: kinds.count(kind) for kind in sorted(set(kinds))}


def _models(server: TrackedRun) -> list[str]:
    names: list[str] = []
    token = None
    while True:
        page = server.client.search_registered_models(max_results=_PAGE, page_token=token)
        names += [model.name for model in page]
        token = page.token
        if not token:
            return names


def _num_bytes(place: Path) -> int:
    return sum(file.stat().st_size for file in place.rglob("*") if file.is_file())


def _delete(place: Path) -> None:
    try:
        shutil.rmtree(place)
    except OSError as error:
        raise BundleError(
            f"cannot delete {place}", found=error.strerror, fix="make it writable, then prune again: it goes on"
        ) from error
