"""Folds of the training rows: which rows an out-of-fold model leaves out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mec.config.training import MAX_FOLDS


@dataclass(frozen=True)
class Folds:
    """A fold for every training row, drawn from its row number: the same in every pass and in every step.

    Attributes:
        num: How many folds, from 2 to 32.
        seed: Of the draw.
    """

    num: int
    seed: int

    def of_rows(self, first: int, stop: int) -> NDArray[np.uint8]:
        """Folds of the rows [first, stop) of the split in file order, (stop - first,) uint8 in [0, num)."""
        assert 2 <= self.num <= MAX_FOLDS
        with np.errstate(over="ignore"):  # splitmix64 (Steele et al., 2014) counts modulo 2^64
            start = np.uint64(self.seed) * np.uint64(0xD1342543DE82EF95)
            mixed = np.arange(first, stop, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + start
            mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            mixed ^= mixed >> np.uint64(31)
        return (mixed % np.uint64(self.num)).astype(np.uint8)
