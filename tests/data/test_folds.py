"""Folds of the training rows: uniform, fixed, and left out row by row, against slow loops over the shards' rows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import chi2

from mec.bundle import write_bundle
from mec.data import dataset as dataset_module
from mec.data.dataset import Batch, EncodedDataset
from mec.data.folds import MAX_FOLDS, Folds
from mec.data.layout import PAD_ID, FieldLayout, FieldSlots
from mec.data.shards import DatasetWriter

NUM_ROWS = 251
LAYOUT = FieldLayout(
    (
        FieldSlots("tag", "categorical", "tag", 0, 1, "none"),  # one value per row
        FieldSlots("x", "linear", "x", 1, 1, "none"),
        FieldSlots("past", "sequence", "item", 2, 3, "mean"),
        FieldSlots("now", "categorical", "item", 5, 1, "none"),
    ),
    (("tag", NUM_ROWS), ("x", 2), ("item", 20)),
)


@dataclass(frozen=True)
class Rows:
    """What was written, row by row."""

    ids: NDArray[np.uint32]
    label: NDArray[np.uint8]
    numerics: NDArray[np.float32]


def made(seed: int) -> Rows:
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 20, (NUM_ROWS, 6)).astype(np.uint32)
    ids[:, 0], ids[:, 1] = np.arange(NUM_ROWS), rng.integers(0, 2, NUM_ROWS)
    for row, length in enumerate(rng.integers(0, 4, NUM_ROWS)):
        ids[row, 2 + length : 5] = PAD_ID
    numerics = rng.normal(3, 0.1, (NUM_ROWS, 1)).astype(np.float32)  # never 0
    return Rows(ids, rng.integers(0, 2, NUM_ROWS).astype(np.uint8), numerics)


@pytest.fixture(scope="module")
def rows() -> Rows:
    return made(0)


@pytest.fixture
def data(rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EncodedDataset:
    """Five training shards of several pieces each."""
    monkeypatch.setattr(dataset_module, "_PIECE_ROWS", 25)
    with write_bundle(tmp_path / "d", "dataset") as draft:
        with DatasetWriter(draft.path, LAYOUT, shard_rows=60) as writer:
            for split in ("train", "valid", "test"):
                writer.append(split, rows.ids, rows.label, numerics=rows.numerics)
        draft.extra = writer.extra()
    return EncodedDataset.open(tmp_path / "d")


def contents(batches: list[Batch]) -> list[tuple[float, ...]]:
    """Every row as a tuple of its ids, weights and label."""
    found = []
    for batch in batches:
        assert batch.weights is not None
        for ids, weights, label in zip(batch.ids, batch.weights, batch.label, strict=True):
            found.append((*ids.tolist(), *weights.tolist(), float(label)))
    return found


@pytest.mark.parametrize("num", [2, 3, 7, MAX_FOLDS])
def test_folds_are_uniform_and_independent_of_each_other(num: int) -> None:
    num_rows = 60_000
    for seed in (0, 1, 2**31 - 1):
        folds = Folds(num, seed).of_rows(0, num_rows)
        assert folds.dtype == np.uint8
        counted = np.bincount(folds, minlength=num)
        assert len(counted) == num
        assert chi_square(counted) < chi2.ppf(1 - 1e-4, num - 1)
        pairs = np.bincount(folds[:-1].astype(int) * num + folds[1:], minlength=num * num)  # rows side by side
        assert chi_square(pairs) < chi2.ppf(1 - 1e-4, num * num - 1)


def chi_square(counted: NDArray[np.int64]) -> float:
    expected = counted.sum() / len(counted)
    return float(((counted - expected) ** 2 / expected).sum())


def test_folds_are_splitmix64_of_the_row_and_the_seed() -> None:
    """In Python's integers, which do not overflow."""
    mask = 2**64 - 1
    for seed in (0, 5):
        expected = []
        for row in range(40, 60):
            z = (row * 0x9E3779B97F4A7C15 + seed * 0xD1342543DE82EF95) & mask
            z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
            z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
            expected.append((z ^ (z >> 31)) % 5)
        assert Folds(5, seed).of_rows(40, 60).tolist() == expected


def test_a_rows_fold_does_not_depend_on_where_reading_starts_and_depends_on_the_seed() -> None:
    whole = Folds(3, 4).of_rows(0, 5000)
    parts = [Folds(3, 4).of_rows(start, min(start + 311, 5000)) for start in range(0, 5000, 311)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    agreement = float((whole == Folds(3, 5).of_rows(0, 5000)).mean())
    assert agreement == pytest.approx(1 / 3, abs=0.05)


@pytest.mark.parametrize(("seed", "shuffle_rows"), [(None, 1), (1, 1), (1, 70), (2, 5000)])
def test_batches_carry_their_rows_folds_in_every_order(
    data: EncodedDataset, seed: int | None, shuffle_rows: int
) -> None:
    folds = Folds(4, 9)
    of_row = folds.of_rows(0, NUM_ROWS)
    for epoch in (0, 1):
        batches = list(data.with_folds(folds).batches("train", 37, seed=seed, epoch=epoch, shuffle_rows=shuffle_rows))
        plain = list(data.batches("train", 37, seed=seed, epoch=epoch, shuffle_rows=shuffle_rows))
        assert contents(batches) == contents(plain), "folds must not change rows or their order"
        for batch in batches:
            assert batch.fold is not None
            assert batch.fold.dtype == np.uint8
            np.testing.assert_array_equal(batch.fold, of_row[batch.ids[:, 0]])
        assert all(batch.fold is None for batch in plain)


@pytest.mark.parametrize(("seed", "shuffle_rows"), [(None, 1), (3, 1), (3, 70), (3, 5000)])
@pytest.mark.parametrize("batch_size", [1, 64, 5000])
def test_without_a_fold_are_exactly_the_other_rows(
    data: EncodedDataset, seed: int | None, shuffle_rows: int, batch_size: int
) -> None:
    folds = Folds(3, 2)
    of_row = folds.of_rows(0, NUM_ROWS)
    whole = dict(zip(range(NUM_ROWS), contents(list(data.batches("train", 100))), strict=True))
    for left_out in range(3):
        kept = data.without_fold(folds, left_out)
        batches = list(kept.batches("train", batch_size, seed=seed, shuffle_rows=shuffle_rows))
        expected = [row for number, row in whole.items() if of_row[number] != left_out]
        found = contents(batches)
        assert Counter(found) == Counter(expected)
        if seed is None:
            assert found == expected
        assert kept.num_rows("train") == len(expected)
        assert [b.num_rows for b in batches[:-1]] == [batch_size] * (len(batches) - 1)
        assert len(batches) == -(-len(expected) // batch_size), "training counts its steps from num_rows"
        assert all(b.fold is None for b in batches), "they are not trained by fold"


def test_folds_are_of_training_rows_only(data: EncodedDataset) -> None:
    folds = Folds(2, 0)
    for split in ("valid", "test"):
        expected = contents(list(data.batches(split, 50)))
        for opened in (data.with_folds(folds), data.without_fold(folds, 1)):
            batches = list(opened.batches(split, 50))
            assert contents(batches) == expected
            assert all(batch.fold is None for batch in batches)
            assert opened.num_rows(split) == NUM_ROWS


def test_a_fold_without_rows_leaves_all_and_one_with_all_leaves_none(
    data: EncodedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Folds, "of_rows", lambda self, first, stop: np.ones(stop - first, np.uint8))
    all_rows, none = data.without_fold(Folds(2, 0), 0), data.without_fold(Folds(2, 0), 1)
    assert [d.num_rows("train") for d in (all_rows, none)] == [NUM_ROWS, 0]
    assert sum(b.num_rows for b in all_rows.batches("train", 50, seed=0, shuffle_rows=90)) == NUM_ROWS
    assert list(none.batches("train", 50, seed=0, shuffle_rows=90)) == []
