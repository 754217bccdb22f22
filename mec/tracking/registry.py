"""The model registry: one version per scorer, and the aliases challenger, champion and previous."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mec.errors import TrackingError
from mec.tracking.runs import TrackedRun

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

CHAMPION = "champion"
CHALLENGER = "challenger"
PREVIOUS = "previous"
SCORER_TAG = "scorer"  # uuid of the scorer bundle: what makes registering idempotent


@dataclass(frozen=True)
class Version:
    """One registered version: its number and its tags."""

    number: str
    tags: dict[str, str]


class ModelRegistry:
    """Versions and aliases of one registered model.

    Args:
        run: Open run; versions registered here name it as their source.
        name: Registered model; made when it does not exist.
    """

    def __init__(self, run: TrackedRun, name: str) -> None:
        self.name = name
        self._run = run
        self._client = run.client
        self._ensure_model()

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

    def find(self, scorer: str) -> Version | None:
        """The version that holds a scorer, by the scorer bundle's uuid; the oldest if there are more."""
        found = self._client.search_model_versions(f"name = '{self.name}' and tags.`{SCORER_TAG}` = '{scorer}'")
        return min((_version(v) for v in found), key=lambda v: int(v.number), default=None)

    def register(self, scorer: str, save: Callable[[str], Path], tags: Mapping[str, str]) -> Version:
        """Register a scorer, or find the version that holds it already, and call it challenger.

        Args:
            scorer: uuid of the scorer bundle.
            save: Takes the id of a new MLflow model and writes it to a directory in MLflow's format; not
                called when the scorer is registered already.
            tags: Of the version.

        Returns:
            The version; it has the alias challenger unless it is the champion.
        """
        version = self.find(scorer)
        if version is None:
            version = self._create(save, {**tags, SCORER_TAG: scorer})
        if self.aliases().get(CHAMPION) != version.number:
            self._client.set_registered_model_alias(self.name, CHALLENGER, version.number)
        return version

    def promote(self, version: Version, *, over: Version | None) -> None:
        """Make a version the champion, and the champion the previous one.

        Args:
            version: Becomes champion; is challenger no more.
            over: The champion that it was compared with; None if there was none.

        Raises:
            TrackingError: The champion has changed since; nothing was changed.
        """
        now = self.aliases().get(CHAMPION)
        compared = None if over is None else over.number
        if now != compared:
            raise TrackingError(
                f"the champion of {self.name} changed while version {version.number} was compared with {compared}",
                found=f"version {now}",
                fix="run the register step again, so that it is compared with the champion of now",
            )
        if over is not None:
            self._client.set_registered_model_alias(self.name, PREVIOUS, over.number)
            self.tag(over, {"replaced_by": version.number, "replaced_by_run": self._run.run_id})
            self.tag(version, {"replaced": over.number})
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

    def _ensure_model(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(self.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise


def _version(found: ModelVersion) -> Version:
    return Version(str(found.version), dict(found.tags))
