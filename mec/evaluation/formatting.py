"""One way of writing each kind of number, in figures, the report and on the terminal."""

from __future__ import annotations

MINUS = "\N{MINUS SIGN}"
TIMES = "\N{MULTIPLICATION SIGN}"


def human_bytes(num_bytes: float) -> str:
    """Bytes in binary units with three significant digits, such as ``1.50 MiB``."""
    value, unit = float(num_bytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1000:
            break
        value, unit = value / 1024, larger
    if unit == "B":
        return f"{value:.0f} B"
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f} {unit}"


def metric(value: float) -> str:
    """An AUC or a logloss: four digits."""
    return f"{value:.4f}".replace("-", MINUS)


def signed(value: float, digits: int = 4) -> str:
    """A difference with its sign; one that rounds to nothing has none."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", MINUS)


def interval(low: float, high: float) -> str:
    """An interval of differences."""
    return f"{signed(low)} to {signed(high)}"


def count(value: float) -> str:
    """A whole number with thousands separators."""
    return f"{round(value):,}"


def percent(share: float) -> str:
    """A share in per cent, with one digit more below 10."""
    value = 100 * share
    return f"{value:.{1 if value >= 10 else 2}f} %"


def ratio(value: float) -> str:
    """How many times fewer, such as ``70x`` with a multiplication sign."""
    return f"{value:.{0 if value >= 20 else 1}f}{TIMES}"


def seconds(value: float) -> str:
    """A duration: seconds, or minutes and seconds."""
    if value < 100:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02d} s"
