"""Writes ``report.md``, ``summary.json`` and the figure of the cost study from the cells that are there."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from figures import save

from mec.bakeoff.estimates import estimate
from mec.bundle import write_json
from mec.evaluation import formatting as fmt
from pipelines.results import MADE_BY, REFRESH_MADE_BY
from refresh_study.cost import CostStudy
from refresh_study.files import read_cell
from refresh_study.plots import draw_seconds
from refresh_study.report import markdown_table, plain

Cells = list[dict[str, Any]]
# the same work under two names: one colour
_ALIKE = {
    "extend_vocabulary": "vocabulary",
    "refresh_pretrain": "pretrain",
    "recode": "quantize",
    "refresh_evaluate": "evaluate",
    "publish_generation": "publish",
    "promote_generation": "register",
}


def write_cost_report(study: CostStudy, seeds: Sequence[int]) -> str:
    """Write the reports into the study's directory; returns the Markdown page."""
    found = {history: [read_cell(study.cell(history, seed)) for seed in seeds] for history in study.histories}
    cells = {history: [c for c in some if c is not None] for history, some in found.items()}
    cells = {history: some for history, some in cells.items() if some}
    title = f"# Refresh, cost: {study.config.name}"
    if not cells:
        return f"{title}: nothing measured\n"
    page = [title, "", "Whole commands with every step in a process of its own, one at a time. Mean ± half the 95 %"]
    page += ["t-interval over seeds; processor seconds are of all processes.", "", *_commands(cells), ""]
    page += _steps(cells)
    bars = {}
    for some in cells.values():
        rows = fmt.count(some[0]["history_rows"])
        new = fmt.count(some[0]["new_rows"])
        bars[f"train, {rows} rows"] = _mean_steps(some, "run", "seconds")
        bars[f"refresh, {new} after {rows} rows"] = {
            _ALIKE.get(name, name): seconds for name, seconds in _mean_steps(some, "refresh", "seconds").items()
        }
    save(draw_seconds(f"{study.config.name}: seconds of the steps", bars), study.root / "cost")
    text = "\n".join([*page, "", "![cost](cost.png)", ""])
    write_json(study.root / "summary.json", {"data": study.config.name, "cells": cells})
    (study.root / "report.md").write_text(text, encoding="utf-8")
    return text


def _commands(cells: dict[str, Cells]) -> list[str]:
    heads = ["history", "training rows", "new rows", "seeds", "mec run, s", "its steps", "mec refresh, s", "its steps"]
    rows = []
    for history, some in cells.items():
        first = some[0]
        row = [history, fmt.count(first["history_rows"]), fmt.count(first["new_rows"]), str(len(some))]
        for command in ("run", "refresh"):
            row.append(plain(estimate([c[command]["wall_s"] for c in some]), 1))
            row.append(plain(estimate([_step_seconds(c[command]) for c in some]), 1))
        for seconds in (lambda c: c["wall_s"], _step_seconds, lambda c: c["processor_s"]):
            shares = [100 * seconds(c["refresh"]) / seconds(c["run"]) for c in some]
            row.append(f"{plain(estimate(shares), 1)} %")
        rows.append(row)
    note = [
        "Wall, steps, processor: seconds of the refresh in % of those of the train run; the target is 25 % at 20 % new",
        "rows. What a command takes beyond its steps is the starting of one process per step.",
    ]
    return [*markdown_table([*heads, "wall", "steps", "processor"], rows), "", *note]


def _step_seconds(command: dict[str, Any]) -> float:
    return float(sum(step["seconds"] for step in command["steps"].values()))


def _steps(cells: dict[str, Cells]) -> list[str]:
    """Seconds and peak memory of each step of a refresh, after each history."""
    means = {
        history: {key: _mean_steps(some, "refresh", key) for key in ("seconds", "peak_rss_bytes")}
        for history, some in cells.items()
    }
    heads = ["step of the refresh", *(f"{history}, s" for history in means)]
    two = [means[history] for history in ("short", "long") if history in means]
    heads += [f"{history}, MiB" for history in means] + (["long / short, s", "MiB"] if len(two) > 1 else [])
    first = next(iter(means.values()))
    rows = []
    for step in [*first["seconds"], "all"]:
        values = [[_total(m[key], key) if step == "all" else m[key][step] for m in means.values()] for key in first]
        seconds, peaks = values[0], [peak / 2**20 for peak in values[1]]
        row = [step, *(f"{s:.2f}" for s in seconds), *(f"{p:.0f}" for p in peaks)]
        if len(two) > 1:
            row += [f"{seconds[1] / max(seconds[0], 0.001):.2f}", f"{peaks[1] / peaks[0]:.2f}"]
        rows.append(row)
    return markdown_table(heads, rows)


def _total(steps: dict[str, float], key: str) -> float:
    return sum(steps.values()) if key == "seconds" else max(steps.values())


def _mean_steps(cells: Cells, command: str, key: str) -> dict[str, float]:
    order = list((REFRESH_MADE_BY if command == "refresh" else MADE_BY).values())
    steps = cells[0][command]["steps"]
    names = sorted(steps, key=lambda name: order.index(name) if name in order else len(order))
    return {name: statistics.mean(float(c[command]["steps"][name][key]) for c in cells) for name in names}
