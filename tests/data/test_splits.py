import numpy as np
import pyarrow as pa
import pytest

from mec.config import SplitConfig
from mec.data.splits import split_at_random, split_by_column, split_by_time, uniform


def test_column_values_outside_the_three_belong_to_no_split() -> None:
    values = pa.array(["train", "test", None, "other", "valid"])
    assert split_by_column(values, SplitConfig(kind="column")).tolist() == [0, 2, 255, 255, 1]


def test_random_shares_and_determinism() -> None:
    split = SplitConfig(valid_fraction=0.1, test_fraction=0.2)
    codes = split_at_random(0, 200_000, 7, split)
    shares = np.bincount(codes) / len(codes)
    assert shares == pytest.approx([0.7, 0.1, 0.2], abs=0.005)
    assert np.array_equal(codes, split_at_random(0, 200_000, 7, split))
    assert not np.array_equal(codes, split_at_random(0, 200_000, 8, split))


def test_random_is_independent_of_block_size() -> None:
    split = SplitConfig()
    whole = split_at_random(1000, 5000, 3, split)
    pieces = [split_at_random(1000 + b, 500, 3, split) for b in range(0, 5000, 500)]
    assert np.array_equal(whole, np.concatenate(pieces))


def test_uniform_has_no_visible_pattern() -> None:
    draws = uniform(np.arange(100_000, dtype=np.uint64), 0)
    counts, _ = np.histogram(draws, bins=100, range=(0, 1))
    assert ((counts - 1000) ** 2 / 1000).sum() < 160  # chi-squared, 99 degrees of freedom
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.02


def test_time_bounds_belong_to_the_later_split() -> None:
    split = SplitConfig(kind="time", valid_from=5, test_from=8)
    assert split_by_time(np.array([4.9, 5.0, 7.9, 8.0, 99.0]), split).tolist() == [0, 1, 1, 2, 2]
