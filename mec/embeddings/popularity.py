"""Values of a vocabulary in groups of about the same training count, and what networks are told of a group."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MAX_GROUPS = 1024


@dataclass(frozen=True)
class CountGroups:
    """Groups in order of rising count.

    Attributes:
        of_value: (V,) int32, each value's group.
        sizes: (G,) int64, values in each group.
        rows: (G,) int64, training rows of each group's values together.
        features: (G, 2) float32: log(1 + n), n the group's mean count, standardised over values; and the share of
            values in this group or a rarer one, scaled to [-1, 1].
    """

    of_value: NDArray[np.int32]
    sizes: NDArray[np.int64]
    rows: NDArray[np.int64]
    features: Tensor


def by_count(counts: NDArray[np.int64]) -> CountGroups:
    """One group per distinct count of (V,) counts; neighbouring counts share one where there are more than 1,024."""
    distinct, place = np.unique(counts, return_inverse=True)
    num_groups = min(MAX_GROUPS, len(distinct))
    return _groups((np.arange(len(distinct)) * num_groups // len(distinct))[place], counts)


def by_doubling(counts: NDArray[np.int64]) -> CountGroups:
    """Groups of counts 0, 1, 2 to 3, 4 to 7 and so on, those that (V,) counts fall into."""
    doublings = _doublings(counts)
    rank = np.cumsum(np.bincount(doublings) > 0) - 1
    return _groups(rank[doublings], counts)


def doubling_sizes(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """(G,) values in each group of ``by_doubling``."""
    sizes = np.bincount(_doublings(counts))
    return sizes[sizes > 0]


def _doublings(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    # frexp's exponent is exact where log2 rounds; that of 0 is 0
    return np.frexp(counts.astype(np.float64))[1].astype(np.int64)


def _groups(of_value: NDArray[np.int64], counts: NDArray[np.int64]) -> CountGroups:
    sizes = np.bincount(of_value)
    rows = np.bincount(of_value, weights=counts).astype(np.int64)
    logs = np.log1p(rows / sizes)
    mean = np.average(logs, weights=sizes)
    spread = np.sqrt(np.average((logs - mean) ** 2, weights=sizes))
    rank = 2 * np.cumsum(sizes) / sizes.sum() - 1
    features = torch.from_numpy(np.stack([(logs - mean) / max(spread, 1e-12), rank], axis=1)).float()
    return CountGroups(of_value.astype(np.int32), sizes, rows, features)
