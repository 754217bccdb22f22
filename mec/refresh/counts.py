"""Counts over several periods: the old ones, aged if wished, and the new ones on top."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from mec.data.splits import uniform
from mec.errors import ConfigError


def merged_counts(
    old: NDArray[np.int64], new: NDArray[np.int64], *, keep: float, generation: int, vocabulary: str
) -> NDArray[np.int64]:
    """Old counts times ``keep``, plus the new ones.

    Counts stay whole numbers, as all readers of a vocabulary bundle take them. An aged count is rounded up with the
    probability of its fraction, drawn from a hash of vocabulary, id and generation: the same inputs give the same
    counts, and the expected count is exact. Rounding to the nearest would stop ageing counts below 0.5 / (1 - keep).

    Args:
        old: (V_old,) counts by id.
        new: (V_new,) counts of the new rows by id, V_new >= V_old.
        keep: Share of an old count that is kept, above 0; 1 adds up all periods alike.
        generation: Number of the new generation.
        vocabulary: Its name.

    Returns:
        (V_new,) int64.

    Raises:
        ConfigError: ``keep`` does not lie in (0, 1].
    """
    if not 0.0 < keep <= 1.0:
        raise ConfigError(
            "the share of old counts that a refresh keeps must be above 0 and at most 1",
            found=keep,
            fix="set it to 1 to count all periods alike, or to 0.5 ** (1 / n) to halve a count in n refreshes",
        )
    merged = new.astype(np.int64)
    merged[: len(old)] += old if keep == 1.0 else _aged(old, keep, generation, vocabulary)
    return merged


def _aged(old: NDArray[np.int64], keep: float, generation: int, vocabulary: str) -> NDArray[np.int64]:
    digest = hashlib.sha256(f"{vocabulary}/{generation}".encode()).digest()
    draws = uniform(np.arange(len(old), dtype=np.uint64), int.from_bytes(digest[:8], "little"))
    aged: NDArray[np.int64] = np.floor(old * keep + draws).astype(np.int64)
    return aged
