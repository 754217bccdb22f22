"""The publish step against a real Feast store on sqlite."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from mec.bundle import open_bundle
from mec.data.vocabulary import Vocabularies
from mec.errors import PublishError
from mec.publish import publishing
from mec.publish.online_value import HeadRow, encode, head_tag
from mec.publish.reader import CodesReader
from mec.quantize import packing
from tests.publish.bundles import BITS, Make, make_spans
from tests.publish.running import expected_values, online_rows, publish, state, stop_after, without_times


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
