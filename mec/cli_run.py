"""``mec run``: run the train pipeline here, and show a person what came out or what went wrong."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from mec.config import RunConfig
from pipelines.local import run_train
from pipelines.results import all_steps
from pipelines.running import StepError

CRASH, WRONG_INPUT = 1, 2  # exit codes


def run_and_show(config: RunConfig, out: Path, runner: Literal["subprocess", "docker"], *, debug: bool) -> int:
    """Run the pipeline; results go to standard output, progress and errors to standard error.

    Args:
        config: Settings.
        out: The run's directory.
        runner: How steps run.
        debug: Show where a step failed even when it said what is wrong.

    Returns:
        Exit code: 0, or 2 when a step found the input wrong, or 1 when it crashed.
    """
    try:
        result = run_train(config, out, runner)
    except StepError as failure:
        print(describe_failure(failure, debug=debug), file=sys.stderr)
        return CRASH if failure.error is None else WRONG_INPUT
    console = Console()
    several = "models" in result.summary
    console.print(comparison_table(result.summary) if several else results_table(result.summary))
    console.print(steps_table(result.summary))
    console.print(f"report: {result.report}", markup=False, highlight=False, soft_wrap=True)
    return 0


def describe_failure(failure: StepError, *, debug: bool) -> str:
    """What to tell the person who started the run."""
    lines = []
    if failure.error is not None:
        lines.append(f"error in step {failure.step}: {failure.error}")
    else:
        lines.append(f"step {failure.step} crashed; the last lines it printed:")
    if failure.error is None or debug:
        lines += [f"  {line}" for line in failure.tail] or ["  (none: it may have been killed, for memory perhaps)"]
    lines.append(f"log: {failure.log}")
    return "\n".join(lines)


def results_table(summary: dict[str, Any]) -> Table:
    """The compressed model beside its full-table reference, if there is one."""
    table = Table(title=f"{summary['name']}: test split", title_justify="left", title_style="bold")
    table.add_column("")
    table.add_column("compressed", justify="right")
    reference = "full_auc" in summary
    if reference:
        table.add_column("full tables", justify="right")
    for label, key, form in (("AUC", "auc", ".4f"), ("logloss", "logloss", ".4f")):
        row = [label, format(summary[key], form)]
        table.add_row(*row, *([format(summary[f"full_{key}"], form)] if reference else []))
    embedding_bytes = sum(summary["bytes"].values())
    full_bytes = [_size(summary["full_bytes"])] if reference else []
    table.add_row("embedding bytes", f"{_size(embedding_bytes)} ({summary['ratio']:.1f}x smaller)", *full_bytes)
    if summary["published_rows"]:
        table.add_row("codes published", f"{summary['published_rows']:,} as {summary['feature_service']}")
    if summary["model"] is not None:
        promoted = summary["decision"]["promote"]
        table.add_row("registered", f"{summary['model']} v{summary['model_version']} ({_alias(promoted)})")
        if not promoted:
            table.add_row("not champion", "; ".join(summary["decision"]["reasons"]))
    return table


def comparison_table(summary: dict[str, Any]) -> Table:
    """Several backbones on the same codes, one line each."""
    compared, models = summary["comparison"]["models"], summary["models"]
    ratios = sorted({f"{model['ratio']:.1f}x" for model in models.values()})
    title = f"{summary['name']}: test split, the same codes ({' and '.join(ratios)} fewer bytes)"
    table = Table(title=title, title_justify="left", title_style="bold")
    reference = any("full_auc" in model for model in models.values())
    table.add_column("backbone")
    for head in ("AUC", "95 % interval", "logloss", *(["full AUC"] if reference else [])):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("registered")
    for name, model in models.items():
        interval = compared[name]["auc_interval"]
        cells = [format(model["auc"], ".4f"), f"{interval['low']:.4f}-{interval['high']:.4f}"]
        cells.append(format(model["logloss"], ".4f"))
        cells += [format(model["full_auc"], ".4f")] if reference else []
        registered = "no"
        if model["model"] is not None:
            registered = f"v{model['model_version']}, {_alias(model['decision']['promote'])}"
        table.add_row(name, *cells, registered)
    return table


def steps_table(summary: dict[str, Any]) -> Table:
    """Time and peak memory of every step."""
    table = Table(title=f"steps: {summary['seconds']:.1f} s in all", title_justify="left", title_style="bold")
    table.add_column("step")
    table.add_column("seconds", justify="right")
    table.add_column("peak memory", justify="right")
    for name, step in all_steps(summary).items():
        seconds = "reused" if step["reused"] else f"{step['seconds']:.1f}"
        table.add_row(name, seconds, _size(step["peak_rss_bytes"]))
    return table


def _alias(promoted: bool) -> str:
    return "champion" if promoted else "challenger"


def _size(num_bytes: int) -> str:
    size = float(num_bytes)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
