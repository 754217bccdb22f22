"""Publishing a refreshed generation, if what it was refreshed from is still in service.

On a cluster nothing keeps a rollback, or a second refresh, from coming between: the registry is asked again.
"""

from __future__ import annotations

from pathlib import Path

from mec.bundle import open_bundle
from mec.config import PublishConfig, TrackingConfig
from mec.errors import TrackingError
from mec.publish.publishing import publish_step
from mec.steps import reported_errors
from mec.tracking.champion_step import Base, require_champion
from mec.tracking.registry import CODES_TAG, ModelRegistry
from mec.tracking.runs import connected


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
