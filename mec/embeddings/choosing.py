"""From the scores of a search to sizes: the best ones within a number of bytes, or simply the best ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mec.errors import ConfigError

_CELLS = 4096  # bytes are rounded up to so many parts of the budget


def best_each(scores: Sequence[NDArray[np.float64]]) -> list[int]:
    """The best candidate of each item, the first of equals."""
    return [int(own.argmax()) for own in scores]


def best_within(
    scores: Sequence[NDArray[np.float64]], num_bytes: Sequence[NDArray[np.int64]], budget_bytes: int
) -> list[int] | None:
    """One candidate of each item, with the largest sum of scores whose bytes fit a budget.

    A knapsack by dynamic programming over bytes, rounded up to 1/4096 of the budget: exact up to that.

    Args:
        scores: Per item, (N,) of its candidates.
        num_bytes: Per item, (N,) of its candidates.
        budget_bytes: Of all items together.

    Returns:
        The index of each item's candidate; None where nothing fits.
    """
    if budget_bytes < 0:
        return None
    cell = max(1, -(-budget_bytes // _CELLS))
    num_cells, cells = budget_bytes // cell, [-(-size // cell) for size in num_bytes]
    best = np.zeros(num_cells + 1)  # best[c]: largest score of the items so far in at most c cells
    choices: list[NDArray[np.int64]] = []
    for own, needs in zip(scores, cells, strict=True):
        options = np.full((len(own), num_cells + 1), -np.inf)
        for i, needed in enumerate(needs.tolist()):
            if needed <= num_cells:
                options[i, needed:] = best[: num_cells + 1 - needed] + own[i]
        choices.append(options.argmax(axis=0))
        best = options.max(axis=0)
    if not np.isfinite(best[-1]):
        return None
    left, result = num_cells, []
    for choice, needs in zip(reversed(choices), reversed(cells), strict=True):
        picked = int(choice[left])
        result.append(picked)
        left -= int(needs[picked])
    return result[::-1]


def dim_candidates(candidates: Sequence[int] | None, width: int, name: str) -> list[int]:
    """Dimensions to choose from, rising.

    Args:
        candidates: As set; None: powers of 2 below D + 1, and D + 1.
        width: D + 1.
        name: The method, for the error.

    Raises:
        ConfigError: One of them is less than 1 or more than D + 1.
    """
    if candidates is None:
        return [*(1 << i for i in range(width.bit_length()) if 1 << i < width), width]
    if not all(1 <= dim <= width for dim in candidates):
        raise ConfigError(
            f"{name} chooses from 1 to {width} floats per value",
            found=f"candidates={list(candidates)}",
            fix="remove those outside",
        )
    return sorted(set(candidates))
