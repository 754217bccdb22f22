"""Figures of the studies, as files."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from mec.evaluation.figure_style import house_style, to_png

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure as ``path``.png and ``path``.svg, the same bytes for the same figure."""
    import matplotlib as mpl

    with house_style(), mpl.rc_context({"svg.hashsalt": "mec"}):
        path.with_suffix(".png").write_bytes(to_png(figure))
        stream = BytesIO()
        figure.savefig(stream, format="svg", metadata={"Date": None})
        path.with_suffix(".svg").write_bytes(stream.getvalue())
