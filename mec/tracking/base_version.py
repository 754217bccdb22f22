"""Which version a refresh continues, and whether it is still in service when the refresh writes online.

On a cluster nothing keeps a rollback, or a second refresh, from coming between: the registry is asked again.
"""

from __future__ import annotations

from pathlib import Path

from mec.bundle import open_bundle
from mec.config import PublishConfig, TrackingConfig
from mec.errors import DataError, TrackingError
from mec.progress import note
from mec.publish.publishing import publish_step
from mec.steps import reported_errors
from mec.tracking.champion_step import Base, require_champion
from mec.tracking.generations import PARENT_TAG, REFRESHED_ON, knows_rows
from mec.tracking.registry import CODES_TAG, ModelRegistry, Version
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


def publish_generation_step(
    *,
    publish: PublishConfig,
    tracking: TrackingConfig,
    store: Path,
    champion: Path,
    vocabulary: Path,
    codebook: Path,
    codes: Path,
    out: Path,
) -> None:
    """Publish what differs from the generation in service, if that is still the one that was refreshed.

    Args:
        publish: Where to and how.
        tracking: Server.
        store: Directory of the embedded stores.
        champion: "champion" bundle: the version that was refreshed.
        vocabulary: "vocabulary" bundle of the new generation.
        codebook: "codebook" bundle of the new generation.
        codes: "codes" bundle of the new generation.
        out: Where the "publication" bundle goes.

    Raises:
        TrackingError: The server does not answer, or another version is in service; nothing was written.
        BundleError, PublishError, SpaceError, ConfigError: As ``publish_step``.
    """
    with reported_errors("publish_generation"):
        base, new = Base.open(champion), open_bundle(codes, "codes")
        with connected(tracking, store=store) as server:
            require_in_service(ModelRegistry(server, base.model, create=False), base.version, new.uuid)
    publish_step(
        publish=publish,
        store=store,
        vocabulary=vocabulary,
        codebook=codebook,
        codes=codes,
        online_codes=base.path("codes"),
        online_vocabulary=base.path("vocabulary"),
        out=out,
    )


def require_in_service(registry: ModelRegistry, base: str, codes: str) -> None:
    """Refuse to publish over a version that came into service while the refresh was going on.

    Args:
        registry: Of the model.
        base: Number of the version that was refreshed.
        codes: uuid of the new "codes" bundle: its version may be champion already, if the step is repeated.

    Raises:
        TrackingError: Another version is champion.
    """
    champion = require_champion(registry)
    if champion.number != base and champion.tags.get(CODES_TAG) != codes:
        raise TrackingError(
            f"version {base} of {registry.name} was refreshed, and is no longer in service; nothing was published",
            found=f"champion version {champion.number}",
            fix=f"refresh again, which starts from version {champion.number}; or put version {base} in service first "
            f"with `mec rollback {registry.name} v{base}`",
        )
