"""Means over seeds with Student's t-intervals, and paired differences."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its two-sided 95 % interval by Student's t; no interval of fewer than two seeds."""

    mean: float
    half: float | None
    num_seeds: int

    @property
    def low(self) -> float | None:
        """Lower end of the interval."""
        return None if self.half is None else self.mean - self.half

    @property
    def high(self) -> float | None:
        """Upper end of the interval."""
        return None if self.half is None else self.mean + self.half

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval is all above or all below zero; without an interval, no."""
        return self.half is not None and abs(self.mean) > self.half

    def to_json(self) -> dict[str, Any]:
        return {"mean": self.mean, "low": self.low, "high": self.high, "num_seeds": self.num_seeds}


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and interval.

    Args:
        values: One per seed, one at least.
    """
    mean, num_seeds = statistics.fmean(values), len(values)
    if num_seeds < 2:
        return Estimate(mean, None, num_seeds)
    from scipy import stats

    quantile = float(stats.t.ppf(0.975, num_seeds - 1))
    return Estimate(mean, quantile * statistics.stdev(values) / math.sqrt(num_seeds), num_seeds)


def paired(ours: Mapping[str, float], theirs: Mapping[str, float]) -> Estimate:
    """Mean difference, ours less theirs, of the seeds that both have.

    Args:
        ours: Seed -> value.
        theirs: The same of another; one seed at least in common.
    """
    return estimate([ours[seed] - theirs[seed] for seed in ours if seed in theirs])
