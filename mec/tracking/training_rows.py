"""The rows of a training that a refresh calls for: those in service, those that wait, and the new ones.

The trained version's tag ``trained_on`` says where its rows were and how they were split, each refreshed version's tags
where its new rows were, and tags ``waiting.…`` where those are that no version has learned from.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from mec.config import DataConfig
from mec.data.readers import open_source
from mec.errors import ConfigError, DataError
from mec.tracking.generations import lineage
from mec.tracking.registry import ModelRegistry, Version
from mec.tracking.waiting import READ_TAG, Waiting, all_waiting, waiting_rows

TRAINED_ON = "trained_on"  # of a version: path and split of its data section, as JSON
_OR_BY_HAND = "or set refresh.on_escalation=mark, and train on what there is with `mec run`"


def trained_on_tag(data: DataConfig) -> dict[str, str]:
    """The tag of a trained version by which ``trained_on`` knows its rows."""
    return {TRAINED_ON: json.dumps(data.model_dump(mode="json", include={"path", "split"}))}


def trained_on(version: Version, data: DataConfig) -> DataConfig:
    """The data section of the rows that a version was trained on.

    Args:
        version: One that was trained, not refreshed.
        data: Of the config; taken as it is where the version was registered before such tags were.
    """
    known = json.loads(version.tags.get(TRAINED_ON, "{}"))
    if known.get("path") is None:
        return data
    return DataConfig.model_validate(data.model_dump() | known | {"synthetic": None})


def learned_in_training(registry: ModelRegistry, version: Version) -> list[Waiting]:
    """What refreshes left behind whose rows the training had that a version goes back to."""
    trained = lineage(registry, version)[-1]
    path = json.loads(trained.tags.get(TRAINED_ON, "{}")).get("path")
    places = {path} if isinstance(path, str) else set(path or ())
    return [rows for rows in all_waiting(registry) if set(rows.paths) <= places and trained.registered >= rows.when]


def called_for(registry: ModelRegistry, version: Version, data_version: str) -> Waiting | None:
    """What a refresh with these rows left behind before the training that a version goes back to had them; or None.

    Args:
        registry: Of the model.
        version: Whoever may have learned from the rows.
        data_version: Of the refresh's new rows, as whoever started it named them.
    """
    return next((rows for rows in learned_in_training(registry, version) if rows.data_version == data_version), None)


@dataclass(frozen=True)
class _Period:
    """Rows that came together: whose they are, where they are, and their identity."""

    whose: str
    paths: tuple[str, ...]
    content: str


@dataclass(frozen=True)
class TrainingRows:
    """The rows that a training in place of a refresh would learn from.

    Attributes:
        data: Of the config of the train run.
        new: Data section of the new rows.
        seed: Of the random split.
    """

    data: DataConfig
    new: DataConfig
    seed: int

    def paths(self, registry: ModelRegistry, version: Version, data_version: str) -> tuple[str, ...]:
        """Places of the train run's rows, of each refresh since, of rows that wait, and of the new ones; none twice.

        Args:
            registry: Of the model.
            version: The one that is refreshed.
            data_version: Of the new rows, as whoever started the refresh named them.
        """
        earlier = self._earlier(registry, version, data_version)
        return tuple(dict.fromkeys([*(path for period in earlier for path in period.paths), *self.new.paths]))

    def section(self, registry: ModelRegistry, version: Version, data_version: str) -> tuple[DataConfig, str]:
        """Their data section, split as the new rows are, and their identity.

        Of Parquet file footers are read; text is read whole, once for itself and once with all other rows.

        Args:
            registry: Of the model.
            version: The one that is refreshed.
            data_version: Of the new rows, as whoever started the refresh named them.

        Raises:
            ConfigError: Old rows would belong to no split.
            DataError: Rows are gone, have changed since they were learned from or began to wait, or cannot be read
                together.
        """
        self._refuse_split(trained_on(lineage(registry, version)[-1], self.data))
        for period in self._earlier(registry, version, data_version):
            self._refuse_changed(period)
        paths = self.paths(registry, version, data_version)
        section = self._at(paths)
        return section, open_source(section, seed=self.seed).data_version

    def _earlier(self, registry: ModelRegistry, version: Version, data_version: str) -> list[_Period]:
        *refreshed, trained = lineage(registry, version)
        found = [
            _Period(
                f"the train run of version {trained.number}",
                trained_on(trained, self.data).paths,
                trained.tags.get("data_version", ""),
            )
        ]
        for one in reversed(refreshed):
            paths = tuple(json.loads(one.tags.get(READ_TAG, "[]")))
            found.append(_Period(f"the refresh to version {one.number}", paths, one.tags.get("data_version", "")))
        for rows in waiting_rows(registry, version):
            if rows.learned_by is None and rows.data_version != data_version:
                found.append(_Period(f"a refresh of {rows.when} that wait", rows.paths, rows.content))
        return found

    def _at(self, paths: tuple[str, ...]) -> DataConfig:
        return self.new.model_copy(update={"path": paths[0] if len(paths) == 1 else paths})

    def _refuse_split(self, trained: DataConfig) -> None:
        if self.new.split.kind == "column" and self.new.split != trained.split:
            raise ConfigError(
                "new rows are split by a column, and old ones another way: a training on both leaves rows in no split",
                found=f"refresh.split {self.new.split.model_dump(exclude_defaults=True)}",
                fix=f"split both by one column, or new rows at random or by time; {_OR_BY_HAND}",
            )

    def _refuse_changed(self, period: _Period) -> None:
        whose = f"the rows of {period.whose}"
        if not period.paths:
            raise DataError(
                f"{whose} are needed in case of a training, and are in no file that is known",
                found="generated rows, or a version that does not say where its rows were",
                fix=f"train on files; {_OR_BY_HAND}",
            )
        where, fix = ", ".join(period.paths), f"put them back; {_OR_BY_HAND}"
        try:
            content = open_source(self._at(period.paths), seed=self.seed).data_version
        except DataError as error:
            raise DataError(f"{whose} are needed in case of a training: {where}", found=error, fix=fix) from error
        if content != period.content:
            raise DataError(f"{whose} have changed: {where} holds others", found=content, fix=fix)
