"""Rows of two periods: against sets of tuples, whatever the blocks, buckets and order."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mec.bundle import open_bundle
from mec.data.shards import SPLITS
from mec.errors import DataError
from mec.refresh import overlap
from mec.refresh.overlap import find_overlap, write_row_hashes
from mec.refresh.row_hashes import hash_rows, hash_values
from tests.refresh.periods import make_rows, open_rows, row_tuples, write_rows


@settings(deadline=None)
@given(st.lists(st.none() | st.text("ab\0é", max_size=5), max_size=30))
def test_strings_share_a_hash_only_if_equal(values: list[str | None]) -> None:
    hashes = hash_values(pa.array(values, pa.string())).tolist()
    assert len(set(hashes)) == len(set(values))
    assert len(set(zip(hashes, values, strict=True))) == len(set(values))


@settings(deadline=None)
@given(st.lists(st.none() | st.lists(st.none() | st.integers(-2, 2), max_size=4), max_size=30))
def test_lists_share_a_hash_only_if_equal(values: list[list[int | None] | None]) -> None:
    hashes = hash_values(pa.array(values, pa.list_(pa.int64()))).tolist()
    keys = [None if v is None else tuple(v) for v in values]
    assert len(set(hashes)) == len(set(keys)) == len(set(zip(hashes, keys, strict=True)))


def test_numbers_nulls_and_slices() -> None:
    floats = hash_values(pa.array([0.0, -0.0, 1.5, None, -1.5]))
    assert floats[0] == floats[1]
    assert len(set(floats.tolist())) == 4
    for values in (["x", "yy", None, "", "zz"], [[1], [], [2, 3], None, [4]], [1, None, 3, 4, 5]):
        array = pa.array(values)
        assert hash_values(array.slice(1, 3)).tolist() == hash_values(array)[1:4].tolist()
    assert hash_values(pa.array(["", None])).tolist() == hash_values(pa.array(["x", "", None]).slice(1)).tolist()


def _mixed(x: int) -> int:
    """splitmix64 of one number, in Python's integers."""
    x = (x + 0x9E3779B97F4A7C15) % 2**64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % 2**64
    return x ^ (x >> 31)


def _sequence(items: Iterable[int]) -> int:
    mixed = [_mixed(item ^ _mixed(place ^ 0x243F6A8885A308D3)) for place, item in enumerate(items)]
    return _mixed(sum(mixed) % 2**64 ^ len(mixed))


def test_hashes_do_not_change_between_versions() -> None:
    # stored beside the data of earlier periods: under other hashes no overlap would ever be found
    assert hash_values(pa.array([1, -1, None])).tolist() == [_mixed(1), _mixed(2**64 - 1), 0x6E756C6C]
    assert hash_values(pa.array(["mec", "", "é"])).tolist() == [_sequence(s.encode()) for s in ("mec", "", "é")]
    assert hash_values(pa.array([[1, 2], []])).tolist() == [_sequence([_mixed(1), _mixed(2)]), _sequence([])]
    assert hash_values(pa.array(["mec"])).tolist() == [15106091885771125867]


def _hashes(source: Any) -> np.ndarray:
    return np.concatenate([hash_rows(b) for p in source.partitions() for b in source.read(p)])


def test_rows_share_a_hash_if_and_only_if_equal(tmp_path: Path) -> None:
    rows = make_rows(3000, 0)
    hashes = _hashes(open_rows(write_rows(tmp_path / "a.parquet", rows, row_group_size=3000)))
    tuples = row_tuples(rows)
    assert len(set(tuples)) < 3000
    assert len(set(hashes.tolist())) == len(set(tuples)) == len(set(zip(hashes.tolist(), tuples, strict=True)))
    reordered = open_rows(tmp_path / "a.parquet", categorical=["city", "user"], block_rows=1024)
    assert (_hashes(reordered) == hashes).all()


def test_a_time_column_tells_rows_apart(tmp_path: Path) -> None:
    paths = [write_rows(tmp_path / f"{day}.parquet", make_rows(50, 0, day=day)) for day in (1, 2)]
    without = [_hashes(open_rows(path)) for path in paths]
    with_time = [_hashes(open_rows(path, time="day")) for path in paths]
    assert (without[0] == without[1]).all()
    assert (with_time[0] != with_time[1]).all()


@pytest.mark.parametrize("bucket_rows", [1 << 22, 50])
def test_overlap_is_that_of_sets_of_tuples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bucket_rows: int) -> None:
    monkeypatch.setattr(overlap, "_BUCKET_ROWS", bucket_rows)
    periods = [make_rows(400, 1), make_rows(300, 2)]
    bundles = []
    for number, rows in enumerate(periods):
        source = open_rows(write_rows(tmp_path / f"{number}.parquet", rows))
        bundles.append(write_row_hashes(source, tmp_path / f"hashes-{number}"))
    new = make_rows(500, 3)
    new["split"][:50] = ["neither"] * 50
    found = find_overlap(open_rows(write_rows(tmp_path / "new.parquet", new)), bundles)
    trained = {t for rows in periods for t, s in zip(row_tuples(rows), rows["split"], strict=True) if s == "train"}
    wanted = {
        split: [t in trained for t, s in zip(row_tuples(new), new["split"], strict=True) if s == split]
        for split in SPLITS
    }
    assert found.num_rows == {split: len(rows) for split, rows in wanted.items()}
    assert found.num_found == {split: sum(rows) for split, rows in wanted.items()}
    assert all(found.num_found.values())
    first = next(i for i, t in enumerate(row_tuples(new)) if i >= 50 and t in trained)
    assert found.example.endswith(f"new.parquet row {first} (from 0)")
    assert 0 < found.share < 1
    used = row_tuples(new)[50:]
    assert found.num_repeated >= 0
    assert found.num_repeated <= len(used) - len(set(used))  # counted within a block of rows
    assert open_bundle(tmp_path / "hashes-0", "row_hashes").extra == {
        "bits": 0 if bucket_rows > 400 else 3,
        "rows": 240,
    }


def test_the_files_are_sorted_and_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap, "_BUCKET_ROWS", 50)
    rows = make_rows(400, 1)
    source = open_rows(write_rows(tmp_path / "a.parquet", rows))
    bundle = write_row_hashes(source, tmp_path / "hashes")
    stored = np.concatenate([np.load(bundle.file(name)) for name in sorted(bundle.manifest.files)])
    is_train = np.array(rows["split"]) == "train"
    assert stored.tolist() == sorted(_hashes(source)[is_train].tolist())
    assert len(bundle.manifest.files) == 8


def test_nothing_in_common_and_no_earlier_period(tmp_path: Path) -> None:
    new = open_rows(write_rows(tmp_path / "new.parquet", make_rows(100, 3, day=2)), time="day")
    old = open_rows(write_rows(tmp_path / "old.parquet", make_rows(100, 3, day=1)), time="day")
    for earlier in ([], [write_row_hashes(old, tmp_path / "hashes")]):
        found = find_overlap(new, earlier)
        assert (found.share, found.example) == (0.0, "")
        found.refuse(0.0)


def test_refused_by_number_and_example(tmp_path: Path) -> None:
    old = make_rows(100, 1, day=1)
    new = make_rows(100, 2, day=2)
    for column in new:
        new[column][40:50] = old[column][40:50]
    earlier = write_row_hashes(open_rows(write_rows(tmp_path / "old.parquet", old), time="day"), tmp_path / "hashes")
    found = find_overlap(open_rows(write_rows(tmp_path / "new.parquet", new), time="day"), [earlier])
    assert found.share == 0.06  # of ten rows six were trained on
    found.refuse(0.06)
    words = r"new\.parquet row 40 \(from 0\); found: 6 of 60 train, 0 of 20 valid, 0 of 20 test rows"
    with pytest.raises(DataError, match=words):
        found.refuse(0.059)


def test_no_bundle_is_left_where_rows_cannot_be_read(tmp_path: Path) -> None:
    rows = make_rows(20, 1)
    rows["label"][7] = 5
    source = open_rows(write_rows(tmp_path / "a.parquet", rows))
    with pytest.raises(DataError, match="label"):
        write_row_hashes(source, tmp_path / "hashes")
    assert not (tmp_path / "hashes").exists()
