"""The bulk writer writes Feast's own rows, byte for byte."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mec.errors import ConfigError
from mec.publish.definitions import Published, build_definitions
from mec.publish.embedded import embedded_repo
from mec.publish.online_value import feature_name
from mec.publish.store import open_store
from mec.publish.writer import BulkSqliteWriter, FeastWriter, Writer

ROOT = Path(__file__).resolve().parents[2]
CODEBOOK = "0a0b0c0d-1111-4111-8111-111111111111"
VIEW = feature_name(CODEBOOK)
TIME = datetime(2026, 3, 29, 1, 30, 5, tzinfo=UTC)
KEYS = ["item", "item!oov", "item=1", "item=-9223372036854775808", "city=Łódź", "city=", "city=a=b'\"", "k" * 300]
VALUES = [bytes([10, 11, 12, 13, *range(n)]) for n in (1, 2, 2, 0, 5, 123, 124, 200)]


def written(root: Path, kind: type[FeastWriter] | type[BulkSqliteWriter]) -> tuple[list[tuple[object, ...]], str]:
    """All columns of the online table with their storage types, after two overlapping batches."""
    repo = embedded_repo(root)
    store = open_store(repo)
    store.apply(build_definitions(Published(CODEBOOK, "codes", 0, 8, "writing", TIME.isoformat())))
    first: Writer = kind(store, VIEW, TIME - timedelta(days=1))
    first.write(KEYS[:5], VALUES[::-1][:5])
    second: Writer = kind(store, VIEW, TIME)
    second.write(KEYS[2:], VALUES[2:])
    with sqlite3.connect(repo / "data" / "online.db") as connection:
        names = [row[1] for row in connection.execute(f'pragma table_info("mec_{VIEW}")')]
        columns = ", ".join(f"{name}, typeof({name})" for name in names)
        rows = connection.execute(f'select rowid, {columns} from "mec_{VIEW}" order by rowid').fetchall()
        schema = connection.execute("select group_concat(sql) from sqlite_master").fetchone()[0]
    return rows, schema


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata"])
def test_bulk_rows_equal_feasts_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zone: str) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        feast, bulk = written(tmp_path / "feast", FeastWriter), written(tmp_path / "bulk", BulkSqliteWriter)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert len(feast[0]) == len(KEYS)
    assert bulk == feast


def test_bulk_refuses_vectors(tmp_path: Path) -> None:
    repo = embedded_repo(tmp_path)
    yaml = repo / "feature_store.yaml"
    yaml.write_text(yaml.read_text().replace("type: sqlite", "type: sqlite\n  vector_enabled: true"))
    with pytest.raises(ConfigError, match="vector_enabled: true"):
        BulkSqliteWriter(open_store(repo), VIEW, TIME)


def test_failed_bulk_batch_leaves_nothing(tmp_path: Path) -> None:
    repo = embedded_repo(tmp_path)
    store = open_store(repo)
    store.apply(build_definitions(Published(CODEBOOK, "codes", 0, 8, "writing", TIME.isoformat())))
    writer = BulkSqliteWriter(store, VIEW, TIME)
    with sqlite3.connect(repo / "data" / "online.db") as connection:
        connection.execute(
            f'create trigger full before insert on "mec_{VIEW}" when length(new.entity_key) > 200 '
            "begin select raise(abort, 'disk full'); end"
        )
    with pytest.raises(sqlite3.IntegrityError, match="disk full"):
        writer.write(KEYS, VALUES)
    with sqlite3.connect(repo / "data" / "online.db") as connection:
        assert connection.execute(f'select count(*) from "mec_{VIEW}"').fetchone() == (0,)


def test_importing_the_publisher_does_not_import_feast() -> None:
    modules = (
        "mec.publish.reader, mec.publish.writer, mec.publish.definitions, mec.publish.embedded, mec.publish.locking"
    )
    code = f"import sys, {modules}; sys.exit('feast' in sys.modules or 'pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
