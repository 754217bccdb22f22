"""How far a vocabulary's vectors can be trusted, by popularity: what models trained on different rows agree on.

A rare value's vector is part signal and part memory of its few rows. Two models that share no training row share only
the signal, so the correlation of their vectors, in one space, is the signal's share of their variance: the reliability
of a model of half the rows, and by the formula of Spearman (1910) and Brown (1910) that of a model of all rows. Bytes
that tell unreliable vectors apart are wasted, or worse: where each value has a fixed share of clicks, such as two
negatives for every click of a user, what one half of the rows lacks the other has, and the correlation is below 0.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LEAST = 0.01  # of unreliable values: they come last, and get what bytes are left
_LEAST_VALUES = 256  # of a range, so that its covariance is known to some 10 % of the variance


def popularity_ranges(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Ranges of values of about equal count: powers of two, joined from the rare end on to 256 values or more.

    Args:
        counts: (V,) training counts.

    Returns:
        (V,) range of each value, from 0 for the rarest; -1 for values that never occur.
    """
    exponents = np.where(counts > 0, np.frexp(counts.astype(np.float64))[1], -1)
    ranges = np.full(len(counts), -1, dtype=np.int64)
    number, held = 0, 0
    for exponent in np.unique(exponents[exponents >= 0]):
        own = exponents == exponent
        rest = int((exponents > exponent).sum())
        ranges[own] = number
        held += int(own.sum())
        if held >= _LEAST_VALUES and rest >= _LEAST_VALUES:
            number, held = number + 1, 0
    return ranges


def sample_ranges(ranges: NDArray[np.int64], num: int) -> NDArray[np.int64]:
    """About ``num`` values at even distances, closer in small ranges so that none has fewer than it needs.

    Args:
        ranges: (V,) range of each value, -1 for none.
        num: Values wanted; from V // 2 on, all that have a range.

    Returns:
        Ascending ids of values with a range; of each range 256, or all where there are fewer.
    """
    stride = max(1, len(ranges) // num)
    parts = [np.flatnonzero(ranges == number) for number in range(int(ranges.max(initial=-1)) + 1)]
    kept = [part[:: max(1, min(stride, len(part) // _LEAST_VALUES))] for part in parts]
    return np.sort(np.concatenate(kept)) if kept else np.empty(0, dtype=np.int64)


def reliability(
    fold_rows: Sequence[Tensor], ranges: NDArray[np.int64], known: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Reliability of the vectors of a model of all rows, within each range of values.

    With r the mean correlation of two folds' models and n = k / (k - 1) times their rows in all rows, it is
    n r / (1 + (n - 1) r). Models of more than two folds share rows, so that theirs comes out too high.

    Args:
        fold_rows: Values' out-of-fold vectors in one space, (N, W) float32 for each of k >= 2 folds.
        ranges: (N,) range of each value, -1 for none.
        known: (N,) values that occur in the training rows of every fold's model.

    Returns:
        (R,) from ``LEAST`` to 1; 1 for ranges without variance, where there is nothing to tell apart.
    """
    more = len(fold_rows) / (len(fold_rows) - 1)
    result = np.ones(int(ranges.max(initial=-1)) + 1)
    for number in range(len(result)):
        index = torch.from_numpy(np.flatnonzero((ranges == number) & known))
        if len(index) < 2:
            result[number] = LEAST
            continue
        # a float32 mean of equal rows is not always their value, and what is left would correlate
        centred = [rows - rows.mean(0) for rows in (table[index].double() for table in fold_rows)]
        sizes = [float(table.square().sum()) for table in centred]
        if not all(sizes):
            continue
        pairs = combinations(range(len(centred)), 2)
        agreed = [float((centred[a] * centred[b]).sum()) / math.sqrt(sizes[a] * sizes[b]) for a, b in pairs]
        r = statistics.fmean(agreed)
        result[number] = min(max(more * r / (1 + (more - 1) * r), LEAST), 1.0) if r > 0 else LEAST
    return result


def reliability_json(
    counts: NDArray[np.int64], ranges: NDArray[np.int64], shares: NDArray[np.float64]
) -> list[dict[str, float]]:
    """Least training count, number of values and reliability of each range, the rarest first."""
    facts = []
    for number, share in enumerate(shares):
        own = counts[ranges == number]
        facts.append({"count_from": int(own.min()), "values": len(own), "reliability": float(share)})
    return facts
