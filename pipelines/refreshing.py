"""Run the refresh pipeline on this machine, in a directory as ``mec run`` has it.

The version to refresh is looked up before anything is written, and named to the pipeline: a refresh that was killed
after it had moved the alias goes on with the version that it began with.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kfp import local
from rich.console import Console

from mec.bundle import code_hash
from mec.config import RunConfig
from mec.data.readers import open_source
from mec.publish.locking import publisher_lock
from mec.refresh.arriving import new_rows
from mec.tracking.champion_step import require_champion
from mec.tracking.generations import PARENT_TAG, REFRESHED_ON, knows_rows, lineage
from mec.tracking.kept import tagged_places
from mec.tracking.registry import ModelRegistry, Version
from mec.tracking.runs import connected
from mec.tracking.switching import refresh_lock
from pipelines.containers import Containers, image_id
from pipelines.parameters import (
    refresh_parameters,
    refuse_to_refresh,
    refuse_what_is_not_here,
    refuse_wrong_backbone,
    resolve_paths,
)
from pipelines.refresh import refresh
from pipelines.results import finish_refresh
from pipelines.running import Job, Runner, RunResult, claim_directory, run_job

SUMMARY = "summary.json"


@dataclass(frozen=True)
class NothingNew:
    """The champion has learned from these rows already; nothing was done."""

    model: str
    version: str
    data_version: str


def run_refresh(
    config: RunConfig, new: Path, out: Path, runner: Runner = "subprocess", console: Console | None = None
) -> RunResult | NothingNew:
    """Refresh the champion with new rows, or finish doing so.

    Args:
        config: Settings of the train run; relative paths in it are taken from the working directory.
        new: File or directory of the new rows.
        out: The run's directory; one that holds an unfinished refresh is gone on with.
        runner: ``subprocess``: each step a process of this Python; ``docker``: a container of ``config.image``.
        console: Where progress is shown; None: standard error.

    Raises:
        MecError: The input was found wrong before anything was written, or another refresh of this model is going on.
        StepError: A step failed.
    """
    config, out = resolve_paths(config), out.absolute()
    refuse_to_refresh(config)
    refuse_wrong_backbone(config)
    refuse_what_is_not_here(config, devices=runner == "subprocess")
    data = new_rows(config.data, str(new.absolute()), config.refresh)
    data_version = open_source(data, seed=config.seed).data_version
    code = image_id(config) if runner == "docker" else code_hash()
    model = config.tracking.model_name or config.name
    with publisher_lock(refresh_lock(Path(config.store), model), wait_s=0, who=f"refresh or switch of {model}"):
        with connected(config.tracking, store=Path(config.store)) as server:
            registry = ModelRegistry(server, model, create=False)
            champion = require_champion(registry)
            base = _base(registry, champion, data_version, out)
            reads = _bundle_places(registry, base) if base is not None else []
        if base is None:
            return NothingNew(model, champion.number, data_version)
        claim_directory(out)
        (out / SUMMARY).unlink(missing_ok=True)
        parameters = refresh_parameters(config, data, base) | {"data_version": data_version, "code_hash": code}
        containers = Containers(config, out, code, [new.absolute(), *reads]) if runner == "docker" else None
        if containers is not None:
            pipeline, kfp_runner = containers.pipeline("refresh"), containers.runner
        else:
            pipeline, kfp_runner = refresh, local.SubprocessRunner(use_venv=False)
        job = Job(pipeline, kfp_runner, parameters, finish_refresh, width=18, containers=containers)
        return run_job(job, config, out, console, {"runner": runner, "refreshed_version": int(base)})


def _bundle_places(registry: ModelRegistry, number: str) -> list[Path]:
    """Bundles of the version to refresh and of those before it, whose rows are replayed."""
    return [place for version in lineage(registry, registry.version(number)) for place in tagged_places(version.tags)]


def _base(registry: ModelRegistry, champion: Version, data_version: str, out: Path) -> str | None:
    """Number of the version to refresh; None if these rows are known to the champion and nothing is unfinished."""
    if not knows_rows(registry, champion, data_version):
        return champion.number
    killed = (out / "run.log").is_file() and not (out / SUMMARY).is_file()
    if killed and champion.tags.get(REFRESHED_ON) == data_version:
        return champion.tags[PARENT_TAG]
    return None
