"""Paired bootstrap of AUC: several models on the same resampled rows, so that their differences keep the pairing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mec.evaluation.metrics import Floats, Interval, Labels, auc

MAX_RESAMPLES, MIN_RESAMPLES = 1_000, 200
_ROW_DRAWS = 100_000_000  # rows drawn in all, beyond which there are fewer resamples


@dataclass(frozen=True)
class PairedAucs:
    """AUCs of R models on the whole split and on resamples of it.

    values: (R,) on all rows.
    resampled: (resamples, R), each line on the same rows.
    """

    values: NDArray[np.float64]
    resampled: NDArray[np.float64]

    @property
    def num_resamples(self) -> int:
        return len(self.resampled)

    def interval(self, model: int) -> Interval:
        """AUC of one model with its 95 % percentile interval."""
        return _interval(float(self.values[model]), self.resampled[:, model])

    def difference(self, model: int, other: int) -> Interval:
        """Paired difference, ``model`` less ``other``, with its 95 % percentile interval."""
        value = float(self.values[model] - self.values[other])
        return _interval(value, self.resampled[:, model] - self.resampled[:, other])


def paired_bootstrap(
    labels: Labels, scores: Sequence[Floats], *, seed: int, num_resamples: int | None = None
) -> PairedAucs:
    """AUCs of several models on resamples of the rows, drawn with replacement (Efron 1979, percentile intervals).

    A resample that drew one label only has no AUC and is drawn again.

    Args:
        labels: (N,) 0 or 1, both of them there.
        scores: R arrays (N,), higher means more likely 1.
        seed: Of the resamples.
        num_resamples: None: 1,000, and fewer (200 at least) above 100,000 rows.

    Raises:
        DataError: The labels hold one class only.
    """
    values = np.array([auc(labels, score) for score in scores])
    num_rows = len(labels)
    if num_resamples is None:
        num_resamples = min(max(_ROW_DRAWS // num_rows, MIN_RESAMPLES), MAX_RESAMPLES)
    generator = np.random.default_rng(seed)
    ranked = [_Ranked(labels, score) for score in scores]
    resampled = np.empty((num_resamples, len(ranked)))
    for line in resampled:
        times = _draw(labels, generator)
        line[:] = [model.auc(times) for model in ranked]
    return PairedAucs(values, resampled)


class _Ranked:
    """One model's rows in the order of their scores, with the places where a new score begins."""

    def __init__(self, labels: Labels, scores: Floats) -> None:
        self._order = np.argsort(scores, kind="stable")
        ordered = scores[self._order]
        self._starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
        self._positive = labels[self._order] == 1

    def auc(self, times: NDArray[np.int64]) -> float:
        """AUC of the rows where row n is there ``times[n]`` times: pairs in right order, ties half."""
        ordered = times[self._order]
        positives = np.add.reduceat(np.where(self._positive, ordered, 0), self._starts)
        negatives = np.add.reduceat(np.where(self._positive, 0, ordered), self._starts)
        below = np.cumsum(negatives) - negatives
        half_wins = float(np.sum(positives * (2 * below + negatives)))
        return half_wins / (2.0 * float(positives.sum()) * float(negatives.sum()))


def _draw(labels: Labels, generator: np.random.Generator) -> NDArray[np.int64]:
    num_rows = len(labels)
    while True:
        times = np.bincount(generator.integers(0, num_rows, num_rows), minlength=num_rows)
        if 0 < int(times[labels == 1].sum()) < num_rows:
            return times


def _interval(value: float, resampled: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Interval(value, float(low), float(high))
