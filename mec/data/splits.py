"""Which rows train, validate and test: by a column, by a seeded draw, or by time."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mec.config import SplitConfig

TRAIN, VALID, TEST, NO_SPLIT = 0, 1, 2, 255


def split_by_column(values: pa.Array, split: SplitConfig) -> NDArray[np.uint8]:
    """Split codes from the split column's values, compared as text.

    Args:
        values: (N,) string; null or any other value belongs to no split.

    Returns:
        (N,) 0 train, 1 valid, 2 test, 255 none.
    """
    codes = pc.index_in(values, value_set=pa.array([split.train, split.valid, split.test], pa.string()))
    return np.asarray(pc.fill_null(codes, NO_SPLIT), dtype=np.uint8)


def split_at_random(first_row: int, num_rows: int, seed: int, split: SplitConfig) -> NDArray[np.uint8]:
    """Split codes from a hash of seed and row number, so that no block size can change them.

    Args:
        first_row: Number of the first row within the source.
        num_rows: N.

    Returns:
        (N,) 0 train, 1 valid, 2 test.
    """
    draws = uniform(np.arange(first_row, first_row + num_rows, dtype=np.uint64), seed)
    codes = np.full(num_rows, TRAIN, dtype=np.uint8)
    codes[draws < split.valid_fraction + split.test_fraction] = VALID
    codes[draws < split.test_fraction] = TEST
    return codes


def split_by_time(time: NDArray[np.float64], split: SplitConfig) -> NDArray[np.uint8]:
    """Split codes from times: training before ``valid_from``, test from ``test_from`` on."""
    assert split.valid_from is not None
    assert split.test_from is not None
    codes = np.full(len(time), TRAIN, dtype=np.uint8)
    codes[time >= split.valid_from] = VALID
    codes[time >= split.test_from] = TEST
    return codes


def uniform(keys: NDArray[np.uint64], seed: int) -> NDArray[np.float64]:
    """(N,) numbers in [0, 1), a function of key and seed alone."""
    start = splitmix64(np.array([seed], dtype=np.uint64))
    bits = splitmix64(keys ^ start)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def splitmix64(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """(N,) mixed keys (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014)."""
    z = keys + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
