"""The frame around every pipeline step: time, peak memory, and errors a runner can read."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mec.bundle import write_json
from mec.errors import MecError
from mec.full_disk import full_disk

STEP_FILE = "step.json"


@dataclass
class StepRecord:
    """What a step says at its end; set ``summary`` to one short line."""

    name: str
    summary: str = ""


@contextmanager
def step(name: str, out: Path) -> Iterator[StepRecord]:
    """Run a step body: print its one line, and write ``step.json`` beside the bundle it made.

    ``step.json`` holds ``name``, ``seconds`` (wall), ``peak_rss_bytes`` (of this process so far)
    and ``summary``; it is no part of the bundle's identity. Errors are those of ``reported_errors``.
    """
    record = StepRecord(name)
    start = time.monotonic()
    with reported_errors(name):
        yield record
        seconds = time.monotonic() - start
        peak = peak_rss_bytes()
        facts = {"name": name, "seconds": round(seconds, 3), "peak_rss_bytes": peak, "summary": record.summary}
        write_json(Path(out) / STEP_FILE, facts)
    print(f"[{name}] done in {seconds:.1f} s, peak {peak / 2**20:.0f} MiB | {record.summary}", flush=True)


@contextmanager
def reported_errors(name: str) -> Iterator[None]:
    """Print a ``MecError`` as one ``[name] error: …`` line and raise it again; a full disk becomes one.

    For what a step does beside its bundle, too.
    """
    try:
        yield
    except Exception as error:
        known = error if isinstance(error, MecError) else full_disk(error)
        if known is None:
            raise
        text = str(known).replace("\n", " ⏎ ")
        print(f"[{name}] error: {type(known).__name__}: {text}", flush=True)
        if known is error:
            raise
        raise known from error


def peak_rss_bytes() -> int:
    """Most memory this process has held so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) if sys.platform == "darwin" else int(peak) * 1024
