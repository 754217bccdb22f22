"""What a long step tells the person who waits for it.

A step may run in this process, in a subprocess, in a container or on a cluster, so progress is
plain lines on standard output, readable in a pod's log and parsed by ``mec run`` into bars:

    [pretrain] 45% 120/267 epoch 3/20 | valid AUC 0.8123
    [pretrain] done in 61.2 s, peak 812 MiB | 7 epochs, valid AUC 0.8123
    [pretrain] error: data/x.parquet: column 'label' is missing; fix: …
"""

from __future__ import annotations

import re
import sys
import time
from dataclasses import dataclass
from typing import TextIO

_LINE = re.compile(
    r"^\[(?P<step>[a-z_]+)\] "
    r"(?:(?P<percent>\d+)% (?P<done>\d+)/(?P<total>\d+)(?: (?P<text>.*))?"
    r"|(?P<event>done|error|note)(?::| in )(?P<rest>.*))$"
)


class Progress:
    """Prints at most one line every ``interval_s`` seconds, and the last one always; nothing unless ``shown``."""

    def __init__(
        self, step: str, total: int, *, interval_s: float = 1.0, stream: TextIO | None = None, shown: bool = True
    ) -> None:
        self.step = step
        self._shown = shown
        self.total = max(int(total), 1)
        self.done = 0
        self._interval_s = interval_s
        self._stream = stream
        self._last_s = 0.0

    def update(self, num: int = 1, text: str = "") -> None:
        """Count ``num`` more units done."""
        self.set(self.done + num, text)

    def set(self, done: int, text: str = "") -> None:
        """Set the units done."""
        self.done = min(int(done), self.total)
        now = time.monotonic()
        if not self._shown or (self.done < self.total and now - self._last_s < self._interval_s):
            return
        self._last_s = now
        percent = 100 * self.done // self.total
        print(f"[{self.step}] {percent}% {self.done}/{self.total} {text}", file=self._stream or sys.stdout, flush=True)


@dataclass(frozen=True)
class ProgressLine:
    """One parsed line; ``event`` is progress, done, error or note."""

    step: str
    event: str
    done: int
    total: int
    text: str


def note(step: str, text: str) -> None:
    """Print one line that a person should see, such as a warning."""
    print(f"[{step}] note: {' '.join(text.split())}", flush=True)


def parse(line: str) -> ProgressLine | None:
    """Read a line printed by a step; None if it is anything else."""
    match = _LINE.match(line.strip())
    if match is None:
        return None
    if match["event"]:
        return ProgressLine(match["step"], match["event"], 0, 0, match["rest"].strip())
    return ProgressLine(match["step"], "progress", int(match["done"]), int(match["total"]), match["text"] or "")
