"""Directories and JSON files that are there as a whole or not at all, so that a killed run goes on where it was."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from mec.bundle import read_json, write_json

MADE = "made.json"


def complete(directory: Path, make: Callable[[Path], None]) -> None:
    """Make a directory aside and rename it, unless it is there.

    Args:
        directory: What is wanted; ``made.json`` in it says how many processor and wall seconds it took.
        make: Fills the empty directory that it is given.
    """
    if directory.exists():
        return
    draft = directory.with_name(directory.name + ".part")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    start, used = time.monotonic(), time.process_time()
    make(draft)
    write_json(draft / MADE, {"processor_s": time.process_time() - used, "wall_s": time.monotonic() - start})
    draft.rename(directory)


def read_cell(file: Path) -> dict[str, Any] | None:
    """Facts of a cell that has run; else None."""
    return read_json(file) if file.exists() else None


def write_cell(file: Path, facts: dict[str, Any]) -> None:
    """Write a cell's facts."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(".part")
    write_json(draft, facts)
    draft.replace(file)


def seconds(directories: Iterable[Path]) -> dict[str, float]:
    """Processor and wall seconds that some directories took, added up."""
    made = [read_json(directory / MADE) for directory in directories]
    return {unit: sum(float(facts[unit]) for facts in made) for unit in ("processor_s", "wall_s")}
