"""Figures on the compression itself: error by popularity, and how a byte budget was divided."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mec.evaluation import formatting as fmt
from mec.evaluation.byte_accounting import PART_NAMES, PARTS
from mec.evaluation.figure_style import FULL, GREY, INK, PART_COLORS, new_figure, short_name, stack_parts, swatch

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_VOCABULARIES = 8
SLICE_COLORS = {"head": "#0072B2", "torso": "#56B4E9", "tail": "#E69F00", "unseen": "#8A8A8A"}
_MARKERS = {"head": "o", "torso": "s", "tail": "D", "unseen": "x"}


def drawings(evaluation: dict[str, Any]) -> dict[str, Callable[[dict[str, Any]], Figure]]:
    """Figures that the evaluation has the numbers for: name -> what draws it."""
    found = evaluation.get("compression_diagnostics", {})
    result: dict[str, Callable[[dict[str, Any]], Figure]] = {}
    if any(_known_slices(facts) for facts in found.get("vocabularies", {}).values()):
        result["distortion"] = _distortion
    if found.get("allocation"):
        result["budget"] = _budget
    return result


def _distortion(evaluation: dict[str, Any]) -> Figure:
    vocabularies = evaluation["compression_diagnostics"]["vocabularies"]
    shown = sorted(vocabularies.items(), key=lambda item: (-item[1]["size"], item[0]))[:MAX_VOCABULARIES]
    figure = new_figure(8.4, 1.7 + 0.42 * len(shown))
    kept, left = figure.subplots(1, 2, sharey=True)
    parts_of = {name: _known_slices(facts) for name, facts in shown}
    everything: list[float] = []
    for y, (name, _) in enumerate(shown):
        parts = parts_of[name]
        total, start = sum(part["distortion"] for part in parts.values()), 0.0
        points = {slice_name: 100 * part["explained_variance"] for slice_name, part in parts.items()}
        everything += points.values()
        if points:
            kept.plot([min(points.values()), max(points.values())], [y, y], color=GREY, linewidth=0.8, zorder=1)
        for slice_name, x in points.items():
            kept.plot([x], [y], _MARKERS[slice_name], color=SLICE_COLORS[slice_name], markersize=6)
        for slice_name, part in parts.items():
            width = 100 * part["distortion"] / total if total > 0 else 0.0
            left.barh(y, width, left=start, color=SLICE_COLORS[slice_name], height=0.62)
            start += width
    margin = 0.06 * max(100 - min(everything), 1)
    kept.set(xlim=(min(everything) - margin, 100 + margin), xlabel="variance explained (%)")
    kept.set_title("What the codes keep")
    left.set(xlim=(0, 100), xlabel="share of the vocabulary's distortion (%)")
    left.set_title("Where the remaining error lies")
    _label_rows(kept, [name for name, _ in shown])
    for axes in (kept, left):
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
    present = [name for name in SLICE_COLORS if any(name in parts for parts in parts_of.values())]
    handles = [swatch(SLICE_COLORS[name], name) for name in present]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    figure.suptitle(_distortion_finding(list(parts_of.values())))
    return figure


def _known_slices(facts: dict[str, Any]) -> dict[str, Any]:
    """Slices that have some weight, the most popular first."""
    slices = facts.get("slices", {})
    return {n: slices[n] for n in SLICE_COLORS if n in slices and slices[n]["explained_variance"] is not None}


def _distortion_finding(vocabularies: list[dict[str, Any]]) -> str:
    """Variance explained in head and tail, all vocabularies together."""
    texts = []
    for name in ("head", "tail"):
        parts = [slices[name] for slices in vocabularies if name in slices]
        if parts:
            share = 1 - sum(part["distortion"] for part in parts) / sum(part["variance"] for part in parts)
            texts.append(f"{fmt.percent(share)} of the variance of {name} values".replace("-", fmt.MINUS))
    return "The codes keep " + " and ".join(texts) if texts else "Distortion by popularity"


def _budget(evaluation: dict[str, Any]) -> Figure:
    allocation = evaluation["compression_diagnostics"]["allocation"]
    budget = allocation["budget_bytes"]
    rows = _largest(allocation["vocabularies"])
    figure = new_figure(8.4, 1.7 + 0.36 * len(rows))
    spent, error = figure.subplots(1, 2, sharey=True)
    for y, (_, parts, share) in enumerate(rows):
        stack_parts(spent, y, parts, budget / 100, 0.66)
        error.barh(y, 100 * share, color=FULL, height=0.66)
        for axes, value in ((spent, 100 * sum(parts.values()) / budget), (error, 100 * share)):
            axes.annotate(
                f"{value:.2g} %" if value < 10 else f"{value:.0f} %",
                (value, y), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8, color=INK,
            )  # fmt: skip
    widest = max(sum(parts.values()) for _, parts, _ in rows) / budget
    spent.set(xlim=(0, 118 * widest), xlabel="share of the budget (%)")
    spent.set_title(f"Bytes, of {fmt.human_bytes(budget)}")
    error.set(xlim=(0, 118 * max(max(share for _, _, share in rows), 0.01)), xlabel="share of all distortion (%)")
    error.set_title("Error that is left")
    _label_rows(spent, [name for name, _, _ in rows])
    for axes in (spent, error):
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
    handles = [swatch(PART_COLORS[part], PART_NAMES[part]) for part in PARTS if allocation["parts"].get(part)]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    figure.suptitle(_budget_finding(allocation))
    return figure


def _budget_finding(allocation: dict[str, Any]) -> str:
    budget = allocation["budget_bytes"]
    name, share = max(allocation["vocabularies"].items(), key=lambda item: sum(item[1]["bytes"].values()))
    text = f"{100 * allocation['used_bytes'] / budget:.0f} % of the budget spent"
    if len(allocation["vocabularies"]) > 1:
        text += f", {100 * sum(share['bytes'].values()) / budget:.0f} % on {short_name(name)}"
    return text


def _largest(vocabularies: dict[str, Any]) -> list[tuple[str, dict[str, int], float]]:
    """Name, bytes by part and share of distortion of the vocabularies with most bytes, the others as one."""
    rows = [(name, dict(given["bytes"]), float(given["distortion_share"])) for name, given in vocabularies.items()]
    rows.sort(key=lambda row: (-sum(row[1].values()), row[0]))
    if len(rows) <= MAX_VOCABULARIES:
        return rows
    rest = rows[MAX_VOCABULARIES - 1 :]
    parts = {part: sum(row[1][part] for row in rest) for part in rest[0][1]}
    return [*rows[: MAX_VOCABULARIES - 1], (f"{len(rest)} others", parts, sum(row[2] for row in rest))]


def _label_rows(axes: Axes, names: list[str]) -> None:
    axes.set_yticks(range(len(names)), [short_name(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
