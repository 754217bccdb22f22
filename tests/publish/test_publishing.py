"""The publish step against a real Feast store on sqlite."""

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

from mec.bundle import open_bundle
from mec.config import PublishConfig
from mec.data.vocabulary import Vocabularies
from mec.errors import BundleError, ConfigError, PublishError, SpaceError
from mec.publish import locking, publishing
from mec.publish import store as store_module
from mec.publish.definitions import Published, build_definitions, read_published
from mec.publish.embedded import embedded_repo
from mec.publish.locking import publisher_lock
from mec.publish.online_value import HeadRow, encode, feature_name, head_tag
from mec.publish.publishing import publish_step
from mec.publish.reader import CodesReader
from mec.publish.store import open_store
from mec.publish.writer import FeastWriter
from mec.quantize import packing
from tests.publish.bundles import BITS, Made, Make, make_spans


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


def test_round_trip_of_every_value(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = make(60)
    facts = publish(made, tmp_path, batch_rows=16, verify_rows=10)
    expected = expected_values(made)
    assert {k: facts[k] for k in ("published_rows", "written_rows", "verified_rows")} == {
        "published_rows": 65,
        "written_rows": 65,
        "verified_rows": 10,
    }
    assert facts["feature_view"] == facts["feature_service"] == f"codes_{made.uuid[:8]}"
    assert facts["repo"] == str(tmp_path / "store" / "feast")
    assert (facts["online_store"], facts["codebook"], facts["generation"]) == ("sqlite", made.uuid, 0)
    assert "[publish] 100% 65/65" in capsys.readouterr().out
    reader = CodesReader(facts["repo"], facts["feature_service"], made.uuid)
    assert dict(zip(expected, reader.fetch(list(expected)), strict=True)) == expected
    assert state(tmp_path, made).state == "complete"


@pytest.mark.parametrize("writer", ["feast", "bulk"])
def test_head_and_tail(make: Make, tmp_path: Path, writer: str) -> None:
    made = make(60)
    rows = make_spans(made, tmp_path / "spans", head=7, tail=20)
    facts = publish(replace(made, codes=tmp_path / "spans"), tmp_path, batch_rows=16, verify_rows=40, writer=writer)
    assert facts["published_rows"] == 65
    reader = CodesReader(facts["repo"], facts["feature_service"], made.uuid)
    keys = [str(key) for key in Vocabularies.open(made.vocabulary).keys("item")]
    codes = [bytes(row) for row in packing.row_bytes(made.expected["item"], BITS)]
    found = reader.fetch(keys)
    assert len(found) == 60
    for value, own in enumerate(found):
        if 1 <= value <= 7:
            assert own == HeadRow(rows[value - 1].tobytes())
        else:
            assert own == codes[value if value < 40 else 0]
    raw = reader.fetch_values(keys[:3])
    assert raw == [encode(made.uuid, packing.row_bytes(made.expected["item"][:1], BITS))[0], *(
        head_tag(made.uuid) + row.tobytes() for row in rows[:2]
    )]  # fmt: skip


def test_special_keys(make: Make, tmp_path: Path) -> None:
    """Null value, out of vocabulary, unknown and repeated keys; answers keep the order."""
    made = make()
    facts = publish(made, tmp_path)
    reader = CodesReader(facts["repo"], facts["feature_service"], made.uuid)
    null, oov, unknown, odd, again = reader.fetch(["item", "item!oov", "item=-5", "city=a=b", "item"])
    items = packing.row_bytes(made.expected["item"], BITS)
    assert null == again == bytes(items[-1])
    assert oov == bytes(items[0])
    assert unknown is None
    assert odd == bytes(packing.row_bytes(made.expected["city"], BITS)[2])
    assert reader.fetch([]) == []


def test_reads_in_chunks(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make()
    facts = publish(made, tmp_path)
    monkeypatch.setattr("mec.publish.reader.MAX_KEYS", 7)
    expected = expected_values(made)
    reader = CodesReader(facts["repo"], facts["feature_service"], made.uuid)
    keys = [*expected, *expected]
    assert reader.fetch(keys) == [expected[key] for key in keys]


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


def test_publishing_again_writes_nothing(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = make()
    publish(made, tmp_path)
    before = online_rows(tmp_path, made)
    capsys.readouterr()
    facts = publish(made, tmp_path, verify_rows=20)
    assert (facts["written_rows"], facts["published_rows"], facts["verified_rows"]) == (0, 55, 20)
    assert online_rows(tmp_path, made) == before
    assert "note: codes_" in capsys.readouterr().out


def test_lost_online_store_is_written_again(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = make()
    publish(made, tmp_path)
    before = online_rows(tmp_path, made)
    (tmp_path / "store" / "feast" / "data" / "online.db").unlink()
    facts = publish(made, tmp_path)
    assert facts["written_rows"] == 55
    assert without_times(online_rows(tmp_path, made)) == without_times(before)
    assert "writing them again" in capsys.readouterr().out


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


def test_generations_only_go_up(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = make(), make(seed=1, generation=1)
    assert old.uuid == new.uuid
    publish(old, tmp_path)
    first = state(tmp_path, old)
    with monkeypatch.context() as patch:  # a newer generation that was begun is newer, too
        stop_after(patch, 1)
        with pytest.raises(PublishError):
            publish(new, tmp_path, batch_rows=10)
    with pytest.raises(PublishError, match="found: generation 0; fix: publish generation 1"):
        publish(old, tmp_path)
    publish(new, tmp_path)
    rows, second = online_rows(tmp_path, new), state(tmp_path, new)
    assert second.event_time > first.event_time
    with pytest.raises(PublishError, match="older must not overwrite"):
        publish(old, tmp_path)
    assert online_rows(tmp_path, new) == rows
    assert state(tmp_path, new) == second


def test_other_codes_of_the_same_generation(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish(make(), tmp_path)
    other = make(seed=5)
    publish(other, tmp_path)
    assert "overwriting" in capsys.readouterr().out
    facts = publish(other, tmp_path)
    assert facts["written_rows"] == 0


def test_codebooks_stand_side_by_side(make: Make, tmp_path: Path) -> None:
    for made in (make(), make(codebook=1)):
        facts = publish(made, tmp_path)
        expected = expected_values(made)
        assert CodesReader(facts["repo"], facts["feature_service"], made.uuid).fetch(list(expected)) == list(
            expected.values()
        )


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


def test_disabled_publishes_nothing(make: Make, tmp_path: Path) -> None:
    made = make()
    facts = publish(made, tmp_path, enabled=False)
    assert (facts["published_rows"], facts["feature_service"], facts["repo"]) == (0, None, None)
    assert facts["codebook"] == made.uuid
    assert not (tmp_path / "store").exists()


def test_own_feature_repo(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The repo's feature_repo/, copied: the directory that the user is in does not matter."""
    shutil.copytree("feature_repo", tmp_path / "mine", ignore=shutil.ignore_patterns("data"))
    monkeypatch.chdir(tmp_path)
    made = make()
    facts = publish(made, tmp_path, feature_repo="mine")
    assert facts["repo"] == str(tmp_path / "mine")
    monkeypatch.chdir("/")
    reader = CodesReader(facts["repo"], facts["feature_service"], made.uuid)
    assert reader.fetch(["item=100"]) == [expected_values(made)["item=100"]]


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


def test_sample_has_a_fixed_seed_and_spans_vocabularies(make: Make) -> None:
    made = make()
    bundles = (open_bundle(made.codes), open_bundle(made.codebook), open_bundle(made.vocabulary))
    rows = publishing.OnlineRows(*bundles)
    sample = rows.sample(40)
    assert sample == publishing.OnlineRows(*bundles).sample(40)
    assert len({row.key for row in sample}) == 40
    assert {row.key.split("=")[0].split("!")[0] for row in sample} == {"item", "city"}
    expected = expected_values(made)
    assert {row.key: row.value[4:] for row in sample}.items() <= expected.items()
    assert len(rows.sample(10_000)) == len(rows) == 55
