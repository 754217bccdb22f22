"""Three periods of drifting clicks as files, and a config that learns from them in seconds."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from mec.config import SyntheticConfig
from mec.data.synthetic import write_synthetic

ROOT = Path(__file__).parents[2]
FIELDS = ["f0", "f1", "f2", "f3"]
SETTINGS: dict[str, Any] = {
    "name": "shop",
    "data": {"path": "period-0.parquet", "categorical": FIELDS},
    "pretrain": {"max_epochs": 6, "batch_size": 256, "embedding_dim": 8, "learning_rate": 0.01},
    "quantize": {"num_codewords": 32, "min_values": 100},
    "train": {"max_epochs": 4, "batch_size": 256},
    "evaluate": {"latency_rows": 0},
    "publish": {"writer": "bulk"},
    # values without a time repeat by chance
    "refresh": {
        "arrivals": {"max_overlap": 0.5},
        "bounds": {"max_auc_decline": 0.5, "max_auc_drop": 0.5, "max_logloss_rise": 1.0},
    },
}


def write_periods(directory: Path, num_rows: int = 18_000, num_periods: int = 3) -> None:
    """``period-N.parquet`` for every period, and ``config.yaml`` to train on the first."""
    directory.mkdir(parents=True, exist_ok=True)
    synthetic = SyntheticConfig(
        num_rows=num_rows, field_sizes=(600, 300, 40, 10), num_periods=num_periods, new_values=0.15, drifted_values=0.3
    )
    write_synthetic(synthetic, 0, directory / "all.parquet")
    table = pq.read_table(directory / "all.parquet")
    for period in range(num_periods):
        pq.write_table(table.filter(pc.equal(table["period"], period)), directory / f"period-{period}.parquet")
    (directory / "config.yaml").write_text(yaml.safe_dump(SETTINGS), encoding="utf-8")


def start(directory: Path, *arguments: object) -> subprocess.Popen[str]:
    """``mec`` in a process of its own, in a directory, as a user starts it."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, "-m", "mec", *map(str, arguments)]
    return subprocess.Popen(command, cwd=directory, env=environment, **pipes)


def mec(directory: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """``start``, and wait for its end."""
    with start(directory, *arguments) as process:
        stdout, stderr = process.communicate(timeout=600)
    return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)


def kill_in_step(directory: Path, step: str, *arguments: object, meanwhile: Callable[[], None] | None = None) -> None:
    """Start ``mec`` and kill it, runner and step, as soon as a step's process is there; nothing can tidy up."""
    with start(directory, *arguments) as runner:
        child = step_process(runner, step)
        if meanwhile is not None:
            child.suspend()
            meanwhile()
        runner.kill()
        child.kill()
        runner.communicate(timeout=600)
    assert runner.returncode == -signal.SIGKILL


def step_process(runner: subprocess.Popen[str], step: str) -> psutil.Process:
    """Wait for the process of a step, which is named as far as the kernel keeps names."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        assert runner.poll() is None, f"the run ended before {step} began"
        for child in psutil.Process(runner.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if child.name() == step[:15]:
                    return child
        time.sleep(0.02)
    raise AssertionError(f"step {step} did not begin")
