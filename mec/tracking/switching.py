"""Put a registered version in service by hand: its codes online, the difference only, and the aliases.

Codes first, aliases last: under a frozen codebook any mix of generations is valid meanwhile, and a renewed codebook's
codes lie beside the others. A switch that was killed is simply made again.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mec.bundle import Bundle, open_bundle
from mec.config import PublishConfig, TrackingConfig
from mec.errors import BundleError
from mec.publish.locking import publisher_lock, refresh_lock
from mec.publish.publishing import PUBLICATION, publish_step
from mec.tracking.generations import find_version, generation_of, version_before
from mec.tracking.kept import tagged_bundle
from mec.tracking.registry import ModelRegistry, Version
from mec.tracking.runs import connected, open_run


@dataclass(frozen=True)
class Switched:
    """What was done.

    Attributes:
        model: Registered model.
        version: In service now.
        generation: Of its codes.
        replaced: Version that was in service before; None if none was.
        written_rows: Rows written online; 0 where the store held them already, None where nothing is published.
    """

    model: str
    version: str
    generation: int | None
    replaced: str | None
    written_rows: int | None


def rollback(model: str, wanted: str | None, *, tracking: TrackingConfig, store: Path, full: bool = False) -> Switched:
    """Go back to the version that was in service before, or to another one.

    Args:
        model: Registered model.
        wanted: ``3`` for generation 3, ``v3`` for version 3; None: the alias previous.
        tracking: Server.
        store: Directory of the embedded stores.
        full: Write every row of the version, without a look at the bundles of the one in service. Values that only
            the latter knows keep their codes online.

    Raises:
        TrackingError: No such model, version or generation, or nothing to go back to.
        BundleError: A bundle that is needed is gone or damaged; it is named, and nothing was changed.
        PublishError: The online store cannot be written, or a refresh of this model is going on.
    """
    return _switch(model, wanted, "rollback", tracking=tracking, store=store, full=full)


def promote(model: str, wanted: str, *, tracking: TrackingConfig, store: Path, full: bool = False) -> Switched:
    """Put a version in service, whatever the gate or a refresh decided; as ``rollback`` otherwise."""
    return _switch(model, wanted, "promote", tracking=tracking, store=store, full=full)


def _switch(model: str, wanted: str | None, why: str, *, tracking: TrackingConfig, store: Path, full: bool) -> Switched:
    who = f"refresh or switch of {model}"
    with connected(tracking, store=store) as server:  # wrong names are refused before a run is opened
        registry = ModelRegistry(server, model, create=False)
        number = (version_before(registry) if wanted is None else find_version(registry, wanted)).number
    with (
        publisher_lock(refresh_lock(store, model), wait_s=0, who=who),
        open_run(tracking, store=store, run_name=f"{model} {why}", run_id=f"{why}-{uuid.uuid4()}") as run,
    ):
        registry = ModelRegistry(run, model, create=False)
        target, champion = registry.version(number), registry.champion()
        written = _publish(registry, target, None if full else champion, store)
        replaced = None
        if champion is None or champion.number != target.number:
            registry.promote(target, over=champion, why=f"{why} by hand")
            replaced = None if champion is None else champion.number
        return Switched(model, target.number, generation_of(target), replaced, written)


def _publish(registry: ModelRegistry, target: Version, online_version: Version | None, store: Path) -> int | None:
    """Rows written online; None where the version's codes are not published. Without what is online: all of them."""
    bundles = {role: _bundle(registry, target, role) for role in ("vocabulary", "codebook", "codes")}
    repo = target.tags.get("feature_repo", "none")
    if repo == "none":
        return None
    online: dict[str, Any] = {}
    if online_version is not None:
        try:
            opened = {role: _bundle(registry, online_version, role) for role in ("vocabulary", "codes")}
        except BundleError as error:
            raise BundleError(
                error.problem,
                found=error.found,
                fix="put it back; or add --full, which writes all rows of the version that you name, and leaves the "
                "values online that only the version in service knows",
            ) from error
        online = {f"online_{role}": bundle.path for role, bundle in opened.items()}
    with TemporaryDirectory(prefix="mec-") as folder:
        publish_step(
            publish=PublishConfig(feature_repo=repo),
            store=store,
            **{role: bundle.path for role, bundle in bundles.items()},
            out=Path(folder, "publication"),
            **online,
            rollback=True,
        )
        publication = open_bundle(Path(folder, "publication"), "publication")
        return int(publication.json(PUBLICATION)["written_rows"])


def _bundle(registry: ModelRegistry, version: Version, role: str) -> Bundle:
    return tagged_bundle(version.tags, role, owner=f"{registry.name} version {version.number}")
