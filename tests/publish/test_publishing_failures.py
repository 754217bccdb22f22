"""What goes wrong while publishing: refused, retried, or taken up again, never half-published."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mec.errors import BundleError, ConfigError, PublishError, SpaceError
from mec.publish import locking, publishing
from mec.publish import store as store_module
from mec.publish.definitions import Published, build_definitions
from mec.publish.embedded import embedded_repo
from mec.publish.locking import publisher_lock
from mec.publish.online_value import encode, feature_name
from mec.publish.reader import CodesReader
from mec.publish.store import open_store
from mec.publish.writer import FeastWriter
from mec.quantize import packing
from tests.publish.bundles import BITS, Made, Make
from tests.publish.running import expected_values, online_rows, publish, state, stop_after, without_times


def test_foreign_tag_is_refused(make: Make, tmp_path: Path) -> None:
    made, other = make(), make(codebook=1)
    facts = publish(made, tmp_path)
    value = encode(other.uuid, packing.row_bytes(made.expected["item"], BITS))[:1]
    store = open_store(Path(facts["repo"]))
    FeastWriter(store, facts["feature_view"], datetime.now(UTC)).write(["item=100"], value)
    reader = CodesReader(facts["repo"], facts["feature_service"], made.uuid)
    assert reader.fetch(["item=101"]) != [None]
    with pytest.raises(SpaceError, match=other.uuid[:8]) as caught:
        reader.fetch(["item=101", "item=100"])
    assert made.uuid in str(caught.value)
    with pytest.raises(SpaceError, match=f"found: codebook {made.uuid}"):
        CodesReader(facts["repo"], facts["feature_service"], other.uuid)


def test_interrupted_publish_ends_as_if_it_had_not_been(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make()
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(PublishError, match="cannot write codes"):
            publish(made, tmp_path / "a", batch_rows=10)
    assert not (tmp_path / "a" / "publication").exists()
    interrupted = state(tmp_path / "a", made)
    assert interrupted.state == "writing"
    assert 0 < len(online_rows(tmp_path / "a", made)) < 55
    facts = publish(made, tmp_path / "a", batch_rows=10)
    assert facts["written_rows"] == 55
    finished = state(tmp_path / "a", made)
    assert finished == replace(interrupted.completed(), event_time=finished.event_time)
    assert finished.event_time > interrupted.event_time
    publish(made, tmp_path / "b")
    rows = online_rows(tmp_path / "a", made)
    assert without_times(rows) == without_times(online_rows(tmp_path / "b", made))
    assert len({row[-2] for row in rows}) == 1


def test_wrong_read_back_is_named_and_not_complete(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make()
    write = FeastWriter.write

    def corrupting(self: FeastWriter, keys: Sequence[str], values: Sequence[bytes]) -> None:
        write(
            self,
            keys,
            [v[:-1] + bytes([v[-1] ^ 1]) if k == "item=103" else v for k, v in zip(keys, values, strict=True)],
        )

    monkeypatch.setattr(FeastWriter, "write", corrupting)
    with pytest.raises(PublishError, match=r"key 'item=103': expected .*, got"):
        publish(made, tmp_path)
    assert state(tmp_path, made).state == "writing"


def test_locked_store(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "LOCKED_ATTEMPTS", 1)
    made = make()
    publish(made, tmp_path)
    other = sqlite3.connect(tmp_path / "store" / "feast" / "data" / "online.db")
    try:
        other.execute("begin exclusive")
        with pytest.raises(PublishError, match=r"database is locked.*another process writes"):
            publish(make(seed=1, generation=1), tmp_path)
    finally:
        other.close()
    assert publish(make(seed=1, generation=1), tmp_path)["written_rows"] == 55


def test_retry_waits_longer_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    calls = 0

    def action() -> int:
        nonlocal calls
        calls += 1
        if calls < 4:
            raise sqlite3.OperationalError("database is locked")
        return calls

    assert store_module.retry_while_locked(action, attempts=5, wait_s=0.5) == 4
    assert waits == [0.5, 1.0, 2.0]
    calls = 0
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        store_module.retry_while_locked(action, attempts=3)
    with pytest.raises(ZeroDivisionError):
        store_module.retry_while_locked(lambda: 1 // 0)


def test_second_publisher_is_told_who_holds_the_store(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locking, "LOCK_WAIT_S", 0.1)
    made = make()
    lock = embedded_repo(tmp_path / "store") / "data" / "online.publish.lock"
    with (
        publisher_lock(lock),
        pytest.raises(PublishError, match=f"another publisher holds .*found: pid {os.getpid()} on"),
    ):
        publish(made, tmp_path)
    assert publish(made, tmp_path)["written_rows"] == 55
    assert not lock.with_name(lock.name + ".json").exists()


def test_what_another_publisher_did_while_we_waited(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited = make()
    for meanwhile, refused in ((make(codebook=1), False), (make(seed=1, generation=1), True)):

        def path(config: Any, meanwhile: Made = meanwhile) -> Path:
            monkeypatch.undo()
            publish(meanwhile, tmp_path)
            return locking.lock_path(config)

        monkeypatch.setattr(publishing, "lock_path", path)
        if refused:
            with pytest.raises(PublishError, match="older must not overwrite"):
                publish(waited, tmp_path)
        else:
            publish(waited, tmp_path)
        expected = expected_values(meanwhile)
        reader = CodesReader(tmp_path / "store" / "feast", feature_name(meanwhile.uuid), meanwhile.uuid)
        assert reader.fetch(list(expected)) == list(expected.values())


def test_codes_of_another_codebook_or_vocabulary_are_refused(make: Make, tmp_path: Path) -> None:
    made, other, larger = make(), make(codebook=1), make(70)
    mixed = Made(made.vocabulary, other.codebook, made.codes, made.expected, other.uuid)
    with pytest.raises(SpaceError, match=f"{other.uuid}; found: {made.uuid}"):
        publish(mixed, tmp_path)
    mixed = Made(larger.vocabulary, made.codebook, made.codes, made.expected, made.uuid)
    with pytest.raises(SpaceError, match="another vocabulary"):
        publish(mixed, tmp_path)


def test_missing_and_broken_feature_store_yaml(make: Make, tmp_path: Path) -> None:
    made = make()
    with pytest.raises(PublishError, match=r"no feature_store\.yaml"):
        publish(made, tmp_path, feature_repo=str(tmp_path / "absent"))
    repo = tmp_path / "broken"
    repo.mkdir()
    for text in ("project: [", "project: mec\nprovider: local\nonline_store: {type: abacus}\n", "- a list\n", ""):
        (repo / "feature_store.yaml").write_text(text)
        with pytest.raises(PublishError, match="cannot open the Feast store"):
            publish(made, tmp_path, feature_repo=str(repo))


def test_unwritable_store(make: Make, tmp_path: Path) -> None:
    made = make()
    (tmp_path / "store").write_text("a file where a directory should be")
    with pytest.raises(PublishError, match="cannot make the embedded feature repo"):
        publish(made, tmp_path)
    repo = tmp_path / "repo"
    shutil.copytree("feature_repo", repo, ignore=shutil.ignore_patterns("data"))
    (repo / "data").mkdir()
    (repo / "data" / "online.db").mkdir()
    with pytest.raises(PublishError, match="unable to open database file"):
        publish(made, tmp_path, feature_repo=str(repo))


def test_unknown_feature_service_lists_the_known_ones(make: Make, tmp_path: Path) -> None:
    made = make()
    facts = publish(made, tmp_path)
    with pytest.raises(PublishError, match=f"found: {facts['feature_service']}"):
        CodesReader(facts["repo"], "codes_00000000", made.uuid)


def test_view_not_made_by_mec_is_left_alone(make: Make, tmp_path: Path) -> None:
    made = make()
    publish(made, tmp_path)
    store = open_store(tmp_path / "store" / "feast")
    entity, view, service = build_definitions(state(tmp_path, made))
    view.tags = {"owner": "someone"}
    store.apply([entity, view, service])
    with pytest.raises(PublishError, match="does not carry the tags"):
        publish(made, tmp_path)
    view.tags = state_tags = Published(
        f"{made.uuid[:-1]}f", "x", 0, 1, "complete", "2026-01-01T00:00:00+00:00"
    ).to_tags()
    assert state_tags["codebook"] != made.uuid
    store.apply([entity, view, service])
    with pytest.raises(PublishError, match="another codebook whose uuid begins alike"):
        publish(made, tmp_path)


def test_size_mismatch_is_refused(make: Make, tmp_path: Path) -> None:
    made = make()
    manifest = made.codes / "manifest.json"
    changed = json.loads(manifest.read_text())
    changed["extra"]["vocabularies"]["item"]["size"] = 49
    manifest.write_text(json.dumps(changed))
    with pytest.raises(BundleError, match="49 values of vocabulary 'item'; found: 50"):
        publish(made, tmp_path)


def test_bulk_refuses_other_stores(make: Make, tmp_path: Path) -> None:
    repo = tmp_path / "redis"
    repo.mkdir()
    (repo / "feature_store.yaml").write_text(
        "project: mec\nprovider: local\nregistry: data/registry.db\n"
        "online_store: {type: redis, connection_string: 'localhost:1'}\nentity_key_serialization_version: 3\n"
    )
    with pytest.raises(ConfigError, match=r"found: redis; fix: set publish\.writer to feast"):
        publish(make(), tmp_path, feature_repo=str(repo), writer="bulk")
