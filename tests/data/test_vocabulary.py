from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mec.bundle import open_bundle, write_bundle
from mec.config import CountConfig
from mec.data import value_index
from mec.data.merging import count_table, sort_table
from mec.data.value_index import ValueIndex
from mec.data.vocabulary import Vocabularies, extend, online_keys, oov_key, vocabulary_step
from mec.errors import BundleError, DataError

COUNTS: dict[str, list[tuple[Any, int]]] = {
    "user": [(30, 9), (-2, 4), (7, 4), (None, 4), (11, 1)],
    "city": [("oslo", 5), (None, 3), ("a=b", 2), ("", 1)],
}


def counts_table(rows: list[tuple[Any, int]], kind: pa.DataType) -> pa.Table:
    return pa.table({"value": pa.array([r[0] for r in rows], kind), "count": pa.array([r[1] for r in rows])})


def write_counts(path: Path, counts: Mapping[str, list[tuple[Any, int]]] = COUNTS) -> Path:
    with write_bundle(path, "counts", data_version="v1") as draft:
        types = {}
        for name, rows in counts.items():
            types[name] = "string" if any(isinstance(v, str) for v, _ in rows) else "int64"
            table = counts_table(rows, pa.string() if types[name] == "string" else pa.int64())
            pq.write_table(table, draft.path / f"{name}.parquet")
        draft.extra = {
            "vocabularies": {n: {"type": types[n], "distinct": len(r)} for n, r in counts.items()},
            "rows": {"train": 22, "valid": 2, "test": 2},
            "numeric": {"price": {"mean": 3.0, "std": 2.0, "num_values": 15, "num_nulls": 7}},
        }
    return path


@pytest.fixture
def vocabularies(tmp_path: Path) -> Vocabularies:
    counts = write_counts(tmp_path / "counts")
    vocabulary_step(counts=counts, count=CountConfig(), out=tmp_path / "vocabulary")
    return Vocabularies.open(tmp_path / "vocabulary")


def test_ids_follow_counts_and_null_is_a_value(vocabularies: Vocabularies) -> None:
    assert vocabularies.sizes == {"user": 6, "city": 5, "price": 2}
    assert vocabularies.values("user").to_pylist() == [None, 30, -2, 7, None, 11]
    assert vocabularies.counts("user").tolist() == [0, 9, 4, 4, 4, 1]
    assert vocabularies.ids("user", pa.array([7, None, 12, 30, -2, 11])).tolist() == [3, 4, 0, 1, 2, 5]
    assert vocabularies.ids("city", pa.array(["", None, "OSLO", "oslo"])).tolist() == [4, 2, 0, 1]
    assert vocabularies.ids("city", pa.array([], pa.string())).tolist() == []
    assert vocabularies.ids("user", pa.nulls(2, pa.int64())).tolist() == [4, 4]


def test_file_schema(vocabularies: Vocabularies) -> None:
    table = pq.read_table(vocabularies.bundle.file("user.parquet"))
    assert table.schema.names == ["id", "value", "count", "first_generation"]
    assert table.schema.types == [pa.uint32(), pa.int64(), pa.int64(), pa.int32()]
    assert table["id"].to_pylist() == list(range(6))
    extra = vocabularies.bundle.extra
    assert extra["generation"] == 0
    assert extra["vocabularies"]["price"] == {"size": 2, "type": "linear"}
    assert vocabularies.bundle.manifest.data_version == "v1"
    assert set(vocabularies.bundle.manifest.parents) == {"counts"}


def test_linear_fields(vocabularies: Vocabularies) -> None:
    prices = pa.array([3.0, None, 7.0])
    assert vocabularies.ids("price", prices).tolist() == [1, 0, 1]
    assert vocabularies.weights("price", prices).tolist() == [0.0, 1.0, 2.0]
    assert vocabularies.weights("price", prices).dtype == np.float32
    assert vocabularies.counts("price").tolist() == [7, 15]
    assert vocabularies.keys("price").to_pylist() == ["price!oov", "price"]


def test_online_keys(vocabularies: Vocabularies) -> None:
    assert vocabularies.keys("city").to_pylist() == ["city!oov", "city=oslo", "city", "city=a=b", "city="]
    assert vocabularies.keys("user").to_pylist() == ["user!oov", "user=30", "user=-2", "user=7", "user", "user=11"]
    assert online_keys("v", pa.array([1, None])).to_pylist() == ["v=1", "v"]
    assert oov_key("v") == "v!oov"


def test_min_count_sends_rare_values_to_id_0(tmp_path: Path) -> None:
    counts = write_counts(tmp_path / "counts")
    vocabulary_step(counts=counts, count=CountConfig(min_count=4), out=tmp_path / "vocabulary")
    vocabularies = Vocabularies.open(tmp_path / "vocabulary")
    assert vocabularies.sizes == {"user": 5, "city": 2, "price": 2}
    assert vocabularies.counts("city").tolist() == [6, 5]
    assert vocabularies.ids("city", pa.array(["oslo", None, ""])).tolist() == [1, 0, 0]
    assert vocabularies.ids("user", pa.array([11, None])).tolist() == [0, 4]


def test_min_count_that_leaves_nothing(tmp_path: Path) -> None:
    counts = write_counts(tmp_path / "counts")
    with pytest.raises(DataError, match=r"'city' reaches count\.min_count=6.*at most 5"):
        vocabulary_step(counts=counts, count=CountConfig(min_count=6), out=tmp_path / "vocabulary")
    assert not (tmp_path / "vocabulary").exists()


def test_extend_keeps_ids_and_appends() -> None:
    first = extend(None, counts_table([(30, 9), (7, 4), (None, 2), (5, 1)], pa.int64()), min_count=2, generation=0)
    assert first["value"].to_pylist() == [None, 30, 7, None]
    new = counts_table([(8, 6), (7, 5), (None, 3), (2, 2), (30, 1), (1, 1)], pa.int64())
    second = extend(first, new, min_count=2, generation=1)
    assert second["id"].to_pylist() == [0, 1, 2, 3, 4, 5]
    assert second["value"].to_pylist() == [None, 30, 7, None, 8, 2]
    assert second["count"].to_pylist() == [1, 1, 5, 3, 6, 2]  # of the new rows; 30 stays though it is rare now
    assert second["first_generation"].to_pylist() == [0, 0, 0, 0, 1, 1]
    assert second.schema == first.schema


def test_extend_with_values_that_are_gone() -> None:
    first = extend(None, counts_table([("a", 3), ("b", 2)], pa.string()), min_count=1, generation=0)
    second = extend(first, counts_table([("c", 1)], pa.string()), min_count=1, generation=1)
    assert second["value"].to_pylist() == [None, "a", "b", "c"]
    assert second["count"].to_pylist() == [0, 0, 0, 1]


def test_extend_refuses_another_type() -> None:
    first = extend(None, counts_table([("a", 3)], pa.string()), min_count=1, generation=0)
    with pytest.raises(DataError, match=r"holds string values.*found: int64"):
        extend(first, counts_table([(1, 3)], pa.int64()), min_count=1, generation=1)


@given(
    st.lists(st.lists(st.none() | st.integers(0, 40), min_size=1, max_size=60), min_size=1, max_size=5),
    st.integers(1, 3),
)
def test_extend_is_append_only_over_any_generations(generations: list[list[int | None]], min_count: int) -> None:
    parent: pa.Table | None = None
    for generation, values in enumerate(generations):
        counts = sort_table(count_table(pa.array(values, pa.int64())))
        child = extend(parent, counts, min_count=min_count, generation=generation)
        if parent is not None:
            for column in ("id", "value", "first_generation"):
                assert child[column].to_pylist()[: parent.num_rows] == parent[column].to_pylist()
        known = child["value"].to_pylist()[1:]
        assert len(set(known)) == len(known)
        assert child["count"].to_numpy().sum() == len(values)
        assert all(v in known for v in values if values.count(v) >= min_count)
        parent = child


@given(
    st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), unique=True, max_size=50),
    st.lists(st.none() | st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3), max_size=50),
)
def test_int64_index(known: list[int | None], asked: list[int | None]) -> None:
    check_index(known, known + asked, pa.int64())


@given(st.lists(st.none() | st.text(max_size=4), unique=True, max_size=50), st.lists(st.none() | st.text(max_size=2)))
def test_string_index(known: list[str | None], asked: list[str | None]) -> None:
    check_index(known, known + asked, pa.string())


def check_index(known: list[Any], asked: list[Any], kind: pa.DataType) -> None:
    index = ValueIndex(pa.array([None, *known], kind))
    reference = {v: i + 1 for i, v in enumerate(known)}
    found = index.ids(pa.array(asked, kind))
    assert found.tolist() == [reference.get(v, 0) for v in asked]
    assert found.dtype == np.uint32


def test_strings_of_equal_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = ValueIndex._keys

    def colliding(self: ValueIndex, values: pa.Array) -> Any:
        if self._seed == 0:  # the first hash takes all known strings for one
            return np.zeros(len(values), np.int64)
        return np.where(np.array(values.to_pylist()) == "unknown", keys(self, pa.array(["a"]))[0], keys(self, values))

    monkeypatch.setattr(value_index.ValueIndex, "_keys", colliding)
    index = ValueIndex(pa.array([None, "a", "b"]))
    assert index._seed == 1
    assert index.ids(pa.array(["b", "a", "unknown"])).tolist() == [2, 1, 0]


def test_wrong_and_corrupt_bundles(tmp_path: Path, vocabularies: Vocabularies) -> None:
    with pytest.raises(BundleError, match="not a vocabulary bundle"):
        Vocabularies.open(tmp_path / "counts")
    file = vocabularies.bundle.file("city.parquet")
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(BundleError, match=r"city\.parquet.*checksum"):
        Vocabularies.open(tmp_path / "vocabulary")


def test_same_counts_give_the_same_bundle(tmp_path: Path) -> None:
    counts = write_counts(tmp_path / "counts")
    for name in ("one", "two"):
        vocabulary_step(counts=counts, count=CountConfig(), out=tmp_path / name)
    assert open_bundle(tmp_path / "one").uuid == open_bundle(tmp_path / "two").uuid
