"""The largest size of a method within a budget of bytes."""

from __future__ import annotations

import math
from collections.abc import Callable

from mec.errors import ConfigError


class BudgetError(ConfigError):
    """No size of a method fits a budget."""


def largest_within(budget_bytes: int, num_sizes: int, bytes_of: Callable[[int], int], name: str) -> int:
    """The largest size whose bytes are at or under the budget, by bisection.

    Args:
        budget_bytes: The budget.
        num_sizes: Sizes are 1 to this.
        bytes_of: Size -> bytes, never falling.
        name: The method, for the error.

    Raises:
        BudgetError: The smallest size is over the budget; the closest reachable ones are named.
    """
    smallest = bytes_of(1)
    if smallest > budget_bytes:
        more = next_larger(1, num_sizes, bytes_of)
        sizes = f"{smallest:,} bytes" + (f", and the next {bytes_of(more):,} bytes" if more is not None else "")
        raise BudgetError(
            f"the method {name!r} cannot get down to {budget_bytes:,} bytes: its smallest size is {sizes}",
            found=f"a budget of {budget_bytes:,} bytes",
            fix=f"set the budget to {smallest:,} bytes or more, or store its floats as float16",
        )
    low, high = 1, num_sizes
    while low < high:
        middle = (low + high + 1) // 2
        if bytes_of(middle) <= budget_bytes:
            low = middle
        else:
            high = middle - 1
    return low


def next_larger(size: int, num_sizes: int, bytes_of: Callable[[int], int]) -> int | None:
    """The first size after ``size`` with more bytes; None where there is none. Bytes never fall."""
    low, high, here = size, num_sizes, bytes_of(size)
    if bytes_of(high) <= here:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if bytes_of(middle) <= here else (low, middle)
    return high


def share_of(num_values: int, share: float, at_least: int) -> int:
    """Rows that are a share of V values, rounded up; never more than V unless ``at_least`` is."""
    # n / N * N may exceed n by a rounding error, which must not cost a row
    return max(at_least, min(num_values, math.ceil(share * num_values * (1 - 1e-12))))
