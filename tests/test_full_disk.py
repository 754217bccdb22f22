"""A full disk is one line, whichever library met it; those that can really meet one here."""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors
import sqlalchemy
import torch

from mec.checkpoints import Checkpoints
from mec.errors import DataError, DiskFullError
from mec.full_disk import full_disk
from mec.steps import STEP_FILE, step

FULL = Path("/dev/full")
linux = pytest.mark.skipif(not FULL.is_char_device(), reason="a device of Linux")


def met(write: Callable[[], object]) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - each library has its own
        write()
    return caught.value


def small(database: str | Path) -> sqlite3.Connection:
    """A database that may have two pages."""
    connection = sqlite3.connect(database)
    connection.execute("pragma max_page_count = 2")
    return connection


def fill(connection: sqlite3.Connection) -> None:
    connection.execute("create table a (b)")
    connection.execute("insert into a values (?)", ["x" * 100_000])


@linux
def test_files_of_python_and_arrow() -> None:
    def write() -> None:
        with FULL.open("wb") as file:
            file.write(b"x" * 100_000)

    def arrow() -> None:
        with FULL.open("wb") as file:
            pq.write_table(pa.table({"a": list(range(100_000))}), file)

    assert full_disk(met(write)) is not None
    assert full_disk(met(arrow)) is not None


def test_arrays_that_are_cut_short(tmp_path: Path) -> None:
    code = f"""
import resource, signal, numpy
from mec.full_disk import full_disk
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, 5_000))
try:
    numpy.save({str(tmp_path / "a.npy")!r}, numpy.zeros(100_000))
except OSError as error:
    assert error.errno is None
    print(full_disk(error))
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "no space left on device" in ended.stdout


def test_a_copy_names_where_it_goes() -> None:
    found = full_disk(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "from.npy", None, "to.npy"))
    assert found is not None
    assert found.found == "to.npy"


def test_errors_behind_errors() -> None:
    circle = ValueError("x")
    circle.__cause__ = circle
    assert full_disk(circle) is None
    other = ValueError("x")
    other.__cause__ = OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
    assert full_disk(other) is not None
    assert full_disk(sqlite3.OperationalError("database is locked")) is None


def test_a_database(tmp_path: Path) -> None:
    with small(tmp_path / "a.db") as connection:
        assert full_disk(met(lambda: fill(connection))) is not None
        assert full_disk(met(lambda: connection.execute("selct"))) is None


def test_a_database_behind_sqlalchemy(tmp_path: Path) -> None:
    engine = sqlalchemy.create_engine("sqlite://", creator=lambda: small(tmp_path / "a.db"))

    def write() -> None:
        with engine.begin() as connection:
            connection.exec_driver_sql("create table a (b)")
            connection.exec_driver_sql("insert into a values (?)", ("x" * 100_000,))

    error = met(write)
    assert isinstance(error, sqlalchemy.exc.OperationalError)
    assert full_disk(error) is not None


@pytest.mark.parametrize(("number", "is_full"), [(errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EACCES, False)])
def test_tensors(number: int, is_full: bool) -> None:
    text = f"Error while serializing: I/O error: {os.strerror(number)} (os error {number})"  # as it was met
    assert (full_disk(safetensors.SafetensorError(text)) is not None) == is_full
    assert (full_disk(OSError(number, os.strerror(number))) is not None) == is_full
    assert full_disk(RuntimeError(text)) is None


@linux
def test_a_checkpoint(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, "train", key=0)
    checkpoints.path.with_suffix(".part").symlink_to(FULL)
    assert full_disk(met(lambda: checkpoints.save({"num_steps": 1, "a": torch.zeros(100_000)}))) is not None


def test_a_step_says_so_and_leaves_no_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DiskFullError), step("count", tmp_path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "codes.npy")
    assert capsys.readouterr().out == (
        "[count] error: DiskFullError: a file cannot be written: no space left on device, or over the quota; "
        "found: codes.npy; fix: free some and run the same again\n"
    )
    assert not (tmp_path / STEP_FILE).exists()


def test_the_record_of_a_step_is_part_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("mec.steps.write_json", write)
    with pytest.raises(DiskFullError), step("count", tmp_path):
        pass


def test_other_errors_stay_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="denied") as caught, step("count", tmp_path):
        raise PermissionError(errno.EACCES, "denied")
    assert type(caught.value) is PermissionError
    assert full_disk(DataError("x")) is None


def test_the_command_ends_with_2(tmp_path: Path) -> None:
    code = """
import sqlite3, mec.cli
def load(*_):
    connection = sqlite3.connect(":memory:")
    connection.execute("pragma max_page_count = 2")
    connection.execute("create table a (b)")
    connection.execute("insert into a values (?)", ["x" * 100_000])
import mec.cli_config
mec.cli_config.load_config = load
mec.cli.main()
"""
    ended = subprocess.run([sys.executable, "-c", code, "config", "x.yaml"], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("error: a file cannot be written: no space left on device, or over the quota; ")
    assert "Traceback" not in ended.stderr
