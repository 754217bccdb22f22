"""Old counts age by the share they should, and stay whole numbers."""

from __future__ import annotations

import numpy as np
import pytest

from mec.errors import ConfigError
from mec.refresh.counts import merged_counts


def test_without_ageing_counts_add_up() -> None:
    merged = merged_counts(np.array([2, 0, 7]), np.array([1, 4, 0, 9]), keep=1.0, generation=1, vocabulary="v")
    assert merged.tolist() == [3, 4, 7, 9]
    assert merged.dtype == np.int64


@pytest.mark.parametrize("count", [1, 3, 10, 1001])
def test_aged_counts_are_unbiased_and_off_by_less_than_one(count: int) -> None:
    old = np.full(20_000, count)
    merged = merged_counts(old, np.zeros(20_001, np.int64), keep=0.7, generation=3, vocabulary="v")
    assert (np.abs(merged[:-1] - 0.7 * count) < 1).all()
    assert merged[:-1].mean() == pytest.approx(0.7 * count, abs=0.015)  # four standard errors
    assert merged[-1] == 0


def test_values_that_are_gone_die_out() -> None:
    counts = np.full(1000, 4)
    for generation in range(1, 61):
        counts = merged_counts(counts, np.zeros(1000, np.int64), keep=0.9, generation=generation, vocabulary="v")
    assert counts.sum() < 0.03 * 4000  # 0.9^60 is .002


def test_rounding_depends_on_generation_and_vocabulary_and_on_nothing_else() -> None:
    old, new = np.full(500, 3), np.zeros(500, np.int64)
    first = merged_counts(old, new, keep=0.5, generation=1, vocabulary="v")
    assert (merged_counts(old, new, keep=0.5, generation=1, vocabulary="v") == first).all()
    assert (merged_counts(old, new, keep=0.5, generation=2, vocabulary="v") != first).any()
    assert (merged_counts(old, new, keep=0.5, generation=1, vocabulary="w") != first).any()


@pytest.mark.parametrize("keep", [0.0, -0.1, 1.01, float("nan")])
def test_a_share_that_is_none_is_refused(keep: float) -> None:
    with pytest.raises(ConfigError, match=r"above 0 and at most 1"):
        merged_counts(np.array([1]), np.array([1]), keep=keep, generation=1, vocabulary="v")
