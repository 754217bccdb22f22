"""Runs of the publish step against a real Feast store on sqlite, and what is in the store afterwards."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mec.bundle import open_bundle
from mec.config import PublishConfig
from mec.data.vocabulary import Vocabularies
from mec.publish.definitions import Published, read_published
from mec.publish.online_value import feature_name
from mec.publish.publishing import publish_step
from mec.publish.store import open_store
from mec.publish.writer import FeastWriter
from mec.quantize import packing
from tests.publish.bundles import BITS, Made


def publish(made: Made, root: Path, **settings: Any) -> dict[str, Any]:
    """Run the step, and read its publication.json."""
    out = root / "publication"
    publish_step(
        publish=PublishConfig(**settings),
        store=root / "store",
        vocabulary=made.vocabulary,
        codebook=made.codebook,
        codes=made.codes,
        out=out,
    )
    result: dict[str, Any] = json.loads(open_bundle(out, "publication").file("publication.json").read_text())
    return result


def state(root: Path, made: Made) -> Published:
    published = read_published(open_store(root / "store" / "feast"), made.uuid)
    assert published is not None
    return published


def online_rows(root: Path, made: Made) -> list[tuple[Any, ...]]:
    with sqlite3.connect(root / "store" / "feast" / "data" / "online.db") as connection:
        table = f"mec_{feature_name(made.uuid)}"
        return connection.execute(f'select * from "{table}" order by entity_key, feature_name').fetchall()


def without_times(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return [row[:-2] for row in rows]


def expected_values(made: Made) -> dict[str, bytes]:
    vocabularies = Vocabularies.open(made.vocabulary)
    result: dict[str, bytes] = {}
    for name, codes in made.expected.items():
        keys = [str(key) for key in vocabularies.keys(name)]
        result |= zip(keys, (bytes(row) for row in packing.row_bytes(codes, BITS)), strict=True)
    return result


class StoppedError(Exception):
    """Stands for a publisher that was killed."""


def stop_after(monkeypatch: pytest.MonkeyPatch, num_batches: int) -> None:
    """Make the writer die after some batches."""
    write = FeastWriter.write
    written = 0

    def dying(self: FeastWriter, keys: Sequence[str], values: Sequence[bytes]) -> None:
        nonlocal written
        if written == num_batches:
            raise StoppedError
        written += 1
        write(self, keys, values)

    monkeypatch.setattr(FeastWriter, "write", dying)
