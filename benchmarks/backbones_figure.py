"""The figure of ``backbones.py table``: every backbone on full tables and on codes, a panel for each data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from backbones_cells import Cell
from backbones_report import load
from figures import save

from mec.bakeoff.estimates import estimate
from mec.evaluation.figure_style import COMPRESSED, FULL, house_style, new_figure

_LOOK = {"full": (FULL, "s", "full tables"), "codes": (COMPRESSED, "o", "codes")}


def draw_table(cells: Sequence[Cell], work: Path, path: Path) -> None:
    """Write the figure of what has been run as ``path``.png and ``path``.svg.

    Args:
        cells: Of all data sets.
        work: Directory of their facts.
        path: Without its ending.
    """
    groups = load(cells, work)
    datasets = [d for d in dict.fromkeys(c.config.name for c in cells) if any(key[0] == d for key in groups)]
    backbones = list(dict.fromkeys(c.backbone for c in cells))[::-1]
    if not datasets:
        return
    with house_style():
        figure = new_figure(3.6 * len(datasets) + 1.2, 1.5 + 0.3 * len(backbones))
        panels = figure.subplots(1, len(datasets), sharey=True, squeeze=False)[0]
        for axes, dataset in zip(panels, datasets, strict=True):
            for embedding, (color, marker, label) in _LOOK.items():
                for place, backbone in enumerate(backbones):
                    group = groups.get((dataset, "fm", backbone, embedding), {})
                    if group:
                        found = estimate([float(facts["auc"]) for facts in group.values()])
                        axes.errorbar(
                            found.mean, place + (0.13 if embedding == "codes" else -0.13), xerr=found.half, color=color,
                            marker=marker, markersize=4.5, linestyle="none", label=None if place else label,
                        )  # fmt: skip
            axes.set_title(dataset)
            axes.set(xlabel="test AUC", yticks=range(len(backbones)), ylim=(-0.6, len(backbones) - 0.4))
            axes.set_yticklabels(backbones)
        handles = dict(zip(*panels[0].get_legend_handles_labels()[::-1], strict=True))
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2)
    save(figure, path)
