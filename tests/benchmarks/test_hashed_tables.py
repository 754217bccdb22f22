"""Hashed vocabularies by brute force: which rows, how many, and that nothing else of the data changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from compression_study.hashing import buckets, write_hashed
from compression_study.variants import hashed_rows

from mec.bundle import open_bundle, write_bundle
from mec.data.dataset import EncodedDataset
from mec.data.layout import PAD_ID, FieldLayout, FieldSlots
from mec.data.shards import DatasetWriter
from mec.data.vocabulary import Vocabularies

SIZES = {"item": 50, "city": 7}
FIELDS = (
    FieldSlots("item", "categorical", "item", 0, 1, "none"),
    FieldSlots("city", "categorical", "city", 1, 1, "none"),
    FieldSlots("bought", "sequence", "item", 2, 2, "mean"),
)
SPLITS = {"train": 20, "valid": 5, "test": 4}


def layout(**sizes: int) -> FieldLayout:
    return FieldLayout((), tuple(sizes.items()))


@pytest.mark.parametrize(
    ("sizes", "num_rows", "expected"),
    [
        # 100 values stay, 900 rows are left for 8,000 + 1,000 of the others
        ({"user": 8000, "item": 1000, "day": 100}, 1000, {"user": 800, "item": 100}),
        # two small ones would take more than half of the rows: the larger is hashed too
        ({"user": 1000, "day": 40, "hour": 20}, 80, {"user": 57, "day": 2}),
        # nothing is so small that it stays; two rows each at least
        ({"user": 9000, "item": 10}, 9, {"user": 8, "item": 2}),
        # as many rows as values: none has more than it needs
        ({"user": 3000, "item": 2000}, 5000, {"user": 3000, "item": 2000}),
    ],
)
def test_rows_are_shared_in_proportion(sizes: dict[str, int], num_rows: int, expected: dict[str, int]) -> None:
    assert hashed_rows(layout(**sizes), num_rows, min_values=1000 if len(sizes) == 3 else 10) == expected


def test_hashed_tables_never_take_more_rows_than_asked() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        sizes = {f"v{i}": int(size) for i, size in enumerate(10 ** rng.uniform(0.5, 6, rng.integers(1, 9)))}
        total = sum(sizes.values())
        num_rows = total / rng.uniform(1, 200)
        hashed = hashed_rows(layout(**sizes), num_rows, min_values=1000)
        kept = sum(size for name, size in sizes.items() if name not in hashed)
        tiny = sum(rows == 2 for rows in hashed.values())
        assert kept <= num_rows / 2
        assert kept + sum(hashed.values()) <= num_rows + 2 * tiny
        assert all(min(2, sizes[name]) <= rows <= sizes[name] for name, rows in hashed.items())
        # rounded down by less than a row each
        if not tiny:
            assert kept + sum(hashed.values()) > num_rows - len(hashed)


def test_buckets_are_uniform_and_differ_between_vocabularies() -> None:
    rows = buckets("item", 90_001, 10)
    assert rows[0] == 0
    assert (rows.dtype, rows[1:].min(), rows[1:].max()) == (np.uint32, 1, 9)
    counts = np.bincount(rows[1:], minlength=10)[1:]
    assert np.abs(counts - 10_000).max() < 5 * 100  # five standard deviations
    other = buckets("user", 90_001, 10)
    assert abs((rows[1:] == other[1:]).mean() - 1 / 9) < 0.01
    np.testing.assert_array_equal(rows, buckets("item", 90_001, 10))


@pytest.fixture
def rows(tmp_path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Writes ``vocabulary`` and ``dataset``; returns ids and labels of each split."""
    rng = np.random.default_rng(1)
    made = {}
    with write_bundle(tmp_path / "vocabulary", "vocabulary", data_version="hashing") as draft:
        for name, size in SIZES.items():
            columns = {
                "id": pa.array(range(size), pa.uint32()),
                "value": pa.array([None, *range(1, size)], pa.int64()),
                "count": pa.array(rng.integers(0, 100, size), pa.int64()),
                "first_generation": pa.array(np.zeros(size), pa.int32()),
            }
            pq.write_table(pa.table(columns), draft.path / f"{name}.parquet")
        facts = {name: {"size": size, "type": "int64"} for name, size in SIZES.items()}
        draft.extra = {"vocabularies": facts, "generation": 0, "rows": SPLITS, "numeric": {}}
    with write_bundle(tmp_path / "dataset", "dataset", data_version="hashing") as draft:
        with DatasetWriter(draft.path, FieldLayout(FIELDS, tuple(SIZES.items())), shard_rows=8) as writer:
            for split, num in SPLITS.items():
                ids = np.stack([rng.integers(0, SIZES[f.vocabulary], num) for f in (*FIELDS, FIELDS[2])], axis=1)
                ids[::2, 3] = PAD_ID
                made[split] = ids.astype(np.uint32), rng.integers(0, 2, num).astype(np.uint8)
                writer.append(split, *made[split])
        draft.extra = writer.extra()
    return made


def test_hashed_data_is_the_same_rows_with_other_ids(
    tmp_path: Path, rows: dict[str, tuple[np.ndarray, np.ndarray]]
) -> None:
    write_hashed(tmp_path / "dataset", tmp_path / "vocabulary", {"item": 8}, tmp_path / "hashed")
    before, after = (Vocabularies.open(path / "vocabulary") for path in (tmp_path, tmp_path / "hashed"))
    hashed = tmp_path / "hashed" / "dataset"
    found_layout = EncodedDataset.open(hashed).layout
    assert dict(found_layout.vocabularies) == {"item": 8, "city": 7}
    assert found_layout.fields == FIELDS
    place = {old: int(new) for old, new in enumerate(buckets("item", 50, 8))} | {PAD_ID: PAD_ID}
    for split, (ids, label) in rows.items():
        found = {
            name: np.concatenate([np.load(f, allow_pickle=False) for f in sorted(hashed.glob(f"{split}/{name}-*.npy"))])
            for name in ("ids", "label")
        }
        np.testing.assert_array_equal(found["label"], label)
        expected = [[place[a], b, place[c], place[d]] for a, b, c, d in ids.tolist()]
        assert found["ids"].tolist() == expected
    summed = [0] * 8
    for old, count in enumerate(before.counts("item").tolist()):
        summed[place[old]] += count
    assert after.counts("item").tolist() == summed
    np.testing.assert_array_equal(after.counts("city"), before.counts("city"))
    assert after.bundle.extra["vocabularies"]["item"] == {"size": 8, "type": "int64"}
    assert open_bundle(hashed).manifest.data_version == "hashing"
