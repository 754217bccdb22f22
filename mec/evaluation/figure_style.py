"""How every figure looks: palette, fonts, labels, and the way to PNG."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any, cast

from mec.evaluation import formatting as fmt
from mec.evaluation.byte_accounting import PARTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart by colour-blind readers.
COMPRESSED, FULL = "#0072B2", "#D55E00"
PART_COLORS = {"codes": "#0072B2", "codebooks": "#56B4E9", "rows": "#009E73", "index": "#CC79A7", "other": "#8A8A8A"}
INK, GREY, FAINT = "#222222", "#6B6B6B", "#DDDDDD"

_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.dpi": 160,
}


def byte_unit(largest: float) -> tuple[float, str]:
    """Divisor and name of the binary unit for an axis that reaches ``largest`` bytes."""
    for power, unit in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
        if largest >= 1024**power:
            return float(1024**power), unit
    return 1.0, "bytes"


def short_name(name: str, length: int = 24) -> str:
    """A vocabulary's name, fit for a label."""
    # A dollar sign would start matplotlib's mathematics.
    name = name if len(name) <= length else name[: length - 1] + "…"
    return name.replace("$", r"\$")


def short_count(num: int) -> str:
    """A row count, fit for a label: 12,345 as 12k."""
    for power, suffix in ((9, "G"), (6, "M"), (3, "k")):
        if num >= 10 ** (power + 1):
            return f"{num / 10**power:.0f}{suffix}"
    return fmt.count(num)


def count_formatter() -> Any:
    """Axis formatter of row counts."""
    from matplotlib.ticker import FuncFormatter

    return FuncFormatter(lambda value, _: short_count(round(value)))


def swatch(color: str, label: str) -> Any:
    """Legend entry of a colour."""
    from matplotlib.patches import Patch

    return Patch(color=color, label=label)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, inches, without pyplot's global state."""
    from matplotlib.figure import Figure as NewFigure

    figure = NewFigure(figsize=(width, height))
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.07)
    return figure


def to_png(figure: Figure) -> bytes:
    """Render a figure, its title at the left edge."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set_canvas(FigureCanvasAgg(figure))
    title = figure.get_suptitle()
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    stream = BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def stack_parts(axes: Axes, y: str | int, parts: Mapping[str, int], scale: float, height: float) -> None:
    """One bar of bytes by part, ``scale`` bytes per unit of the axis."""
    left = 0.0
    for part in PARTS:
        if parts.get(part):
            axes.barh(y, parts[part] / scale, left=left, color=PART_COLORS[part], height=height)
            left += parts[part] / scale


@contextmanager
def house_style() -> Iterator[None]:
    """Settings of matplotlib while figures are drawn."""
    import matplotlib as mpl

    with mpl.rc_context(cast(Any, _STYLE)):
        yield
