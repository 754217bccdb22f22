"""The model registry: one version per scorer and codes, and the aliases challenger, champion and previous.

Every change of champion is a tag ``switch.NNNN`` of the version that came into service: the history of a model is in
the registry, whatever becomes of the runs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from mec.errors import TrackingError
from mec.tracking.runs import TrackedRun

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

CHAMPION = "champion"
CHALLENGER = "challenger"
PREVIOUS = "previous"
SCORER_TAG, CODES_TAG = "scorer", "codes"  # uuids of the two bundles: what makes registering idempotent
_SWITCH_TAG = "switch."


@dataclass(frozen=True)
class Version:
    """One registered version: its number, its tags, and when it was registered (ISO 8601, UTC)."""

    number: str
    tags: dict[str, str]
    registered: str = ""


@dataclass(frozen=True)
class Switch:
    """One change of champion.

    Attributes:
        number: 1 for the first of this model, one more for each.
        version: What came into service.
        replaced: What was in service before; None if nothing was.
        when: ISO 8601, UTC.
        run: MLflow run that decided it.
        why: One sentence.
    """

    number: int
    version: str
    replaced: str | None
    when: str
    run: str
    why: str


class ModelRegistry:
    """Versions and aliases of one registered model.

    Args:
        run: Open run; versions registered here name it as their source.
        name: Registered model.
        create: Make the model when it does not exist.

    Raises:
        TrackingError: There is no such model, and none is to be made; the known ones are listed.
    """

    def __init__(self, run: TrackedRun, name: str, *, create: bool = True) -> None:
        self.name = name
        self._run = run
        self._client = run.client
        if create:
            self._ensure_model()
        else:
            self._require_model()

    def aliases(self) -> dict[str, str]:
        """Alias -> version number, of the whole model."""
        found = self._client.get_registered_model(self.name).aliases
        return {alias: str(version) for alias, version in found.items()}

    def aliases_of(self, version: Version) -> list[str]:
        """Aliases of one version, sorted."""
        return sorted(alias for alias, number in self.aliases().items() if number == version.number)

    def champion(self) -> Version | None:
        """The version in service, if there is one."""
        number = self.aliases().get(CHAMPION)
        return None if number is None else self.version(number)

    def version(self, number: str) -> Version:
        """One version with its tags, as they are now."""
        return _version(self._client.get_model_version(self.name, number))

    def versions(self) -> list[Version]:
        """All versions, oldest first."""
        found: list[Version] = []
        token = None
        while True:
            page = self._client.search_model_versions(f"name = '{self.name}'", page_token=token)
            found += map(_version, page)
            token = page.token
            if not token:
                return sorted(found, key=lambda v: int(v.number))

    def find(self, scorer: str, codes: str) -> Version | None:
        """The version of a scorer and a codes bundle, by their uuids; the oldest if there are more."""
        wanted = f"name = '{self.name}' and tags.`{SCORER_TAG}` = '{scorer}' and tags.`{CODES_TAG}` = '{codes}'"
        found = self._client.search_model_versions(wanted)
        return min((_version(v) for v in found), key=lambda v: int(v.number), default=None)

    def switches(self) -> list[Switch]:
        """Every change of champion, oldest first."""
        texts = (text for v in self.versions() for name, text in v.tags.items() if name.startswith(_SWITCH_TAG))
        return sorted((Switch(**json.loads(text)) for text in texts), key=lambda s: s.number)

    def register(
        self, scorer: str, codes: str, save: Callable[[str], Path], tags: Mapping[str, str], *, challenger: bool
    ) -> Version:
        """Register a scorer with its codes, or find the version of both.

        Args:
            scorer: uuid of the scorer bundle.
            codes: uuid of the codes bundle: the same scorer on other codes is another version, with tags and a source
                of codes of its own.
            save: Takes the id of a new MLflow model and writes it to a directory in MLflow's format; not
                called when both are registered already.
            tags: Of the version.
            challenger: Whether it waits for the gate, with the alias challenger, unless it is the champion already.
        """
        version = self.find(scorer, codes)
        if version is None:
            version = self._create(save, {**tags, SCORER_TAG: scorer, CODES_TAG: codes})
        if challenger and self.aliases().get(CHAMPION) != version.number:
            self._client.set_registered_model_alias(self.name, CHALLENGER, version.number)
        return version

    def promote(self, version: Version, *, over: Version | None, why: str = "promoted by the gate") -> None:
        """Make a version the champion, and the champion the previous one.

        Args:
            version: Becomes champion; is challenger no more.
            over: The champion that it was compared with; None if there was none.
            why: For the history.

        Raises:
            TrackingError: The champion has changed since; nothing was changed.
        """
        now = self.aliases().get(CHAMPION)
        compared = None if over is None else over.number
        if now != compared:
            raise TrackingError(
                f"the champion of {self.name} changed while version {version.number} was compared with {compared}",
                found=f"version {now}",
                fix="run it again, so that it is compared with the champion of now",
            )
        if over is not None:
            self._client.set_registered_model_alias(self.name, PREVIOUS, over.number)
            self.tag(over, {"replaced_by": version.number, "replaced_by_run": self._run.run_id})
            self.tag(version, {"replaced": over.number})
        self._note_switch(version, compared, why)
        self._client.set_registered_model_alias(self.name, CHAMPION, version.number)
        self.settle(version)

    def settle(self, champion: Version) -> None:
        """Take the alias challenger from the champion."""
        if self.aliases().get(CHALLENGER) == champion.number:
            self._client.delete_registered_model_alias(self.name, CHALLENGER)

    def tag(self, version: Version, tags: Mapping[str, str]) -> None:
        """Set tags of a version."""
        for name, value in tags.items():
            self._client.set_model_version_tag(self.name, version.number, name, value)

    def download(self, version: Version, to: Path) -> Path:
        """Copy a version's files to a directory below ``to``; its path."""
        from mlflow.artifacts import download_artifacts

        uri = self._client.get_model_version_download_uri(self.name, version.number)
        server = self._run.uri
        return Path(download_artifacts(uri, dst_path=str(to), tracking_uri=server, registry_uri=server))

    def _create(self, save: Callable[[str], Path], tags: Mapping[str, str]) -> Version:
        from mlflow.entities import LoggedModelOutput, LoggedModelStatus

        model = self._client.create_logged_model(
            self._run.experiment_id, name="scorer", source_run_id=self._run.run_id, tags=dict(tags)
        )
        try:
            folder = save(model.model_id)
            self._client.log_model_artifacts(model.model_id, str(folder))
        except BaseException:
            self._client.finalize_logged_model(model.model_id, LoggedModelStatus.FAILED)
            raise
        self._client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        self._client.log_outputs(self._run.run_id, [LoggedModelOutput(model.model_id, step=0)])
        return _version(
            self._client.create_model_version(
                self.name,
                source=model.artifact_location,  # models:/… would be looked up at the global tracking address
                run_id=self._run.run_id,
                tags=dict(tags),
                model_id=model.model_id,
            )
        )

    def _note_switch(self, version: Version, replaced: str | None, why: str) -> None:
        """Add to the history before the alias moves; a repeated step finds what its earlier attempt added."""
        known = self.switches()
        last = known[-1] if known else None
        if last is not None and (last.version, last.replaced, last.run) == (version.number, replaced, self._run.run_id):
            return
        number = 1 if last is None else last.number + 1
        now = datetime.now(UTC).isoformat(timespec="seconds")
        switch = Switch(number, version.number, replaced, now, self._run.run_id, why)
        self.tag(version, {f"{_SWITCH_TAG}{number:04d}": json.dumps(asdict(switch))})

    def _require_model(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.get_registered_model(self.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            known = sorted(model.name for model in self._client.search_registered_models())
            raise TrackingError(
                f"MLflow at {self._run.uri} has no registered model {self.name!r}",
                found=", ".join(known) or "none at all",
                fix="name one of these, or another --store",
            ) from None

    def _ensure_model(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(self.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise


def _version(found: ModelVersion) -> Version:
    registered = datetime.fromtimestamp(found.creation_timestamp / 1000, UTC)
    return Version(str(found.version), dict(found.tags), registered.isoformat(timespec="seconds"))
