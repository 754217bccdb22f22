"""Progress lines and step records."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mec.errors import DataError
from mec.progress import Progress, note, parse
from mec.steps import STEP_FILE, step


def test_progress_lines_are_limited_and_parse(capsys: pytest.CaptureFixture[str]) -> None:
    bar = Progress("pretrain", 100, interval_s=3600)
    for _ in range(100):
        bar.update(text="epoch 1 | AUC 0.8")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 2
    parsed = parse(lines[-1])
    assert parsed is not None
    assert (parsed.step, parsed.event, parsed.done, parsed.total, parsed.text) == (
        "pretrain",
        "progress",
        100,
        100,
        "epoch 1 | AUC 0.8",
    )


def test_a_step_records_time_and_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with step("count", tmp_path) as record:
        record.summary = "10 rows"
    facts = json.loads((tmp_path / STEP_FILE).read_text())
    assert facts["name"] == "count"
    assert facts["peak_rss_bytes"] > 1 << 20
    line = parse(capsys.readouterr().out)
    assert line is not None
    assert line.event == "done"
    assert "10 rows" in line.text


def test_user_errors_become_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError) as caught, step("count", tmp_path):
        raise DataError("x.csv: line 3 is ragged", found="2 columns", fix="give every line\n3 columns")
    assert caught.value.__cause__ is None
    line = parse(capsys.readouterr().out)
    assert line is not None
    assert line.event == "error"
    assert "x.csv: line 3 is ragged; found: 2 columns" in line.text
    assert not (tmp_path / STEP_FILE).exists()


def test_notes_and_other_lines(capsys: pytest.CaptureFixture[str]) -> None:
    note("count", "two\nlines")
    line = parse(capsys.readouterr().out)
    assert line is not None
    assert (line.event, line.text) == ("note", "two lines")
    assert parse("[KFP] anything else") is None
