"""``mec bakeoff``: run the bake-off here, and show a person the leaderboard and what it recommends."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mec.bakeoff.pages import num_of, training_seconds
from mec.cli_options import tell_without_effect
from mec.cli_run import CRASH, WRONG_INPUT, describe_failure
from mec.config import RunConfig
from mec.evaluation import formatting as fmt
from mec.evaluation.table import ABSENT
from pipelines.baking import run_bakeoff
from pipelines.running import Runner, StepError

_WIDTH = 110  # characters of the table


def bake_and_show(config: RunConfig, out: Path, runner: Runner, *, debug: bool) -> int:
    """Run the pipeline; results go to standard output, progress and errors to standard error.

    Args:
        config: Settings.
        out: The run's directory.
        runner: How steps run, see ``run_bakeoff``.
        debug: Show where a step failed even when it said what is wrong.

    Returns:
        Exit code: 0, or 2 when a step found the input wrong, or 1 when it crashed.
    """
    tell_without_effect(config, on_cluster=False)
    try:
        result = run_bakeoff(config, out, runner)
    except StepError as failure:
        print(describe_failure(failure, debug=debug), file=sys.stderr)
        return CRASH if failure.error is None else WRONG_INPUT
    summary, console = result.summary, Console()
    if not console.is_terminal:  # a file has no width that a row must fit
        console.width = max(console.width, _WIDTH)
    console.print(board_table(summary))
    for row in summary["rows"]:
        if row["reason"] is not None:
            text = f"{row['method']} at {row['budget']}: {row['status'].replace('_', ' ')}: {row['reason']}"
            console.print(text, markup=False, highlight=False, soft_wrap=True)
    for recommendation in summary["recommendations"]:
        text = f"within {recommendation['budget']}: {recommendation['why']}"
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    reused = f", {summary['cells_reused']} of them there before" if summary["cells_reused"] else ""
    console.print(f"{len(summary['cells'])} trainings{reused}; {fmt.seconds(summary['seconds'])}")
    console.print(f"report: {result.report}", markup=False, highlight=False, soft_wrap=True)
    return 0


def board_table(summary: Mapping[str, Any]) -> Table:
    """Every method and budget that was measured."""
    title = f"{summary['name']}: {summary['backbone']}, {num_of(summary['seeds'], 'seed')}, by validation AUC"
    table = Table(title=title, title_justify="left", title_style="bold")
    for head in ("budget", "method"):
        table.add_column(head, no_wrap=True)
    for head in ("valid AUC", "test AUC", "95 %", "to full", "logloss", "bytes", "training", "look-up"):
        table.add_column(head, justify="right", no_wrap=True)
    for row in summary["rows"]:
        if "auc" not in row:
            table.add_row(row["budget"], row["method"], row["status"].replace("_", " "), *[ABSENT] * 7)
            continue
        auc, change, seconds = row["auc"], row["auc_difference"], training_seconds(row)
        table.add_row(
            row["budget"],
            row["method"],
            fmt.metric(row["valid_auc"]["mean"]),
            fmt.metric(auc["mean"]),
            ABSENT if auc["low"] is None else f"± {auc['high'] - auc['mean']:.4f}",
            ABSENT if change is None else fmt.signed(change["mean"]),
            fmt.metric(row["logloss"]["mean"]),
            f"{fmt.human_bytes(row['num_bytes'])}{'' if row['within_budget'] else ' (over)'}",
            ABSENT if seconds is None else fmt.seconds(seconds),
            ABSENT if row["latency_ratio"] is None else f"{row['latency_ratio']:.1f}{fmt.TIMES}",
        )
    return table
