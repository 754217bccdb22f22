"""The generations of a registered model: which version continues which, and what was in service when.

Each promoted refresh is a version of its own: the same backbone, another generation of codes and, if refitted, another
calibration. Its tags say which version it continues, on which rows, and what was measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mec.errors import TrackingError
from mec.tracking.registry import CHAMPION, PREVIOUS, ModelRegistry, Switch, Version

GENERATION_TAG = "codes_generation"
PARENT_TAG = "parent_version"  # the version that a refresh continues
REFRESHED_ON = "refreshed_on"  # data version of the refresh's new rows
MEASURED = ("auc_stale", "auc_refreshed", "logloss_stale", "logloss_refreshed")
REWRITTEN_TAG = "rows_rewritten"
DECIDED_BY = "decided_by_run"
ESCALATED_BY = "escalated_by_run"  # the last refresh that found the version past refreshing


def generation_of(version: Version) -> int | None:
    """Which generation of codes a version is served with; None if its tags do not say."""
    text = version.tags.get(GENERATION_TAG, "")
    return int(text) if text.isdecimal() else None


def refresh_tags(*, parent: Version, data_version: str, numbers: Mapping[str, Any]) -> dict[str, str]:
    """Tags of the version that a refresh registers.

    Args:
        parent: The version that was refreshed.
        data_version: Of the new rows.
        numbers: ``evaluation.json`` of the refresh.
    """
    measured = {name: repr(_number(numbers[name])) for name in MEASURED}
    own = {PARENT_TAG: parent.number, REFRESHED_ON: data_version, REWRITTEN_TAG: str(numbers[REWRITTEN_TAG])}
    return measured | own | {"parent_generation": str(numbers["parent_generation"])}


def lineage(registry: ModelRegistry, version: Version) -> list[Version]:
    """A version, the one that it continues, and so on to the one that was trained.

    Raises:
        TrackingError: The tags go round in a circle.
    """
    found = [version]
    while PARENT_TAG in found[-1].tags:
        parent = registry.version(found[-1].tags[PARENT_TAG])
        if any(parent.number == known.number for known in found):
            raise TrackingError(
                f"the versions of {registry.name} continue each other in a circle",
                found=" -> ".join(v.number for v in [*found, parent]),
                fix=f"correct the tag {PARENT_TAG} of version {found[-1].number}",
            )
        found.append(parent)
    return found


def knows_rows(registry: ModelRegistry, version: Version, data_version: str) -> bool:
    """Whether a version was trained or refreshed on rows of this identity."""
    chain = lineage(registry, version)
    return any(v.tags.get(REFRESHED_ON, v.tags.get("data_version")) == data_version for v in chain)


@dataclass(frozen=True)
class HistoryRow:
    """One version as an operator sees it.

    Attributes:
        version: Its number in the registry.
        generation: Of its codes; None where the tags do not say.
        parent: Version that it continues; None for a trained one.
        codebook: uuid.
        registered: ISO 8601, UTC.
        decided_by: MLflow run that decided on it.
        measured: ``auc_stale`` and the other numbers of its refresh; empty for a trained version.
        rows_rewritten: Online rows that differ from the parent's; None for a trained version.
        escalated_by: MLflow run of the last refresh that called for the train pipeline in its place; empty if none.
        aliases: Of now.
        switches: Each time that it came into service.
    """

    version: str
    generation: int | None
    parent: str | None
    codebook: str
    registered: str
    decided_by: str
    measured: dict[str, float]
    rows_rewritten: int | None
    escalated_by: str
    aliases: tuple[str, ...]
    switches: tuple[Switch, ...]


def history(registry: ModelRegistry) -> list[HistoryRow]:
    """All versions of a model, oldest first."""
    aliases, switches = registry.aliases(), registry.switches()
    rows = []
    for version in registry.versions():
        tags = version.tags
        rewritten = tags.get(REWRITTEN_TAG)
        rows.append(
            HistoryRow(
                version=version.number,
                generation=generation_of(version),
                parent=tags.get(PARENT_TAG),
                codebook=tags.get("codebook", ""),
                registered=version.registered,
                decided_by=tags.get(DECIDED_BY, ""),
                measured={name: float(tags[name]) for name in MEASURED if name in tags},
                rows_rewritten=None if rewritten is None else int(rewritten),
                escalated_by=tags.get(ESCALATED_BY, ""),
                aliases=tuple(sorted(alias for alias, number in aliases.items() if number == version.number)),
                switches=tuple(switch for switch in switches if switch.version == version.number),
            )
        )
    return rows


def find_version(registry: ModelRegistry, wanted: str) -> Version:
    """The version that an operator means.

    Args:
        registry: Of the model.
        wanted: ``v3`` for version 3; ``3`` for generation 3 of the codes.

    Raises:
        TrackingError: There is no such version or generation, or several versions of the generation.
    """
    versions = registry.versions()
    shown = ", ".join(f"v{v.number} (generation {generation_of(v)})" for v in versions) or "no versions"
    number = wanted.removeprefix("v")
    if not number.isdecimal():
        raise TrackingError(
            "neither a version nor a generation",
            found=wanted,
            fix=f"name one of {shown}; v3 is a version, 3 a generation",
        )
    if wanted.startswith("v"):
        found = [v for v in versions if v.number == number]
    else:
        found = [v for v in versions if generation_of(v) == int(number)]
    if not found:
        raise TrackingError(f"{registry.name} has no such version", found=wanted, fix=f"name one of {shown}")
    if len(found) > 1:
        raise TrackingError(
            f"{len(found)} versions of {registry.name} have generation {wanted}",
            found=", ".join(f"v{v.number}" for v in found),
            fix="name the version, such as v" + found[-1].number,
        )
    return found[0]


def version_before(registry: ModelRegistry) -> Version:
    """The version that a rollback goes back to: the alias previous.

    Raises:
        TrackingError: Nothing was in service before.
    """
    aliases = registry.aliases()
    number = aliases.get(PREVIOUS)
    if number is None or number == aliases.get(CHAMPION):
        raise TrackingError(
            f"{registry.name} has no previous version to go back to",
            found=", ".join(f"{alias}: v{version}" for alias, version in sorted(aliases.items())) or "no aliases",
            fix="name a generation; `mec history` lists them",
        )
    return registry.version(number)


def _number(value: object) -> float:
    """A number of ``evaluation.json``, which may be an interval."""
    inner = value["value"] if isinstance(value, Mapping) else value
    return float(inner)  # type: ignore[arg-type]
