"""Run the train pipeline on this machine: the pipeline object that compiles for a cluster, through ``kfp.local``.

A run has a directory:

    config.yaml    the settings, defaults and all        bundles/    a link to every artifact bundle
    summary.json   what came out                         report.html the same for people
    run.log        all that Kubeflow and the steps said  kfp/        Kubeflow's pipeline root and cache

With several backbones, bundles/ has a directory for each, and report.html compares them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from kfp import components, local
from rich.console import Console

from mec.bundle import code_hash
from mec.config import RunConfig
from mec.data.readers import open_source
from pipelines.compiling import PIPELINES, PLACEHOLDER_IMAGE, pipeline_name, pipeline_yaml
from pipelines.containers import Containers, image_id
from pipelines.parameters import refuse_what_is_not_here, refuse_wrong_backbone, resolve_paths, section_parameters
from pipelines.results import finish, finish_backbones
from pipelines.running import Job, Runner, RunResult, StepError, claim_directory, run_job, steps_at_hand
from pipelines.train import train

__all__ = ["RunResult", "Runner", "StepError", "run_train"]


def run_train(config: RunConfig, out: Path, runner: Runner = "subprocess", console: Console | None = None) -> RunResult:
    """Run the train pipeline, or the rest of it, in a run directory.

    Args:
        config: Settings; relative paths in it are taken from the working directory.
        out: The run's directory; one that holds an earlier run is gone on with.
        runner: ``subprocess``: each step a process of this Python; ``docker``: a container of ``config.image``.
        console: Where progress is shown; None: standard error.

    Raises:
        MecError: The input was found wrong before anything was written.
        StepError: A step failed.
    """
    config, out = resolve_paths(config), out.absolute()
    refuse_wrong_backbone(config)
    refuse_what_is_not_here(config, devices=runner == "subprocess")
    with steps_at_hand(runner):
        version = open_source(config.data, seed=config.seed).data_version
        code = image_id(config) if runner == "docker" else code_hash()
        claim_directory(out)
        containers = Containers(config, out, code) if runner == "docker" else None
        if containers is not None:
            pipeline, kfp_runner = containers.pipeline(pipeline_name(config)), containers.runner
        else:
            pipeline, kfp_runner = _one_branch_at_a_time(config), local.SubprocessRunner(use_venv=False)
        backbones = [train.model for train in config.train.each()] if config.train.several else []
        parameters = section_parameters(config) | {"data_version": version, "code_hash": code}
        finisher = finish_backbones if backbones else finish
        job = Job(pipeline, kfp_runner, parameters, finisher, backbones, containers=containers)
        return run_job(job, config, out, console, {"runner": runner})


def _one_branch_at_a_time(config: RunConfig) -> Callable[..., Any]:
    """The pipeline that the config asks for; branches would share this machine's cores, and mix their output."""
    pipeline: Callable[..., Any] = train
    if config.train.several:
        text = pipeline_yaml(PLACEHOLDER_IMAGE, PIPELINES[pipeline_name(config)], branches_at_once=1)
        pipeline = components.load_component_from_text(text)
    return pipeline
