"""Which version a refresh continues."""

from __future__ import annotations

from pathlib import Path

from mec.config import TrackingConfig
from mec.errors import DataError
from mec.progress import note
from mec.steps import reported_errors
from mec.tracking.champion_step import require_champion
from mec.tracking.generations import PARENT_TAG, REFRESHED_ON, knows_rows
from mec.tracking.registry import ModelRegistry, Version
from mec.tracking.runs import connected
from mec.tracking.training_rows import TrainingRows, called_for


def version_to_refresh(registry: ModelRegistry, data_version: str, *, trains: bool = False) -> Version:
    """The champion, or what it continues or replaced if it was made because of these very rows.

    Then the refresh takes the same way once more and ends where the first one did, with nothing to write.

    Args:
        registry: Of the model.
        data_version: Of the new rows.
        trains: Whether an escalation trains.

    Raises:
        TrackingError: There is no champion.
        DataError: The champion learned from these rows before its last refresh, or was trained on them.
    """
    champion = require_champion(registry)
    base = before_these_rows(registry, champion, data_version, trains=trains)
    if base is not None:
        return base
    if not has_learned(registry, champion, data_version):
        return champion
    raise DataError(
        f"nothing new: version {champion.number} of {registry.name} has learned from these rows already",
        found=data_version,
        fix="refresh with rows that came after them",
    )


def before_these_rows(registry: ModelRegistry, champion: Version, data_version: str, *, trains: bool) -> Version | None:
    """The version that a refresh with these rows started from, if the champion came of it; None if not.

    That is the version that the champion continues, or, where an escalation trains, the one that the refresh found in
    need of the training that made the champion.
    """
    if PARENT_TAG in champion.tags:
        own = champion.tags.get(REFRESHED_ON) == data_version
        return registry.version(champion.tags[PARENT_TAG]) if own else None
    call = called_for(registry, champion, data_version) if trains else None
    return registry.version(call.version) if call is not None and call.decision == "escalate" else None


def has_learned(registry: ModelRegistry, version: Version, data_version: str) -> bool:
    """Whether a version learned from these rows, be it in a refresh or in a training that one called for."""
    return knows_rows(registry, version, data_version) or called_for(registry, version, data_version) is not None


def find_champion_step(
    *,
    tracking: TrackingConfig,
    name: str,
    store: Path,
    version: str,
    data_version: str,
    training: TrainingRows | None = None,
) -> str:
    """Number of the version to refresh.

    Args:
        tracking: Server and model name.
        name: The run's name; names the registered model unless ``tracking.model_name`` does.
        store: Directory of the embedded stores.
        version: Number of the version, which is then not looked up; empty: see ``version_to_refresh``.
        data_version: Of the new rows.
        training: What an escalation would train on, to be looked at before the long work; None where it would not.

    Raises:
        TrackingError: The server does not answer, or there is no such model or no champion.
        DataError: As ``version_to_refresh``.
        ConfigError, DataError: As ``TrainingRows.section``.
    """
    if version and training is None:
        return version
    with reported_errors("find_champion"), connected(tracking, store=store) as server:
        registry = ModelRegistry(server, tracking.model_name or name, create=False)
        trains = training is not None
        found = registry.version(version) if version else version_to_refresh(registry, data_version, trains=trains)
        if training is not None:
            training.section(registry, found, data_version)
        note("find_champion", f"{registry.name} version {found.number} is refreshed")
        return found.number
