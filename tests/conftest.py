"""Shared by all tests."""

from __future__ import annotations

import importlib.util
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.servers import POSTGRES_PROGRAMS, free_port, running, running_postgres

# telemetry has no place in tests; set before any test imports the libraries
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("FEAST_USAGE", "False")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

# the same examples in each run, so that a failure is of the change at hand; HYPOTHESIS_PROFILE=search draws new ones
settings.register_profile("same", derandomize=True)
settings.register_profile("search", max_examples=300)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


@pytest.fixture(scope="session")
def postgres_cluster() -> Iterator[Callable[[str], str]]:
    """A Postgres of this session's own; see ``running_postgres``."""
    if not POSTGRES_PROGRAMS:
        pytest.skip("Postgres is not installed: apt-get install postgresql")
    if importlib.util.find_spec("psycopg") is None:
        pytest.skip("psycopg is not installed: pip install 'mec[postgres]'")
    with running_postgres() as create:
        yield create


@pytest.fixture
def postgres(postgres_cluster: Callable[[str], str]) -> str:
    """Address of a new, empty database, without a driver: put ``postgresql:`` or ``postgresql+psycopg:`` before it."""
    return postgres_cluster(f"test-{uuid.uuid4()}")


@pytest.fixture
def redis_port(tmp_path: Path) -> Iterator[int]:
    """Port of a Redis server of this test's own."""
    server = shutil.which("redis-server")
    if server is None:
        pytest.skip("Redis is not installed: apt-get install redis-server")
    if importlib.util.find_spec("redis") is None:
        pytest.skip("redis is not installed: pip install 'mec[redis]'")
    folder, port = tmp_path / "redis", free_port()
    folder.mkdir()
    arguments = [server, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with running(arguments, folder, port, seconds=30):
        yield port
