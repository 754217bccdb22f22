"""Schedules: runs that the cluster starts by itself, one YAML file each.

A file names a config, a pipeline and a cron expression; ``pipelines/schedules`` has examples. Parameters may hold
Kubeflow's macros, which are filled in when a run starts. ``pipelines.scheduling_changes`` brings a cluster in line.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, field_validator

from mec.config import load_config
from mec.config.base import Settings
from mec.config.loading import explain
from mec.errors import ConfigError
from pipelines.submitting import RunRequest, request_run

_FIELDS = {  # of a cron expression: least and largest number, names
    "second": (0, 59, ()),
    "minute": (0, 59, ()),
    "hour": (0, 23, ()),
    "day": (1, 31, ()),
    "month": (1, 12, ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")),
    "weekday": (0, 6, ("sun", "mon", "tue", "wed", "thu", "fri", "sat")),
}


class ScheduleConfig(Settings):
    """One schedule."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,126}$", description="of the recurring run")
    description: str = Field("", max_length=500, description="shown in the Kubeflow UI")
    config: str = Field(description="YAML of the run's settings, relative to the schedule's file")
    overrides: list[str] = Field(default_factory=list, description="KEY=VALUE changes to it, as with --set")
    profile: str | None = Field(None, description="cluster profile: cpu, gpu, spot, or a path relative to the file")
    pipeline: str = Field(description="train, refresh or another pipeline")
    cron: str = Field(description="second minute hour day month weekday, in UTC")
    data: str | None = Field(None, description="path of the new rows of a refresh; may hold macros")
    parameters: dict[str, Any] = Field(default_factory=dict, description="values of the pipeline's parameters")
    max_concurrency: int = Field(1, ge=1, le=10, description="runs of this schedule at the same time")
    catch_up: bool = Field(False, description="true: start missed runs, one after the other, after a pause")
    enabled: bool = Field(True, description="false: keep the schedule, but start no runs")
    experiment: str = Field("mec", min_length=1, description="Kubeflow experiment of the runs")

    @field_validator("cron")
    @classmethod
    def _six_fields(cls, cron: str) -> str:
        return check_cron(cron)


@dataclass(frozen=True)
class Schedule:
    """A schedule with the run that it starts."""

    settings: ScheduleConfig
    request: RunRequest


def load_schedules(directory: Path, image: str) -> list[Schedule]:
    """Read and check every ``*.yaml`` of a directory.

    Args:
        directory: Of the files.
        image: Container image of the steps, ``NAME@sha256:…``.

    Raises:
        ConfigError: No directory or no file in it, bad settings, two schedules of one name, or what ``request_run``
            refuses; the file is named.
    """
    files = sorted(directory.glob("*.yaml")) if directory.is_dir() else []
    if not files:
        raise ConfigError("no schedules", found=directory, fix="name a directory with one YAML file per schedule")
    schedules = [load_schedule(file, image) for file in files]
    _refuse_twice((file, schedule.settings.name) for file, schedule in zip(files, schedules, strict=True))
    return schedules


def load_schedule(file: Path, image: str) -> Schedule:
    """Read and check one schedule; see ``load_schedules``."""
    try:
        raw = yaml.safe_load(file.read_text(encoding="utf-8"))
        settings = ScheduleConfig.model_validate({} if raw is None else raw)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read the schedule {file}", found=error, fix="write it as UTF-8 YAML") from None
    except ValidationError as error:
        lines = "\n  ".join(explain(error, ScheduleConfig))
        raise ConfigError(f"{file} has bad settings:\n  {lines}") from None
    profile = settings.profile
    if profile is not None and profile.endswith((".yaml", ".yml")):
        profile = str(file.parent / profile)
    try:
        request = request_run(
            load_config(file.parent / settings.config, settings.overrides),
            image=image,
            profile=profile,
            pipeline=settings.pipeline,
            values=settings.parameters,
            data=settings.data,
            scheduled=True,
        )
    except ConfigError as error:
        raise ConfigError(f"{file}: {error.problem}", found=error.found, fix=error.fix) from None
    return Schedule(settings, request)


def check_cron(cron: str) -> str:
    """Check a cron expression of six fields, as Kubeflow reads it (robfig/cron, seconds first).

    Returns:
        It, with single spaces.

    Raises:
        ValueError: Another number of fields, or a field out of its range.
    """
    fields = cron.split()
    if len(fields) != len(_FIELDS):
        raise ValueError(f"cron has {len(fields)} fields, not the six of: {' '.join(_FIELDS)}; seconds come first")
    for text, (name, (least, most, names)) in zip(fields, _FIELDS.items(), strict=True):
        for part in text.split(","):
            if not _fits(part, name, least, most, names):
                raise ValueError(f"cron: {part!r} is no {name} of {least} to {most}; examples: *, 5, 1-5, */15, 1,15")
    return " ".join(fields)


def _fits(part: str, name: str, least: int, most: int, names: tuple[str, ...]) -> bool:
    span, slash, every = part.partition("/")
    if slash and not (every.isascii() and every.isdigit() and int(every) > 0):
        return False
    if span == "*" or (span == "?" and name in ("day", "weekday")):
        return True
    first, dash, last = span.partition("-")
    ends = [_number(end, least, names) for end in ((first, last) if dash else (first,))]
    numbers = [end for end in ends if end is not None and least <= end <= most]
    return len(numbers) == len(ends) and numbers == sorted(numbers)


def _number(text: str, least: int, names: tuple[str, ...]) -> int | None:
    if text.lower() in names:
        return names.index(text.lower()) + least
    return int(text) if text.isascii() and text.isdigit() else None


def _refuse_twice(named: Iterable[tuple[Path, str]]) -> None:
    seen: dict[str, Path] = {}
    for file, name in named:
        if name in seen:
            raise ConfigError("two schedules have the same name", found=f"{name} in {seen[name]} and {file}")
        seen[name] = file
