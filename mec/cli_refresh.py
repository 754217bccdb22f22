"""``mec refresh``: refresh the champion here, and show a person what was decided and why."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from mec.cli_run import CRASH, WRONG_INPUT, describe_failure, steps_table
from mec.config import RunConfig
from pipelines.refreshing import NothingNew, run_refresh
from pipelines.running import StepError

_MEANS = {
    "promote": "the new generation is in service",
    "keep": "the old generation stays in service; the new rows wait: add --with-waiting to the next refresh",
    "escalate": "the old generation stays in service: train a new model on what bundles/outcome/escalation.json names; "
    "with refresh.on_escalation=train that follows by itself",
}
_TRAINED = {
    True: "a new model was trained on all rows, and is in service",
    False: "the old generation stays in service; the gate kept a new model, trained on all rows, out",
}


def refresh_and_show(
    config: RunConfig,
    new: Sequence[Path],
    out: Path,
    runner: Literal["subprocess", "docker"],
    *,
    with_waiting: bool,
    debug: bool,
) -> int:
    """Run the pipeline; results go to standard output, progress and errors to standard error.

    Args:
        config: Settings.
        new: Files, directories or patterns of the new rows.
        out: The run's directory.
        runner: How steps run.
        with_waiting: Read those again that no version has learned from.
        debug: Show where a step failed even when it said what is wrong.

    Returns:
        Exit code: 0, or 2 when a step found the input wrong, or 1 when it crashed.
    """
    try:
        result = run_refresh(config, new, out, runner, with_waiting=with_waiting)
    except StepError as failure:
        print(describe_failure(failure, debug=debug), file=sys.stderr)
        return CRASH if failure.error is None else WRONG_INPUT
    if isinstance(result, NothingNew):
        print(f"nothing new: {result.model} version {result.version} has learned from these rows already")
        return 0
    console = Console()
    console.print(refresh_table(result.summary))
    console.print(steps_table(result.summary))
    lines = [f"  {reason}" for reason in result.summary["reasons"]] + [f"report: {result.report}"]
    if "trained" in result.summary:
        trained = result.summary["trained"]
        lines += [f"  {reason}" for reason in trained["decision"]["reasons"]]
        lines += [f"report of the training: {trained['report']}"]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return 0


def refresh_table(summary: dict[str, Any]) -> Table:
    """Stale codes beside refreshed ones, and what was decided."""
    decision = summary["decision"]
    table = Table(title=f"{summary['model']}: {decision}", title_justify="left", title_style="bold")
    table.add_column("held-out new rows")
    table.add_column("stale codes", justify="right")
    table.add_column("refreshed", justify="right")
    for label, key in (("AUC", "auc"), ("logloss", "logloss")):
        table.add_row(label, f"{summary[f'{key}_stale']:.4f}", f"{summary[f'{key}_refreshed']:.4f}")
    trained = summary.get("trained")
    table.add_row("decision", _MEANS[decision] if trained is None else _TRAINED[trained["decision"]["promote"]])
    if trained is not None:
        alias = "champion" if trained["decision"]["promote"] else "challenger"
        table.add_row("trained", f"v{trained['model_version']} ({alias}), AUC {trained['auc']:.4f} on its test rows")
    table.add_row("in service", f"v{summary['model_version']}, generation {summary['generation']}")
    table.add_row("online rows that differ", f"{summary['rows_rewritten']:,}")
    return table
