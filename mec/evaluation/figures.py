"""Figures of an evaluation, each drawn from its numbers alone: ROC, calibration, bytes, popularity."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from mec.evaluation import compression_figures
from mec.evaluation import formatting as fmt
from mec.evaluation.byte_accounting import PART_NAMES, PARTS
from mec.evaluation.figure_style import (
    COMPRESSED,
    FULL,
    GREY,
    INK,
    PART_COLORS,
    byte_unit,
    count_formatter,
    house_style,
    new_figure,
    short_count,
    short_name,
    stack_parts,
    swatch,
    to_png,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Evaluation = dict[str, Any]

MAX_VOCABULARIES = 8  # bars; the smaller ones share one


def draw_figures(evaluation: Evaluation) -> dict[str, bytes]:
    """Draw every figure that the evaluation has the numbers for.

    Args:
        evaluation: What ``evaluation.json`` holds; without a reference only the model itself is drawn.

    Returns:
        Name (``roc``, ``calibration``, ``bytes``, ``popularity``, ``distortion``, ``budget``) -> PNG.
    """
    drawings = compression_figures.drawings(evaluation)
    if "roc" in evaluation:
        drawings["roc"] = _roc
    if "reliability" in evaluation:
        drawings["calibration"] = _calibration
    if "bytes_by_vocabulary" in evaluation:
        drawings["bytes"] = _bytes
    if any(row["auc"] is not None for row in evaluation.get("slices", ())):
        drawings["popularity"] = _popularity
    with house_style():
        return {name: to_png(draw(evaluation)) for name, draw in drawings.items()}


def _roc(evaluation: Evaluation) -> Figure:
    figure = new_figure(8.4, 4.2)
    curve, detail = figure.subplots(1, 2)
    curve.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":")
    curve.text(0.62, 0.57, "no skill", color=GREY, fontsize=8, rotation=45, rotation_mode="anchor", va="top")
    for prefix, color, line, label in (("", COMPRESSED, "-", "compressed"), ("full_", FULL, (0, (4, 2)), "full table")):
        if f"{prefix}roc" in evaluation:
            points, label = evaluation[f"{prefix}roc"], f"{label} {fmt.metric(evaluation[f'{prefix}auc'])}"
            curve.plot([p["fpr"] for p in points], [p["tpr"] for p in points], color=color, linestyle=line, label=label)
    curve.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(0, 1), ylim=(0, 1.005), aspect="equal")
    curve.set_title("ROC curve")
    curve.legend(title="AUC", loc="lower right", alignment="left")
    finding = _roc_gap(detail, evaluation) if "roc_difference" in evaluation else _gains(detail, evaluation)
    figure.suptitle(finding)
    return figure


def _roc_gap(axes: Axes, evaluation: Evaluation) -> str:
    x = np.array(evaluation["roc_difference"]["fpr"])
    y = 100 * np.array(evaluation["roc_difference"]["tpr_difference"])
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.fill_between(x, 0, y, where=(y >= 0).tolist(), interpolate=True, color=COMPRESSED, alpha=0.25, linewidth=0)
    axes.fill_between(x, 0, y, where=(y <= 0).tolist(), interpolate=True, color=FULL, alpha=0.25, linewidth=0)
    axes.plot(x, y, color=INK, linewidth=1)
    reach = 1.3 * max(float(np.abs(y).max()), 0.1)
    axes.set(xlabel="false positive rate", ylabel="difference (percentage points)", xlim=(0, 1), ylim=(-reach, reach))
    axes.set_title("True positive rate: compressed less full table")
    axes.text(0.98, 0.97, "compressed is better", color=COMPRESSED, transform=axes.transAxes, ha="right", va="top")
    axes.text(0.98, 0.03, "full table is better", color=FULL, transform=axes.transAxes, ha="right", va="bottom")
    change = evaluation["auc_difference"]
    return (
        f"AUC {fmt.signed(change['value'])} against the full table "
        f"(95 % interval {fmt.interval(change['low'], change['high'])})"
    )


def _gains(axes: Axes, evaluation: Evaluation) -> str:
    """Share of the positives among the rows of highest score, from the ROC curve."""
    fpr, tpr = (np.array([p[name] for p in evaluation["roc"]]) for name in ("fpr", "tpr"))
    share = evaluation["label_mean"] * tpr + (1 - evaluation["label_mean"]) * fpr
    at_tenth = 100 * float(np.interp(0.1, share, tpr))
    axes.plot([0, 100], [0, 100], color=GREY, linewidth=0.8, linestyle=":")
    axes.plot(100 * share, 100 * tpr, color=COMPRESSED)
    axes.plot([10, 10, 0], [0, at_tenth, at_tenth], color=GREY, linewidth=0.8)
    axes.plot([10], [at_tenth], "o", color=COMPRESSED, markersize=4.5)
    axes.set(xlabel="rows of highest score (%)", ylabel="label 1 among them (% of all)", xlim=(0, 100), ylim=(0, 100.5))
    axes.set(aspect="equal")
    axes.set_title("Gains")
    return f"AUC {fmt.metric(evaluation['auc'])}: the top 10 % of rows hold {at_tenth:.0f} % of label 1"


def _calibration(evaluation: Evaluation) -> Figure:
    figure = new_figure(8.4, 4.2)
    left, right = figure.subplots(1, 2)
    limit = 0.0
    for prefix, color, marker, face, label in (
        ("full_", FULL, "D", "white", "full table"),
        ("", COMPRESSED, "o", COMPRESSED, "compressed"),
    ):
        bins = evaluation.get(f"{prefix}reliability")
        if not bins:
            continue
        x, y = ([b[name] for b in bins] for name in ("prediction_mean", "label_mean"))
        low = [b["label_mean"] - b["label_low"] for b in bins]
        high = [b["label_high"] - b["label_mean"] for b in bins]
        left.errorbar(
            x, y, yerr=[low, high], fmt=marker, color=color, markerfacecolor=face, markersize=4.5,
            elinewidth=0.9, markeredgewidth=1, label=f"{label} {fmt.percent(evaluation[f'{prefix}calibration_error'])}",
        )  # fmt: skip
        limit = max(limit, *x, *(b["label_high"] for b in bins))
    limit = min(1.0, 1.04 * limit)
    left.plot([0, limit], [0, limit], color=GREY, linewidth=0.8, linestyle=":", zorder=1)
    left.set(xlabel="mean prediction, calibrated", ylabel="share of label 1", xlim=(0, limit), ylim=(0, limit))
    left.set_aspect("equal")
    left.set_title("Bins of equal row counts, 95 % intervals")
    handles, labels = left.get_legend_handles_labels()
    left.legend(handles[::-1], labels[::-1], loc="upper left", title="calibration error", alignment="left")
    histogram = evaluation["score_histogram"]
    edges = np.array(histogram["edges"])
    negatives, positives = np.array(histogram["negatives"]), np.array(histogram["positives"])
    right.stairs(negatives, edges, fill=True, color="#BBBBBB", label="label 0")
    right.stairs(negatives + positives, edges, baseline=negatives, fill=True, color=COMPRESSED, label="label 1")
    right.set(xlabel="prediction of the compressed model, calibrated", ylabel="test rows", xlim=(0, edges[-1]))
    right.set_title("Where the predictions lie")
    right.yaxis.set_major_formatter(count_formatter())
    right.legend(loc="best")
    figure.suptitle(f"Predictions are {100 * evaluation['calibration_error']:.2g} percentage points off on average")
    return figure


def _bytes(evaluation: Evaluation) -> Figure:
    rows = _largest(evaluation["bytes_by_vocabulary"])
    figure = new_figure(8.4, 2.9 + 0.33 * len(rows))
    top, bottom = figure.subplots(2, 1, height_ratios=[1.5, 1.1 + 0.36 * len(rows)])
    total = sum(evaluation["bytes"].values())
    scale, unit = byte_unit(evaluation["full_bytes"])
    top.barh(["full table", "compressed"], [evaluation["full_bytes"] / scale, 0], color=FULL, height=0.62)
    stack_parts(top, "compressed", evaluation["bytes"], scale, 0.62)
    for y, size in enumerate((evaluation["full_bytes"], total)):
        top.annotate(fmt.human_bytes(size), (size / scale, y), xytext=(5, 0), textcoords="offset points", va="center")
    top.set(xlim=(0, 1.16 * max(evaluation["full_bytes"], total) / scale), xlabel=unit)
    top.set_title("Embedding tables, codes and codebooks counted")
    top.invert_yaxis()
    scale, unit = byte_unit(max(sum(_parts(row).values()) for row in rows))
    widest = 0.0
    for y, row in enumerate(rows):
        size = sum(_parts(row).values())
        stack_parts(bottom, y, _parts(row), scale, 0.68)
        note = fmt.human_bytes(size)
        note += f"  ({fmt.ratio(row['full'] / size)} fewer)" if row["codes"] else "  (exact)"
        bottom.annotate(note, (size / scale, y), xytext=(5, 0), textcoords="offset points", va="center", fontsize=8)
        widest = max(widest, size / scale)
    bottom.set_yticks(range(len(rows)), [short_name(row["vocabulary"]) for row in rows])
    bottom.set(xlim=(0, 1.3 * widest), xlabel=f"{unit} (other scale than above)")
    bottom.set_title("Compressed bytes by vocabulary")
    bottom.invert_yaxis()
    sizes = {part: evaluation["bytes"][part] for part in PARTS if evaluation["bytes"].get(part)}
    handles = [swatch(PART_COLORS[part], f"{PART_NAMES[part]} {fmt.human_bytes(size)}") for part, size in sizes.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    for axes in (top, bottom):
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
    figure.suptitle(
        f"{fmt.ratio(evaluation['ratio'])} fewer bytes: "
        f"{fmt.human_bytes(evaluation['full_bytes'])} become {fmt.human_bytes(total)}"
    )
    return figure


def _popularity(evaluation: Evaluation) -> Figure:
    groups = [(by, list(rows)) for by, rows in groupby(evaluation["slices"], key=lambda row: row["by"])]
    paired = any(row.get("auc_difference") is not None for row in evaluation["slices"])
    figure = new_figure(max(4.8, 3.0 * len(groups) + 0.6), 5.6 if paired else 3.5)
    heights = [3, 2] if paired else [1]
    grid = figure.subplots(len(heights), len(groups), squeeze=False, sharey="row", sharex="col", height_ratios=heights)
    for column, (by, rows) in enumerate(groups):
        top = grid[0][column]
        if paired:
            _points(top, rows, "full_auc", FULL, "D", "full table", 0.13)
        _points(top, rows, "auc", COMPRESSED, "o", "compressed", -0.13 if paired else 0.0)
        for x, row in enumerate(rows):
            if row["auc"] is None:
                place = {"rotation": 90, "ha": "center", "va": "center", "transform": top.get_xaxis_transform()}
                top.text(x, 0.5, "one label only", color=GREY, **place)
        top.set_title(by if by.startswith("rarest") else f"by {short_name(by)}")
        top.set_xlim(-0.5, len(rows) - 0.5)
        if paired:
            bottom = grid[1][column]
            bottom.axhline(0, color=INK, linewidth=0.8)
            _points(bottom, rows, "auc_difference", COMPRESSED, "o", "", 0.0)
        last = grid[-1][column]
        last.set_xticks(range(len(rows)), [f"{row['name']}\n{short_count(row['rows'])}\nrows" for row in rows])
    for axes in grid.flat:
        axes.grid(axis="x", visible=False)
    grid[0][0].set_ylabel("test AUC, 95 % interval")
    if paired:
        grid[1][0].set_ylabel("difference in AUC,\npaired 95 % interval")
        handles, labels = grid[0][0].get_legend_handles_labels()
        figure.legend(handles[::-1], labels[::-1], loc="outside lower center", ncols=2)
    figure.suptitle(_popularity_finding(groups[0][1]))
    return figure


def _popularity_finding(rows: list[dict[str, Any]]) -> str:
    paired = [row for row in rows if row.get("auc_difference_low") is not None]
    if paired:
        better = [row for row in paired if row["auc_difference_low"] > 0]
        worse = [row for row in paired if row["auc_difference_high"] < 0]
        parts = [
            f"{word} on " + ", ".join(f"{row['name']} ({fmt.signed(row['auc_difference'])})" for row in found)
            for word, found in (("better", better), ("worse", worse))
            if found
        ]
        return "AUC against the full table: " + ("; ".join(parts) or "no slice differs beyond chance")
    known = [row for row in rows if row["auc"] is not None]
    if not known:
        return "AUC by popularity in training"
    best, worst = max(known, key=lambda row: row["auc"]), min(known, key=lambda row: row["auc"])
    if best is worst:
        return f"AUC {fmt.metric(best['auc'])} on {best['name']} rows"
    return f"AUC from {fmt.metric(worst['auc'])} on {worst['name']} to {fmt.metric(best['auc'])} on {best['name']} rows"


def _points(
    axes: Axes, rows: list[dict[str, Any]], key: str, color: str, marker: str, label: str, shift: float
) -> None:
    shown = [(x, row) for x, row in enumerate(rows) if row.get(key) is not None]
    y = [row[key] for _, row in shown]
    low = [v - (v if row[f"{key}_low"] is None else row[f"{key}_low"]) for v, (_, row) in zip(y, shown, strict=True)]
    high = [(v if row[f"{key}_high"] is None else row[f"{key}_high"]) - v for v, (_, row) in zip(y, shown, strict=True)]
    axes.errorbar(
        [x + shift for x, _ in shown], y, yerr=np.clip([low, high], 0, None), fmt=marker, color=color, label=label,
        markersize=5, markerfacecolor=color if marker == "o" else "white", elinewidth=1.1, capsize=2.5,
    )  # fmt: skip


def _largest(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The largest vocabularies, the others as one row."""
    rows = sorted(rows, key=lambda row: -sum(_parts(row).values()))
    if len(rows) <= MAX_VOCABULARIES:
        return rows
    rest = rows[MAX_VOCABULARIES - 1 :]
    merged = {key: sum(row[key] for row in rest) for key in ("full", "codes", "codebooks", "rows")}
    return [*rows[: MAX_VOCABULARIES - 1], {"vocabulary": f"{len(rest)} others", **merged}]


def _parts(row: dict[str, Any]) -> dict[str, int]:
    return {part: int(row.get(part, 0)) for part in PARTS}
