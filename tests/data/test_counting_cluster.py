"""Counting on a Dask cluster as an operator starts it: a scheduler and workers that are processes of their own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mec.bundle import open_bundle
from mec.config import CountConfig, DataConfig
from mec.data.counting import count_step
from tests.servers import free_port, running

pytestmark = pytest.mark.slow  # three processes import Dask


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[str]:
    """Address of a scheduler with two workers."""
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    dask = [sys.executable, "-m", "dask"]
    commands = {"scheduler": ["--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]}
    with ExitStack() as stack:
        for name in ("scheduler", "worker-a", "worker-b"):
            folder, listens_on = tmp_path / name, port if name == "scheduler" else free_port()
            folder.mkdir()
            worker = [address, "--host", "127.0.0.1", "--worker-port", str(listens_on), "--nthreads", "1"]
            worker += ["--no-dashboard", "--no-nanny"]
            command = [*dask, name.split("-")[0], *commands.get(name, worker)]
            stack.enter_context(running(command, folder, listens_on, seconds=120))
        yield address


def test_a_cluster_counts_as_threads_do(scheduler: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = tmp_path / "rows"
    rows.mkdir()
    for part in range(4):  # each file is a task or more
        columns = {"user": rng.zipf(1.3, 1000) % 700, "item": rng.integers(0, 90, 1000)}
        columns["label"] = rng.integers(0, 2, 1000)
        pq.write_table(pa.table(columns), rows / f"{part}.parquet")
    data = DataConfig.model_validate({"path": str(rows), "categorical": ["user", "item"], "split": {"kind": "random"}})
    for name, where in (("threads", "threads"), ("cluster", scheduler)):
        count_step(data=data, count=CountConfig(scheduler=where), seed=0, out=tmp_path / name)
    assert open_bundle(tmp_path / "cluster").uuid == open_bundle(tmp_path / "threads").uuid
    log = (tmp_path / "scheduler" / "server.log").read_text()
    assert log.count("Register worker") == 2
