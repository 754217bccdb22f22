"""The figures of the refresh benchmark."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from compression_study.summary import ends

from mec.bakeoff.estimates import Estimate
from mec.evaluation.figure_style import COMPRESSED, FULL, GREY, house_style, new_figure, swatch
from refresh_study.summary import Line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, as in the other figures
_COLORS = (COMPRESSED, "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#8A8A8A")
_MARKERS = ("o", "v", "s", "^", "D", "P")


def draw_variants(name: str, lines: Sequence[Line]) -> Figure:
    """Test AUC of every variant between stale codes and the full retrain."""
    with house_style():
        figure = new_figure(7.2, 1.6 + 0.26 * len(lines))
        axes = figure.subplots()
        most = max(lines, key=lambda line: line.num_seeds)
        _band(axes, most.stale, GREY, "stale codes")
        _band(axes, most.retrain, FULL, "full retrain")
        for place, line in enumerate(reversed(lines)):
            axes.errorbar(
                line.refreshed.mean, place, xerr=line.refreshed.half, color=COMPRESSED, marker="o", markersize=4.5,
                label="refreshed codes, same backbone" if place == 0 else None,
            )  # fmt: skip
        axes.set_yticks(range(len(lines)), [line.variant for line in reversed(lines)])
        axes.set(xlabel="test AUC", ylim=(-0.7, len(lines) - 0.3))
        _legend(figure, axes, 3)
        figure.suptitle(f"{name}: one refresh, the backbone untouched")
    return figure


def draw_series(name: str, lines: Sequence[Line]) -> Figure:
    """Test AUC, and the gap to a retrain, after each of several refreshes."""
    with house_style():
        figure = new_figure(9.6, 4.2)
        area, gap = figure.subplots(1, 2)
        variants = list(dict.fromkeys(line.variant for line in lines))
        own = {variant: [line for line in lines if line.variant == variant] for variant in variants}
        longest = max(own.values(), key=len)
        _curve(area, longest, lambda line: line.retrain, FULL, "full retrain")
        _curve(area, longest, lambda line: line.never, GREY, "never refreshed")
        for place, (variant, mine) in enumerate(own.items()):
            color, marker = _COLORS[place % len(_COLORS)], _MARKERS[place % len(_MARKERS)]
            _curve(area, mine, lambda line: line.refreshed, color, variant, marker)
            _curve(gap, mine, lambda line: line.gap, color, variant, marker)
        gap.axhline(0, color=FULL, linewidth=1, linestyle=(0, (4, 2)))
        area.set_title("Test AUC: up is better")
        gap.set_title("Full retrain minus refreshed: down is better")
        for axes in (area, gap):
            axes.set(xlabel="refresh", xticks=sorted({line.period for line in lines}))
        _legend(figure, area, 3)
        figure.suptitle(f"{name}: refreshes in a row, the backbone untouched")
    return figure


def draw_seconds(title: str, bars: Mapping[str, Mapping[str, float]]) -> Figure:
    """Seconds of each step as one stacked bar per run.

    Args:
        title: Of the figure.
        bars: Run -> step -> seconds; small steps are drawn together.
    """
    with house_style():
        figure = new_figure(8.4, 1.5 + 0.45 * len(bars))
        axes = figure.subplots()
        longest = max(sum(steps.values()) for steps in bars.values())
        large = [step for steps in bars.values() for step, seconds in steps.items() if seconds > 0.03 * longest]
        names = list(dict.fromkeys(large))
        for place, steps in enumerate(reversed([*bars.values()])):
            left = 0.0
            parts = [steps.get(name, 0.0) for name in names]
            for color, width in zip(
                [*_shades(len(names)), "#CFCFCF"], [*parts, sum(steps.values()) - sum(parts)], strict=True
            ):
                axes.barh(place, width, left=left, color=color, height=0.6, edgecolor="white", linewidth=0.5)
                left += width
        axes.set_yticks(range(len(bars)), list(bars)[::-1])
        axes.set(xlabel="wall seconds")
        handles = [
            swatch(c, n) for c, n in zip([*_shades(len(names)), "#CFCFCF"], [*names, "other steps"], strict=True)
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=8.5)
        figure.suptitle(title)
    return figure


def _shades(num: int) -> list[str]:
    palette = [*_COLORS, FULL, "#F0E442", "#332288", "#882255", "#44AA99"]
    return [palette[i % len(palette)] for i in range(num)]


def _band(axes: Axes, value: Estimate, color: str, label: str) -> None:
    axes.axvspan(*ends(value), color=color, alpha=0.18, linewidth=0)
    axes.axvline(value.mean, color=color, linewidth=1, linestyle=(0, (4, 2)), label=label)


def _curve(
    axes: Axes, lines: Sequence[Line], value: Callable[[Line], Estimate], color: str, label: str, marker: str = ""
) -> None:
    found = [value(line) for line in lines]
    periods = [line.period for line in lines]
    axes.fill_between(
        periods, [ends(e)[0] for e in found], [ends(e)[1] for e in found], color=color, alpha=0.15, linewidth=0
    )
    style = "-" if marker else (0, (4, 2))
    axes.plot(
        periods, [e.mean for e in found], color=color, marker=marker, markersize=4.5, linestyle=style, label=label
    )


def _legend(figure: Figure, axes: Axes, num_columns: int) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=num_columns, fontsize=8.5)
