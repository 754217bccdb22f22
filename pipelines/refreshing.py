"""Run the refresh pipeline on this machine, in a directory as ``mec run`` has it.

The version to refresh is looked up before anything is written, and named to the pipeline: a refresh that was killed
after it had moved the alias goes on with the version that it began with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kfp import local
from rich.console import Console

from mec.bundle import code_hash
from mec.config import DataConfig, RunConfig
from mec.data.readers import open_source
from mec.errors import DataError
from mec.publish.locking import publisher_lock, refresh_lock
from mec.refresh.arriving import new_rows
from mec.tracking.base_version import before_these_rows, has_learned
from mec.tracking.champion_step import require_champion
from mec.tracking.generations import PARENT_TAG, lineage
from mec.tracking.kept import tagged_places
from mec.tracking.registry import ModelRegistry, Version
from mec.tracking.runs import connected
from mec.tracking.training_rows import TrainingRows, learned_in_training, trained_on
from mec.tracking.waiting import Waiting, waiting_rows
from pipelines.containers import Containers, existing_place, image_id
from pipelines.parameters import (
    refresh_parameters,
    refuse_to_refresh,
    refuse_what_is_not_here,
    refuse_wrong_backbone,
    resolve_paths,
)
from pipelines.refresh import refresh
from pipelines.results_refresh import finish_refresh
from pipelines.running import Job, Runner, RunResult, claim_directory, run_job, steps_at_hand

SUMMARY = "summary.json"


@dataclass(frozen=True)
class NothingNew:
    """The champion has learned from these rows already; nothing was done."""

    model: str
    version: str
    data_version: str


def run_refresh(
    config: RunConfig,
    new: Sequence[Path],
    out: Path,
    runner: Runner = "subprocess",
    console: Console | None = None,
    *,
    with_waiting: bool = False,
) -> RunResult | NothingNew:
    """Refresh the champion with new rows, or finish doing so.

    Args:
        config: Settings of the train run; relative paths in it are taken from the working directory.
        new: Files, directories or patterns of the new rows, one or more.
        out: The run's directory; one that holds an unfinished refresh is gone on with.
        runner: ``subprocess``: each step a process of this Python; ``docker``: a container of ``config.image``.
        console: Where progress is shown; None: standard error.
        with_waiting: Whether to read the rows again that no version has learned from, as refreshes with them were not
            promoted; see ``mec.tracking.waiting``.

    Raises:
        MecError: The input was found wrong before anything was written, or another refresh of this model is going on.
        StepError: A step failed.
    """
    config, out = resolve_paths(config), out.absolute()
    refuse_to_refresh(config)
    refuse_wrong_backbone(config)
    refuse_what_is_not_here(config, devices=runner == "subprocess")
    paths = [str(path.absolute()) for path in new]
    code = image_id(config) if runner == "docker" else code_hash()
    model = config.tracking.model_name or config.name
    with (
        publisher_lock(refresh_lock(Path(config.store), model), wait_s=0, who=f"refresh or switch of {model}"),
        # the threads of these are allocators' and a cleaner of polars', whose pool starts in the step that uses it
        steps_at_hand(runner, "mlflow", "feast"),
    ):
        with connected(config.tracking, store=Path(config.store)) as server:
            registry = ModelRegistry(server, model, create=False)
            champion = require_champion(registry)
            rows = _Rows(config, paths, registry, with_waiting)
            base = _base(champion, rows, out)
            if base is None:
                return NothingNew(model, champion.number, rows.of(champion)[1])
            data, data_version = rows.of(base)
            reads = _bundle_places(registry, base)
            known = trained_on(lineage(registry, base)[-1], config.data).paths  # where rows seen before are looked for
            reads += [Path(path) for path in known if Path(path).exists()]
            if config.refresh.on_escalation == "train":
                training = TrainingRows(config.data, data, config.seed).section(registry, base, data_version)[0]
                reads += [existing_place(Path(path)) for path in training.paths]
        claim_directory(out)
        (out / SUMMARY).unlink(missing_ok=True)
        parameters = refresh_parameters(config, data, base.number) | {"data_version": data_version, "code_hash": code}
        reads += [existing_place(Path(path)) for path in data.paths]
        containers = Containers(config, out, code, reads) if runner == "docker" else None
        if containers is not None:
            pipeline, kfp_runner = containers.pipeline("refresh"), containers.runner
        else:
            pipeline, kfp_runner = refresh, local.SubprocessRunner(use_venv=False)
        job = Job(pipeline, kfp_runner, parameters, finish_refresh, width=18, containers=containers)
        return run_job(job, config, out, console, {"runner": runner, "refreshed_version": int(base.number)})


@dataclass(frozen=True)
class _Rows:
    """The rows that a version is refreshed with."""

    config: RunConfig
    paths: list[str]
    registry: ModelRegistry
    with_waiting: bool
    _found: dict[str, tuple[DataConfig, str]] = field(default_factory=dict)  # opening text files reads them once

    def of(self, version: Version) -> tuple[DataConfig, str]:
        """Their data section and their identity: of those that were named, and of those that wait for this version."""
        if version.number not in self._found:
            self._found[version.number] = self._open_for(version)
        return self._found[version.number]

    def known_to(self, version: Version) -> bool:
        """Whether the version has learned from them."""
        return has_learned(self.registry, version, self.of(version)[1])

    def _open_for(self, version: Version) -> tuple[DataConfig, str]:
        waiting = [w for w in waiting_rows(self.registry, version) if w.learned_by is None] if self.with_waiting else []
        paths = dict.fromkeys(self.paths)
        for rows in waiting:
            if not set(rows.paths) <= set(self.paths):
                _refuse_changed(self.config, rows)
                paths |= dict.fromkeys(rows.paths)
        return _open(self.config, list(paths))


def _open(config: RunConfig, paths: list[str]) -> tuple[DataConfig, str]:
    data = new_rows(config.data, paths[0] if len(paths) == 1 else tuple(paths), config.refresh)
    return data, open_source(data, seed=config.seed).data_version


def _refuse_changed(config: RunConfig, rows: Waiting) -> None:
    """Refuse places that hold other rows than when they were kept waiting.

    Raises:
        DataError: They do, or hold none.
    """
    where = ", ".join(rows.paths)
    fix = "put them back; or refresh without --with-waiting, and name all places of rows to learn from with --data"
    try:
        found = _open(config, list(rows.paths))[1]
    except DataError as error:
        raise DataError(f"the rows of {where} that wait since {rows.when} are gone", found=error, fix=fix) from error
    if found != rows.content:
        raise DataError(f"{where} holds other rows than those that wait since {rows.when}", found=found, fix=fix)


def _bundle_places(registry: ModelRegistry, base: Version) -> list[Path]:
    """Bundles of the version to refresh and of those before it, whose rows are replayed."""
    return [place for version in lineage(registry, base) for place in tagged_places(version.tags)]


def _base(champion: Version, rows: _Rows, out: Path) -> Version | None:
    """The version to refresh; None if these rows are known to the champion and nothing is unfinished."""
    if (out / "run.log").is_file() and not (out / SUMMARY).is_file():
        trains = rows.config.refresh.on_escalation == "train"
        for version in _earlier(rows.registry, champion, trains=trains):
            data_version = rows.of(version)[1]
            base = before_these_rows(rows.registry, champion, data_version, trains=trains)
            if base is not None and base.number == version.number:
                return version
    return None if rows.known_to(champion) else champion


def _earlier(registry: ModelRegistry, champion: Version, *, trains: bool) -> list[Version]:
    """What an unfinished refresh may have started from, whose outcome is in service already."""
    if PARENT_TAG in champion.tags:
        return [registry.version(champion.tags[PARENT_TAG])]
    calls = learned_in_training(registry, champion) if trains else []
    return [registry.version(number) for number in dict.fromkeys(rows.version for rows in calls)]
