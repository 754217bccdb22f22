"""What a local run shows while it goes on: everything in ``run.log``, progress on the terminal.

Kubeflow's local runner prints its own records and the output of the steps to standard output.
``RunLog`` takes that stream's place, keeps it, and reads the lines of ``mec.progress`` in it.
"""

from __future__ import annotations

import io
import re
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Column

from mec.progress import ProgressLine, parse

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_STARTED = re.compile(r"Executing task '([a-z_0-9-]+)'")
_REUSED = re.compile(r"Task ([a-z_0-9-]+) cache hit")
_RAISED = re.compile(r"^mec\.errors\.(\w+: .*)$")
_FAILED = re.compile(r"Task '[a-z_0-9-]+' finished with status FAILURE")
_NUMBER = re.compile(r"-\d+$")  # Kubeflow's, on the second task of a component
_TAIL_LINES = 25
BRANCH_STEPS = ("train", "reference", "evaluate", "register")  # once per backbone
MARKS = "keep_champion"  # what follows it in a refresh is the training that it called for


def branch_step(step: str, backbone: str) -> str:
    """What a backbone's own step is called in a run of several."""
    return f"{step} {backbone}"


def training_step(step: str) -> str:
    """What a step is called in the training that a refresh escalated to."""
    return f"training {step}"


class Display:
    """Shows the steps of a run on a terminal: bars while they go on, one line when they end."""

    def __init__(self, console: Console, width: int = 10) -> None:
        self._console = console
        self._width = width
        self._bars = Progress(
            TextColumn(f"{{task.description:<{width}}}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[text]}", table_column=Column(no_wrap=True, overflow="ellipsis")),
            refresh_per_second=4,
            console=console,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._bar: TaskID | None = None

    def __enter__(self) -> Display:
        if self._console.is_terminal:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._bars.stop()

    def started(self, step: str) -> None:
        self._drop_bar()
        if self._console.is_terminal:
            self._bar = self._bars.add_task(step, total=None, text="")

    def advanced(self, line: ProgressLine) -> None:
        if self._bar is not None:
            self._bars.update(self._bar, total=line.total, completed=line.done, text=escape(line.text))

    def ended(self, step: str, text: str) -> None:
        self._drop_bar()
        self.say(f"{step:<{self._width}} {text}")

    def noted(self, step: str, text: str) -> None:
        self.say(f"{step:<{self._width}} note: {text}")

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _drop_bar(self) -> None:
        if self._bar is not None:
            self._bars.remove_task(self._bar)
            self._bar = None


@dataclass(frozen=True)
class Failure:
    """A step that ended badly.

    step: its name, the backbone's with it in a run of several.
    error: what its error line said, if there was one.
    tail: the last lines that it printed.
    """

    step: str
    error: str | None
    tail: list[str]


class RunLog(io.TextIOBase):
    """A text stream that keeps every line in a file and follows the steps by what they print.

    Args:
        path: The file.
        display: What people see.
        backbones: Names of several backbones, in the order of their branches, one branch at a time; else empty.

    Attributes:
        step: The step that runs, or ran last; in a branch with the backbone's name, such as ``train pnn``, and in the
            training that a refresh escalated to as ``training train``.
        error: What its error line said, if there was one.
        reused: Steps whose earlier results were taken, named likewise.
        failure: The first step that failed: other branches go on after it.
    """

    def __init__(self, path: Path, display: Display, backbones: Sequence[str] = ()) -> None:
        self.path = path
        self._backbones = backbones
        self._begun: Counter[str] = Counter()
        self._marked = False
        self.failure: Failure | None = None
        self.step: str | None = None
        self.error: str | None = None
        self.reused: list[str] = []
        self._display = display
        self._file = path.open("a", encoding="utf-8")
        self._file.write(f"==== {datetime.now(UTC).isoformat(timespec='seconds')}\n")
        self._pending = ""
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self._pending = (self._pending + text).split("\n")
        for line in lines:
            self._take(_COLOUR.sub("", line))
        return len(text)

    def flush(self) -> None:
        if not self._file.closed:
            self._file.flush()

    def close(self) -> None:
        if not self._file.closed:
            self._take(self._pending)
            self._file.close()
        super().close()

    def tail(self) -> list[str]:
        """The last lines that the running step printed."""
        return list(self._tail)

    def _take(self, line: str) -> None:
        self._follow_line(line)
        self._file.write(line + "\n")  # last: a full disk must not hide what the line says

    def _follow_line(self, line: str) -> None:
        if started := _STARTED.search(line):
            self.step, self.error = self._name(started[1]), None
            self._tail.clear()
            self._display.started(self.step)
        elif reused := _REUSED.search(line):
            step = self._name(reused[1])
            self.reused.append(step)
            self._display.ended(step, "reused from an earlier run")
        elif _FAILED.search(line) and self.step is not None and self.failure is None:
            self.failure = Failure(self.step, self.error, self.tail())
            if self._backbones:
                self._display.ended(self.step, "failed")
        elif said := parse(line):
            self._follow(said)
        elif raised := _RAISED.match(line.strip()):
            self.error = self.error or raised[1]
        if line.startswith("    Traceback (most recent call last)"):
            self._tail.clear()
        if line.startswith("    ") and line.strip():
            self._tail.append(line[4:])

    def _name(self, step: str) -> str:
        """The step's name; every branch begins its first two steps, later ones only while nothing failed in it."""
        step = _NUMBER.sub("", step).replace("-", "_")
        if self._marked:
            return training_step(step)
        self._marked = step == MARKS
        if not self._backbones or step not in BRANCH_STEPS:
            return step
        if step in BRANCH_STEPS[:2]:
            self._begun[step] += 1
        backbone = self._backbones[max(self._begun.values()) - 1]
        return branch_step(step, backbone)

    def _follow(self, said: ProgressLine) -> None:
        step = self.step if self.step is not None and said.step in self.step.split() else said.step
        if said.event == "progress":
            self._display.advanced(said)
        elif said.event == "error":
            self.error = said.text.replace(" ⏎ ", "\n")
        elif said.event == "note":
            self._display.noted(step, said.text)
        else:
            self._display.ended(step, said.text)
