"""What the caller of a fit may follow: progress while it runs, and facts for the diagnostics at its end."""

from __future__ import annotations

from collections.abc import Callable


def _nothing(share: float, text: str) -> None:
    """Follow no progress."""


class FitWatch:
    """Passed to a fit, which calls ``progress`` and fills ``facts``.

    Args:
        progress: Called with the share done, from 0 to 1, and one short line.
    """

    def __init__(self, progress: Callable[[float, str], None] = _nothing) -> None:
        self.progress = progress
        self.facts: dict[str, float] = {}
