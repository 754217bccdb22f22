"""Run the bake-off on this machine, through ``kfp.local``, in a directory like that of a train run.

    summary.json   the leaderboard and every cell      report.html    the same for people
    bundles/       links to the shared bundles, the leaderboard, and below cells/ each cell

Running again in the same directory trains only the cells that are not there yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kfp import components, local
from rich.console import Console

from mec.bakeoff.cells import cell_parameters
from mec.bundle import code_hash, open_bundle
from mec.config import RunConfig
from mec.data.readers import open_source
from pipelines.bakeoff import bakeoff
from pipelines.compiling import PLACEHOLDER_IMAGE, pipeline_yaml
from pipelines.containers import Containers, image_id
from pipelines.parameters import refuse_what_is_not_here, refuse_wrong_backbone, resolve_paths, section_parameters
from pipelines.results import link_bundles, places, step_facts, write_results
from pipelines.running import Job, Runner, RunResult, claim_directory, run_job, steps_at_hand

MADE_BY = {
    "counts": "count",
    "vocabulary": "vocabulary",
    "dataset": "encode",
    "pretrained": "pretrain",
    "leaderboard": "leaderboard",
}
_LONGEST_STEP = "bakeoff_cell"


def run_bakeoff(
    config: RunConfig, out: Path, runner: Runner = "subprocess", console: Console | None = None
) -> RunResult:
    """Run the bake-off, or the rest of it, in a run directory.

    Args:
        config: Settings; relative paths in it are taken from the working directory.
        out: The run's directory; one that holds an earlier bake-off is gone on with.
        runner: ``subprocess``: each step a process of this Python; ``docker``: a container of ``config.image``.
        console: Where progress is shown; None: standard error.

    Raises:
        MecError: The input was found wrong before anything was written.
        StepError: A step failed.
    """
    config, out = resolve_paths(config), out.absolute()
    cells = cell_parameters(config)
    refuse_wrong_backbone(config)
    nothing_published = config.publish.model_copy(update={"enabled": False})
    refuse_what_is_not_here(config.model_copy(update={"publish": nothing_published}), devices=runner == "subprocess")
    with steps_at_hand(runner):
        version = open_source(config.data, seed=config.seed).data_version
        code = image_id(config) if runner == "docker" else code_hash()
        claim_directory(out)
        containers = Containers(config, out, code) if runner == "docker" else None
        # one cell at a time: they would share this machine's cores, and mix their output
        text = pipeline_yaml(PLACEHOLDER_IMAGE, bakeoff, branches_at_once=1)
        known = bakeoff.component_spec.inputs or {}
        parameters = {name: value for name, value in section_parameters(config).items() if name in known}
        parameters |= {"cells": cells, "data_version": version, "code_hash": code}
        job = Job(
            containers.pipeline("bakeoff") if containers else components.load_component_from_text(text),
            containers.runner if containers else local.SubprocessRunner(use_venv=False),
            parameters,
            finish_bakeoff,
            width=len(_LONGEST_STEP),
            containers=containers,
        )
        return run_job(job, config, out, console, {"runner": runner})


def finish_bakeoff(
    outputs: Mapping[str, Any], reused: list[str], facts: Mapping[str, Any], out: Path
) -> tuple[dict[str, Any], Path]:
    """Leave the results of a bake-off in its directory.

    Args:
        outputs: Output of the pipeline -> bundle directory.
        reused: Steps whose earlier results were taken, a name for every cell.
        facts: As in ``pipelines.results.finish``.
        out: The run's directory.

    Returns:
        The summary: the leaderboard, see ``make_leaderboard``, with ``cells``; ``steps`` and ``bundles`` of what the
        cells share, ``cells_reused``, and the path of the report.
    """
    from mec.bakeoff.pages import leaderboard_page
    from mec.evaluation.report_tables import steps_table

    bundles = {name: open_bundle(path, verify=False) for name, path in outputs.items()}
    board = bundles["leaderboard"].json("leaderboard.json")
    cells = {name: Path(path) for name, path in board.pop("bundles").items()}
    summary = {
        **facts,
        **board,
        "cells_reused": reused.count(_LONGEST_STEP),
        "steps": step_facts(outputs, MADE_BY, reused),
        **places(bundles),
    }
    link_bundles(outputs, out / "bundles")
    link_bundles(cells, out / "bundles" / "cells")
    figure = bundles["leaderboard"].file("leaderboard.png").read_bytes()
    tables = [table for table in [steps_table(summary)] if table is not None]
    page = leaderboard_page(board, figure, name=str(facts["name"]), tables=tables, config=facts["config"])
    return summary, write_results(summary, page, out)
