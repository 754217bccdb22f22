"""The curve of AUC over bytes: a line for every method, a band for its interval over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mec.bakeoff.cells import REFERENCE
from mec.bakeoff.pages import num_of
from mec.evaluation.figure_style import FULL, GREY, INK, house_style, new_figure, to_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Auc = Mapping[str, Any]  # mean, and low and high of its interval or None

# Okabe and Ito's, without the full table's; with more methods colours come again, with other markers
_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#8A8A8A", "#222222")
_MARKERS = ("o", "s", "^", "D")
_MAX_BANDS = 6  # methods beyond which bands hide each other, and bars alone are drawn
_MIN_POINTS = 8  # fewer are easily told apart
_SQUEEZED = 0.3  # share of the vertical axis below which the better half is shown by itself
_MIN_SPAN = 4.0  # of the horizontal axis, largest over smallest


def draw_curve(board: Mapping[str, Any]) -> bytes:
    """Test AUC over how many times fewer bytes than the full tables, as PNG; what was not measured is left out.

    Where a few methods fall far behind, a second panel above shows the better half of all points by itself.

    Args:
        board: From ``make_leaderboard``.
    """
    points = _points(board)
    _, reference = points.pop(REFERENCE)[0] if REFERENCE in points else (None, None)
    aucs = [row["auc"] for row in board["rows"] if "auc" in row]
    better = better_half(aucs)
    with house_style():
        figure = new_figure(8.4, 5.2 if better is None else 8.6)
        *upper, axes = figure.subplots(1 if better is None else 2, sharex=True, squeeze=False)[:, 0]
        for each in (*upper, axes):
            _draw(each, points, reference)
        ratio_axis(axes, [ratio for found in points.values() for ratio, _ in found] or [1.0])
        _auc_axis(axes, aucs)
        for each in upper:
            each.set_ylim(better)
            each.set_title("The better half of all sizes and methods", color=GREY, fontsize=8)
        handles, labels = axes.get_legend_handles_labels()
        if handles:
            figure.legend(handles, labels, loc="outside lower center", ncols=6, fontsize=8.5)
        figure.suptitle(f"Test AUC at equal bytes, 95 % intervals over {num_of(board['seeds'], 'seed')}")
        return to_png(figure)


def _draw(axes: Axes, points: Mapping[str, list[tuple[float, Auc]]], reference: Auc | None) -> None:
    """Every method, and the full tables."""
    axes.set(ylabel="test AUC")
    if reference is not None:
        if reference["low"] is not None:
            axes.axhspan(reference["low"], reference["high"], color=FULL, alpha=0.18, linewidth=0)
        axes.axhline(reference["mean"], color=FULL, linewidth=1, linestyle=(0, (4, 2)), label="full tables")
    for index, (method, found) in enumerate(points.items()):
        color = _COLORS[index % len(_COLORS)]
        marker = _MARKERS[index // len(_COLORS) % len(_MARKERS)]
        ratios, means = [ratio for ratio, _ in found], [auc["mean"] for _, auc in found]
        if all(auc["low"] is not None for _, auc in found):
            lows, highs = [auc["low"] for _, auc in found], [auc["high"] for _, auc in found]
            if len(points) <= _MAX_BANDS:
                axes.fill_between(ratios, lows, highs, color=color, alpha=0.12, linewidth=0)
            half = [auc["mean"] - auc["low"] for _, auc in found]
            axes.errorbar(ratios, means, yerr=half, fmt="none", color=color, alpha=0.6)
        axes.plot(ratios, means, color=color, marker=marker, markersize=4.5, label=method.replace("$", r"\$"))


def better_half(aucs: Sequence[Auc]) -> tuple[float, float] | None:
    """The vertical axis of the better half of all points; None where it fills much of the whole one anyway."""
    means = [float(auc["mean"]) for auc in aucs]
    if len(means) < _MIN_POINTS:
        return None
    low, high = statistics.median(means), max(means)
    if high == low or high - low > _SQUEEZED * (high - min(means)):
        return None
    margin = 0.15 * (high - low)
    return low - margin, high + margin


def _points(board: Mapping[str, Any]) -> dict[str, list[tuple[float, Auc]]]:
    """Method -> (ratio, AUC) of each of its rows, by ratio, each size once; best methods first."""
    found: dict[str, dict[float, Auc]] = {}
    for row in board["rows"]:
        if "auc" in row:
            found.setdefault(row["method"], {}).setdefault(float(row["ratio"]), row["auc"])
    best = sorted(found, key=lambda method: -max(float(auc["mean"]) for auc in found[method].values()))
    return {method: sorted(found[method].items()) for method in best}


def _auc_axis(axes: Axes, aucs: Sequence[Auc]) -> None:
    """Keep the lines apart: one method with a wide interval would squeeze all others."""
    means = [float(auc["mean"]) for auc in aucs]
    lows = [float(auc["low"]) for auc in aucs if auc["low"] is not None]
    highs = [float(auc["high"]) for auc in aucs if auc["high"] is not None]
    if not lows or max(means) == min(means):
        return
    margin = 0.5 * (max(means) - min(means))
    low, high = max(min(lows), min(means) - margin), min(max(highs), max(means) + margin)
    axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    if low > min(lows) or high < max(highs):
        axes.set_title("Intervals that leave the frame are cut", color=GREY, fontsize=8)


def ratio_axis(axes: Axes, ratios: list[float]) -> None:
    """Powers of two, over all ratios; sizes that are near each other are drawn near each other."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    margin = max(1.1, math.sqrt(_MIN_SPAN / (max(ratios) / min(ratios))))
    low, high = min(ratios) / margin, max(ratios) * margin
    exponents = range(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1)
    axes.set_xscale("log", base=2)
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(FixedLocator([2.0**exponent for exponent in exponents]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))  # noqa: RUF001
    axes.set(xlabel="times fewer bytes than fp32 full tables")
    axes.tick_params(colors=GREY, labelcolor=INK)
