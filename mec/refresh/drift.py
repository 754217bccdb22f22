"""How far the vectors that a model reads have moved, by popularity.

Codes are a poor measure: a code may change to a codeword that is nearly the same. What is compared here is decoded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mec.evaluation.slices import POPULARITY, value_slices

ReadVectors = Callable[[int, int], Tensor]


@dataclass(frozen=True)
class Drift:
    """Movement of the values of one popularity slice.

    Attributes:
        num_values: Values of the slice.
        values_moved: Share of them whose vector moved at all.
        impressions_moved: The same, each value weighted by its count; 0 where all counts are.
        relative: sum n |new - old|^2 / sum n |old|^2, n the counts: 0 nothing moved, 1 as far as the vectors are long.
        relative_unweighted: The same with each value counted once.
    """

    num_values: int
    values_moved: float
    impressions_moved: float
    relative: float
    relative_unweighted: float

    def to_json(self) -> dict[str, float]:
        return {
            "num_values": self.num_values,
            "values_moved": self.values_moved,
            "impressions_moved": self.impressions_moved,
            "relative": self.relative,
            "relative_unweighted": self.relative_unweighted,
        }


def decoded_drift(
    old: ReadVectors, new: ReadVectors, counts: NDArray[np.int64], *, chunk_rows: int = 65_536
) -> dict[str, Drift]:
    """Compare what both generations decode to, for the values that both know.

    Args:
        old: (start, stop) -> (stop - start, W) decoded vectors of these ids in the older generation.
        new: The same in the newer one; how values are stored (codes, exact rows, shared codes) does not matter.
        counts: (V_old,) counts that slice and weight the values.
        chunk_rows: Values decoded at a time.

    Returns:
        Slice (``unseen``, which holds id 0, ``tail``, ``torso``, ``head``) -> drift, where there are values.
    """
    size = len(counts)
    slices = value_slices(counts)
    # per slice: values, values moved, impressions, impressions moved, then squares: n moved, n old, moved, old
    sums = np.zeros((len(POPULARITY), 8))
    for start in range(0, size, chunk_rows):
        stop = min(start + chunk_rows, size)
        before = old(start, stop).double()
        moved = (new(start, stop).double() - before).square().sum(1).numpy()
        length = before.square().sum(1).numpy()
        n = counts[start:stop].astype(np.float64)
        is_moved = (moved > 0).astype(np.float64)
        columns = (np.ones_like(n), is_moved, n, n * is_moved, n * moved, n * length, moved, length)
        for place, column in enumerate(columns):
            sums[:, place] += np.bincount(slices[start:stop], weights=column, minlength=len(POPULARITY))
    return {name: _drift(row) for name, row in zip(POPULARITY, sums, strict=True) if row[0]}


def reader(vectors: Tensor) -> ReadVectors:
    """Read (V, W) vectors that are in memory."""
    return lambda start, stop: vectors[start:stop]


def _drift(sums: NDArray[np.float64]) -> Drift:
    num, num_moved, impressions, impressions_moved, weighted, weighted_old, moved, old = sums.tolist()
    return Drift(
        num_values=int(num),
        values_moved=num_moved / num,
        impressions_moved=_ratio(impressions_moved, impressions),
        relative=_ratio(weighted, weighted_old),
        relative_unweighted=_ratio(moved, old),
    )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0
