"""What a run shows and keeps of what its steps print."""

from __future__ import annotations

import errno
import io
import logging
import os

import pytest
from rich.console import Console

from mec.progress import Progress
from pipelines.running import _output_to
from pipelines.watching import Display, RunLog


class Watched:
    """A run log whose terminal is a string."""

    def __init__(self, path, *, terminal: bool = False) -> None:
        self.screen = io.StringIO()
        self.display = Display(Console(file=self.screen, force_terminal=terminal, width=120))
        self.log = RunLog(path, self.display)

    def started(self, step: str) -> None:
        self.log.write(f"08:00:00 - INFO - Executing task \x1b[96m'{step}'\x1b[0m\n")

    def kept(self) -> str:
        self.log.flush()
        return self.log.path.read_text(encoding="utf-8")


@pytest.fixture
def watched(tmp_path):
    watched = Watched(tmp_path / "run.log")
    yield watched
    watched.log.close()


def test_one_plain_line_per_finished_step_without_a_terminal(watched):
    watched.started("pretrain")
    watched.log.write("    [pretrain] 10% 1/10 epoch 1\n")
    watched.log.write("    [pretrain] done in 61.2 s, peak 812 MiB | 7 epochs\n")
    assert watched.screen.getvalue() == "pretrain   61.2 s, peak 812 MiB | 7 epochs\n"


def test_everything_is_kept_without_colours(watched):
    watched.started("count")
    watched.log.write("    [KFP Executor] Got executor_input: {}\n")
    assert watched.kept().endswith(
        "08:00:00 - INFO - Executing task 'count'\n    [KFP Executor] Got executor_input: {}\n"
    )
    assert watched.screen.getvalue() == ""


def test_lines_may_arrive_in_pieces(watched):
    for piece in ("    ", "[count] do", "ne in 1.0 s, peak 9 MiB | x", "\n"):
        watched.log.write(piece)
    assert watched.screen.getvalue() == "count      1.0 s, peak 9 MiB | x\n"


def test_a_full_disk_does_not_hide_what_a_line_says(watched, monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    watched.started("count")
    for name in ("write", "flush"):
        monkeypatch.setattr(watched.log._file, name, full)
    with pytest.raises(OSError, match="space"):
        watched.log.write("    [count] error: DiskFullError: no space\n")
    assert (watched.log.step, watched.log.error) == ("count", "DiskFullError: no space")
    with _output_to(watched.log):  # Kubeflow's records are dropped, without a traceback for each
        logging.getLogger("kfp").warning("x")
    assert capsys.readouterr().err == ""
    assert logging.raiseExceptions
    monkeypatch.undo()


def test_the_error_of_a_step_is_found(watched):
    watched.started("count")
    watched.log.write("    [count] error: DataError: a.csv line 3: 4 cells; found: x; fix: y\n")
    assert watched.log.error == "DataError: a.csv line 3: 4 cells; found: x; fix: y"


def test_an_error_of_several_lines_is_shown_as_such(watched):
    watched.log.write("    [count] error: ConfigError: bad settings: ⏎   a: b ⏎   c: d\n")
    assert watched.log.error == "ConfigError: bad settings:\n  a: b\n  c: d"


def test_an_error_raised_outside_a_step_frame_is_found(watched):
    watched.started("count")
    watched.log.write("    Traceback (most recent call last):\n    mec.errors.ConfigError: bad DataConfig parameter\n")
    assert watched.log.error == "ConfigError: bad DataConfig parameter"


def test_a_crash_has_no_error_but_last_lines(watched):
    watched.started("train")
    watched.log.write("    [KFP Executor] chatter\n    Traceback (most recent call last):\n    RuntimeError: boom\n")
    assert watched.log.error is None
    assert watched.log.tail() == ["Traceback (most recent call last):", "RuntimeError: boom"]


def test_the_next_step_starts_afresh(watched):
    watched.started("count")
    watched.log.write("    [count] error: DataError: x\n")
    watched.started("encode")
    assert (watched.log.step, watched.log.error, watched.log.tail()) == ("encode", None, [])


def test_reused_steps_are_told(watched):
    watched.log.write("Task count cache hit (key=1234); skipping execution.\n")
    assert watched.log.reused == ["count"]
    assert watched.screen.getvalue() == "count      reused from an earlier run\n"


def test_notes_are_shown(watched):
    watched.log.write("    [count] note: field 'a' has one value\n")
    assert watched.screen.getvalue() == "count      note: field 'a' has one value\n"


def test_text_in_brackets_is_no_markup(watched):
    watched.log.write("    [count] note: [bold]x[/bold] [/]\n")
    assert watched.screen.getvalue().endswith("note: [bold]x[/bold] [/]\n")


def test_bars_on_a_terminal(tmp_path):
    watched = Watched(tmp_path / "run.log", terminal=True)
    with watched.display:
        watched.started("train")
        watched.log.write("    [train] 45% 45/100 epoch 3/20 [x]\n")
        watched.display._bars.refresh()
        watched.log.write("    [train] done in 2.0 s, peak 9 MiB | fine\n")
    watched.log.close()
    assert " 45%" in watched.screen.getvalue()
    assert "epoch 3/20 [x]" in watched.screen.getvalue()
    assert "train      2.0 s, peak 9 MiB | fine" in watched.screen.getvalue()


def test_what_progress_prints_is_what_is_read(watched):
    stream = io.StringIO()
    Progress("encode", 4, stream=stream).set(4)
    watched.started("encode")
    seen = []
    watched.display.advanced = seen.append
    watched.log.write("    " + stream.getvalue())
    assert [(line.step, line.done, line.total) for line in seen] == [("encode", 4, 4)]
