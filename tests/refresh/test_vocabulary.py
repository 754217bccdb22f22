"""Generations of a vocabulary: ids never move, new values follow by count, and the same twice is the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mec.bundle import open_bundle, write_bundle
from mec.config import CountConfig
from mec.data.vocabulary import Vocabularies, vocabulary_step
from mec.errors import ConfigError, DataError
from mec.refresh.vocabulary import counted_in, extend_vocabulary_step, new_counts

Rows = list[tuple[Any, int]]
FIRST: dict[str, Rows] = {
    "user": [(30, 9), (7, 4), (None, 4), (11, 1)],
    "city": [("oslo", 5), (None, 3), ("a=b", 2)],
}
SECOND: dict[str, Rows] = {
    "user": [(99, 8), (50, 6), (7, 6), (51, 6), (12, 1)],
    "city": [("rome", 3), ("oslo", 1)],
}


def _counts(
    path: Path, counts: Mapping[str, Rows], *, price: tuple[float, float, int, int] = (3.0, 2.0, 15, 7)
) -> Path:
    with write_bundle(path, "counts", data_version=path.name) as draft:
        kinds = {"user": pa.int64(), "city": pa.string()}
        for name, rows in counts.items():
            table = pa.table({"value": pa.array([v for v, _ in rows], kinds[name]), "count": [n for _, n in rows]})
            pq.write_table(table, draft.path / f"{name}.parquet")
        draft.extra = {
            "vocabularies": {n: {"type": str(kinds[n]), "distinct": len(r)} for n, r in counts.items()},
            "rows": {"train": 20 + len(path.name), "valid": 2, "test": 2},
            "numeric": {"price": dict(zip(("mean", "std", "num_values", "num_nulls"), price, strict=True))},
        }
    return path


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    counts = _counts(tmp_path / "counts", FIRST)
    vocabulary_step(counts=counts, count=CountConfig(min_count=2), out=tmp_path / "vocabulary")
    return tmp_path / "vocabulary"


def _extend(parent: Path, counts: Path, out: Path, *, min_count: int = 2, keep: float = 1.0) -> Vocabularies:
    extend_vocabulary_step(parent=parent, counts=counts, count=CountConfig(min_count=min_count), keep=keep, out=out)
    return Vocabularies.open(out)


def test_ids_stay_and_new_values_follow_by_count_then_value(parent: Path, tmp_path: Path) -> None:
    child = _extend(parent, _counts(tmp_path / "new", SECOND, price=(50.0, 9.0, 4, 1)), tmp_path / "child")
    assert child.values("user").to_pylist() == [None, 30, 7, None, 99, 50, 51]
    assert child.counts("user").tolist() == [1 + 1, 9, 4 + 6, 4, 8, 6, 6]
    assert new_counts(child, "user").tolist() == [1, 0, 6, 0, 8, 6, 6]
    assert child.values("city").to_pylist() == [None, "oslo", None, "a=b", "rome"]
    assert child.counts("city").tolist() == [0, 6, 3, 2, 3]
    table = pq.read_table(child.bundle.file("user.parquet"))
    assert table["id"].to_pylist() == list(range(7))
    assert table["first_generation"].to_pylist() == [0, 0, 0, 0, 1, 1, 1]
    assert table.schema.names == ["id", "value", "count", "first_generation", "new_count"]
    assert child.ids("user", pa.array([7, 99, None, 12])).tolist() == [2, 4, 3, 0]


def test_facts_of_the_bundle(parent: Path, tmp_path: Path) -> None:
    new = _counts(tmp_path / "new", SECOND, price=(50.0, 9.0, 4, 1))
    child = _extend(parent, new, tmp_path / "child")
    bundle, old = child.bundle, open_bundle(parent)
    assert child.generation == 1
    assert bundle.manifest.parents == {"parent": old.uuid, "counts": open_bundle(new).uuid}
    assert bundle.manifest.data_version == "new"
    assert bundle.extra["rows"] == {"train": 23, "valid": 2, "test": 2}
    assert counted_in(child) == [old.manifest.parents["counts"], open_bundle(new).uuid]
    assert child.sizes == {"user": 7, "city": 5, "price": 2}


def test_numbers_keep_the_scale_that_the_backbone_knows(parent: Path, tmp_path: Path) -> None:
    child = _extend(parent, _counts(tmp_path / "new", SECOND, price=(50.0, 9.0, 4, 1)), tmp_path / "child")
    assert child.weights("price", pa.array([5.0])).tolist() == [1.0]
    assert child.counts("price").tolist() == [7 + 1, 15 + 4]
    assert new_counts(child, "price").tolist() == [1, 4]
    assert child.types["price"] == "linear"


def test_ageing_reaches_known_values_only(parent: Path, tmp_path: Path) -> None:
    child = _extend(parent, _counts(tmp_path / "new", SECOND), tmp_path / "child", keep=0.5)
    counts = child.counts("user")
    assert counts[1] in (4, 5)
    assert counts[2] == 2 + 6
    assert counts[4:].tolist() == [8, 6, 6]


def test_three_generations_and_back_to_the_first_values(parent: Path, tmp_path: Path) -> None:
    second = _extend(parent, _counts(tmp_path / "new", SECOND), tmp_path / "second")
    third_rows: dict[str, Rows] = {"user": [(30, 5), (12, 2)], "city": [("rome", 4)]}
    third = _extend(second.bundle.path, _counts(tmp_path / "third_counts", third_rows), tmp_path / "third")
    assert third.values("user").to_pylist() == [*second.values("user").to_pylist(), 12]
    assert third.counts("user").tolist() == [2, 14, 10, 4, 8, 6, 6, 2]
    assert new_counts(third, "user").tolist() == [0, 5, 0, 0, 0, 0, 0, 2]
    table = pq.read_table(third.bundle.file("user.parquet"))
    assert table["first_generation"].to_pylist() == [0, 0, 0, 0, 1, 1, 1, 2]
    assert len(counted_in(third)) == 3


def test_the_same_refresh_twice_is_the_same_bundle(parent: Path, tmp_path: Path) -> None:
    new = _counts(tmp_path / "new", SECOND)
    first = _extend(parent, new, tmp_path / "a", keep=0.7)
    again = _extend(parent, new, tmp_path / "b", keep=0.7)
    assert first.bundle.uuid == again.bundle.uuid


@pytest.mark.parametrize("which", ["first", "second"])
def test_rows_of_any_earlier_generation_are_refused(parent: Path, tmp_path: Path, which: str) -> None:
    new = _counts(tmp_path / "new", SECOND)
    child = _extend(parent, new, tmp_path / "child")
    counts = tmp_path / "counts" if which == "first" else new
    with pytest.raises(DataError, match=r"counted in the vocabulary .* already; found: generation 1"):
        _extend(child.bundle.path, counts, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_other_vocabularies_or_types_are_refused(parent: Path, tmp_path: Path) -> None:
    counts = _counts(tmp_path / "new", {"user": SECOND["user"]})
    with pytest.raises(DataError, match=r"not of the vocabularies.*found: \{'user': 'int64', 'price': 'linear'\}"):
        _extend(parent, counts, tmp_path / "child")
    assert not (tmp_path / "child").exists()


def test_a_share_that_is_none_leaves_nothing_behind(parent: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at most 1"):
        _extend(parent, _counts(tmp_path / "new", SECOND), tmp_path / "child", keep=1.5)
    assert not (tmp_path / "child").exists()


def test_a_first_generation_has_only_new_counts(parent: Path) -> None:
    vocabularies = Vocabularies.open(parent)
    assert new_counts(vocabularies, "user").tolist() == vocabularies.counts("user").tolist()
