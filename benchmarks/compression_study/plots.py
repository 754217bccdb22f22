"""AUC and its difference to the reference, over the byte ratio."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from figures import save

from compression_study.summary import Row, ends
from mec.bakeoff.estimates import Estimate
from mec.evaluation import formatting as fmt
from mec.evaluation.figure_style import COMPRESSED, FULL, GREY, INK, house_style, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LINEAR = 0.01  # differences up to here are drawn to scale


class Curve(NamedTuple):
    """How one method is drawn; the colours are Okabe and Ito's."""

    label: str
    color: str
    marker: str
    floats: str = "as stored"


CURVES = {
    "ours": Curve("ours", COMPRESSED, "o"),
    "residual": Curve("residual, one shape", "#E69F00", "v"),
    "pq": Curve("plain PQ", "#CC79A7", "s"),
    "small_dim": Curve("smaller D, fp16", "#009E73", "^", "fp16"),
    "hashing": Curve("hashing, fp16", "#8A8A8A", "D", "fp16"),
}


def on_curve(row: Row, method: str) -> bool:
    """Whether a row is a point of a method's curve; full tables are drawn as rounded to fp16."""
    return row.variant.method == method and row.floats == CURVES[method].floats


def draw_plots(root: Path, name: str, rows: Sequence[Row]) -> list[str]:
    """Write each plot as PNG and SVG.

    Args:
        root: Directory.
        name: The table's.
        rows: What was measured.

    Returns:
        Names of the plots, without suffix.
    """
    drawings: dict[str, Callable[[str, Sequence[Row]], Figure]] = {"auc": _auc}
    if any(row.auc_difference is not None for row in rows):
        drawings["difference"] = _difference
    with house_style():
        for title, draw in drawings.items():
            figure = draw(name, rows)
            save(figure, root / title)
    return list(drawings)


def _auc(name: str, rows: Sequence[Row]) -> Figure:
    figure = new_figure(7.2, 4.8)
    axes = figure.subplots()
    reference = next((row.auc for row in rows if row.variant.method == "reference"), None)
    if reference is not None:
        axes.axhspan(*ends(reference), color=FULL, alpha=0.18, linewidth=0)
        axes.axhline(reference.mean, color=FULL, linewidth=1, linestyle=(0, (4, 2)), label="full tables, tuned")
    _curves(axes, rows, lambda row: row.auc)
    axes.set(ylabel="test AUC")
    _finish(axes, rows)
    _legend(figure, axes, num_columns=3)
    figure.suptitle(f"{name}: test AUC at equal bytes")
    return figure


def _difference(name: str, rows: Sequence[Row]) -> Figure:
    figure = new_figure(9.6, 4.2)
    area, loss = figure.subplots(1, 2)
    for axes in (area, loss):
        axes.axhline(0, color=FULL, linewidth=1, linestyle=(0, (4, 2)), label="full tables, tuned")
    _curves(area, rows, lambda row: row.auc_difference)
    _curves(loss, rows, lambda row: row.logloss_difference)
    area.set_title("Test AUC: up is better")
    loss.set_title("Test logloss: down is better")
    area.set(ylabel="paired difference to full tables")
    for axes in (area, loss):
        _finish(axes, rows)
        _stretch(axes)
    _legend(figure, area, num_columns=6)
    figure.suptitle(f"{name}: against the tuned full tables of the same seed")
    return figure


def _curves(axes: Axes, rows: Sequence[Row], value: Callable[[Row], Estimate | None]) -> None:
    for method, (label, color, marker, _) in CURVES.items():
        points = [(row.ratio, value(row)) for row in rows if on_curve(row, method)]
        found = sorted(((ratio, e) for ratio, e in points if e is not None), key=lambda point: point[0])
        if not found:
            continue
        ratios = [ratio for ratio, _ in found]
        lows, highs = [ends(e)[0] for _, e in found], [ends(e)[1] for _, e in found]
        axes.fill_between(ratios, lows, highs, color=color, alpha=0.18, linewidth=0)
        axes.plot(ratios, [e.mean for _, e in found], color=color, marker=marker, markersize=4.5, label=label)


def _finish(axes: Axes, rows: Sequence[Row]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    ratios = [row.ratio for row in rows if any(on_curve(row, method) for method in CURVES)] or [1.0]
    exponents = range(math.floor(math.log2(min(ratios)) + 0.01), math.ceil(math.log2(max(ratios)) - 0.01) + 1)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator([2.0**e for e in exponents]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))  # noqa: RUF001
    axes.set(xlabel="times fewer bytes than fp32 full tables")
    axes.tick_params(colors=GREY, labelcolor=INK)


def _stretch(axes: Axes) -> None:
    """Make room near zero, where codes are, and still show the methods that are far away."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    low, high = axes.get_ylim()
    sizes = [0.001 * digit * 10**power for power in range(3) for digit in (1, 2, 5)]
    sizes = [size for size in sizes if size >= (0.002 if max(-low, high) < 0.02 else 0.005)]
    axes.set_yscale("symlog", linthresh=_LINEAR, linscale=1.0)
    axes.yaxis.set_major_locator(FixedLocator([-size for size in reversed(sizes)] + [0.0, *sizes]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: fmt.signed(value, 3)))
    axes.set_ylim(1.2 * low, 1.2 * high)
    if max(-low, high) > _LINEAR:
        axes.text(
            1.0, 1.01, f"logarithmic beyond ±{_LINEAR:g}", color=GREY, fontsize=7.5, ha="right", va="bottom",
            transform=axes.transAxes,
        )  # fmt: skip


def _legend(figure: Figure, axes: Axes, num_columns: int) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=num_columns, fontsize=8.5)
