"""Generations in a real Feast store: only the difference is written, and going back restores what was there."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from mec.bundle import open_bundle
from mec.config import PublishConfig, RefreshConfig
from mec.data.vocabulary import Vocabularies
from mec.errors import PublishError, SpaceError
from mec.publish import publishing
from mec.publish.online_value import feature_name
from mec.publish.publishing import publish_step
from mec.publish.reader import CodesReader
from mec.publish.value_rows import CodesFiles
from tests.refresh.refresh_run import Generation, refresh_run, train_run

BULK = PublishConfig(writer="bulk", batch_rows=50)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Generation:
    return train_run(tmp_path_factory.mktemp("run"), 1500, head=5, tail_count=6)


@pytest.fixture(scope="module")
def first(base: Generation, tmp_path_factory: pytest.TempPathFactory) -> Generation:
    return refresh_run(base, tmp_path_factory.mktemp("first"))


def publish(
    generation: Generation, root: Path, online: Generation | None = None, *, rollback: bool = False
) -> dict[str, Any]:
    out = root / "publication"
    publish_step(
        publish=BULK, store=root / "store", vocabulary=generation.vocabulary, codebook=generation.codebook,
        codes=generation.codes, out=out, rollback=rollback, online_codes=online.codes if online else None,
        online_vocabulary=online.vocabulary if online else None,
    )  # fmt: skip
    facts: dict[str, Any] = json.loads((out / "publication.json").read_text())
    return facts


def in_store(generation: Generation, root: Path) -> dict[str, bytes | None]:
    """Key -> value of all keys that the newest vocabulary has."""
    codebook = open_bundle(generation.codebook).uuid
    keys = [key for name in ("user", "item") for key in Vocabularies.open(generation.vocabulary).keys(name).to_pylist()]
    reader = CodesReader(root / "store" / "feast", feature_name(codebook), codebook)
    return dict(zip(keys, reader.fetch_values(keys), strict=True))


def written_at(root: Path, generation: Generation) -> dict[bytes, Any]:
    with sqlite3.connect(root / "store" / "feast" / "data" / "online.db") as connection:
        table = f"mec_{feature_name(open_bundle(generation.codebook).uuid)}"
        return dict(connection.execute(f'select entity_key, event_ts from "{table}"').fetchall())


def values_by_id(generation: Generation, name: str) -> list[bytes]:
    """Online value of every id, its tag left out, one id at a time."""
    rows = CodesFiles(open_bundle(generation.codes)).rows(name)
    facts = open_bundle(generation.codes).extra["vocabularies"][name]
    base = facts.get("base", facts["size"])
    num_own = facts["coded"] - (facts["size"] - base)
    values = []
    for value in range(facts["size"]):
        if 1 <= value <= facts["head"]:
            values.append(rows.head[value - 1].tobytes())
            continue
        place = 0
        if value >= base:
            place = num_own + value - base
        elif facts["head"] < value < facts["head"] + num_own:
            place = value - facts["head"]
        values.append(rows.codes[place].tobytes())
    return values


def test_only_the_difference_is_written_and_going_back_restores(
    base: Generation, first: Generation, tmp_path: Path
) -> None:
    publish(base, tmp_path)
    at_first, times = in_store(base, tmp_path), written_at(tmp_path, base)
    facts = publish(first, tmp_path, base)
    changed = added = 0
    for name in ("user", "item"):
        before, after = values_by_id(base, name), values_by_id(first, name)
        changed += sum(a != b for a, b in zip(before, after[: len(before)], strict=True))
        added += len(after) - len(before)
    assert (facts["rows_rewritten"], facts["rows_added"]) == (changed, added)
    assert facts["written_rows"] == changed + added < facts["published_rows"]
    later = written_at(tmp_path, first)
    assert sum(times.get(key) != time for key, time in later.items()) == changed + added
    whole = tmp_path / "whole"
    publish(first, whole)
    now = in_store(first, tmp_path)
    assert now == in_store(first, whole)
    assert publish(first, tmp_path, base)["written_rows"] == 0
    with pytest.raises(PublishError, match="older must not overwrite"):
        publish(base, tmp_path, first)
    back = publish(base, tmp_path, first, rollback=True)
    assert back["written_rows"] == changed + added == back["rows_rewritten"]
    restored = in_store(first, tmp_path)
    assert {key: restored[key] for key in at_first} == at_first
    for key in restored.keys() - at_first.keys():
        assert restored[key] == at_first[f"{key.partition('=')[0]}!oov"]
    again = publish(first, tmp_path, base)
    assert again["written_rows"] == changed + added
    assert in_store(first, tmp_path) == now


def test_after_a_killed_publisher_all_is_written(
    base: Generation, first: Generation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(base, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(publishing, "_first_difference", _killed)
        with pytest.raises(KeyboardInterrupt):
            publish(first, tmp_path, base)
    facts = publish(first, tmp_path, base)
    assert facts["written_rows"] == facts["published_rows"]
    assert facts["rows_rewritten"] + facts["rows_added"] < facts["written_rows"]
    with monkeypatch.context() as patch:
        patch.setattr(publishing, "_first_difference", _killed)
        with pytest.raises(KeyboardInterrupt):
            publish(base, tmp_path, first, rollback=True)
    publish(base, tmp_path, first, rollback=True)
    restored = in_store(first, tmp_path)
    assert all(restored[k] == restored["user!oov"] for k in restored.keys() - in_store(base, tmp_path) if "user" in k)


def _killed(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_renewed_codebook_is_published_beside_the_old_one(base: Generation, tmp_path: Path) -> None:
    renewed = refresh_run(base, tmp_path / "renewed", RefreshConfig(codebooks="renewed"))
    publish(base, tmp_path)
    before = in_store(base, tmp_path)
    facts = publish(renewed, tmp_path, base)
    assert facts["written_rows"] == facts["published_rows"] == facts["rows_rewritten"] + facts["rows_added"]
    assert in_store(base, tmp_path) == before


def test_another_vocabulary_is_refused(base: Generation, first: Generation, tmp_path: Path) -> None:
    other = train_run(tmp_path / "other", 700)
    with pytest.raises(SpaceError, match="mean other values"):
        publish_step(
            publish=BULK, store=tmp_path / "store", vocabulary=first.vocabulary, codebook=first.codebook,
            codes=first.codes, out=tmp_path / "out", online_codes=base.codes, online_vocabulary=other.vocabulary,
        )  # fmt: skip
