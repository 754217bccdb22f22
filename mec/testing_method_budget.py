"""Conformance of compression methods: their sizes, and what they make of a budget of bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from mec.embeddings.method import Method, MethodInputs, MethodSettings
from mec.embeddings.sizing import BudgetError
from mec.testing_method_data import LAYOUT, inputs

if TYPE_CHECKING:
    from mec.testing_methods import Maker


def budget_problems(make: Maker) -> Iterator[str]:
    """Bytes never fall from size to size, and a budget finds the largest at or under it; or ``_own_budget``.

    Args:
        make: The method.

    Yields:
        What is wrong.
    """
    own = inputs()
    if make.cls.num_sizes(own, make.settings) == 1 and _spends_itself(make.cls):
        yield from _own_budget(make, own)
        return

    def bytes_of(settings: MethodSettings) -> int:
        return sum(make.cls.planned_bytes(own, settings).values())

    num_sizes = make.cls.num_sizes(own, make.settings)
    sizes = np.array([bytes_of(make.cls.at_size(own, make.settings, i + 1)) for i in range(num_sizes)])
    falls = np.flatnonzero(np.diff(sizes) < 0)
    if len(falls):
        i = int(falls[0])
        yield f"size {i + 2} takes {sizes[i + 1]:,} bytes and size {i + 1} takes {sizes[i]:,}: they must not fall"
        return
    budgets = {int(b) + more for b in np.quantile(sizes, (0, 0.3, 0.7, 1), method="nearest") for more in (-1, 0, 1)}
    for budget in sorted(budgets - {int(sizes[0]) - 1}):
        settings = make.cls.for_budget(own, budget, make.settings)
        found, best = bytes_of(settings), int(sizes[sizes <= budget].max())
        if found != best:
            yield f"a budget of {budget:,} bytes gave {found:,}, and {best:,} would fit"
        elif sum(make(own, settings).export().num_bytes().values()) != found:
            yield f"a budget of {budget:,} bytes gave settings whose export does not take the {found:,} planned"
    with suppress(BudgetError):
        make.cls.for_budget(own, int(sizes[0]) - 1, make.settings)
        yield f"a budget below the smallest size, {sizes[0]:,} bytes, was not refused with a BudgetError"


def _own_budget(make: Maker, own: MethodInputs) -> Iterator[str]:
    """A method that spends a budget itself uses most of it, never more, and refuses one that is too small."""
    for share in (2, 6):
        budget = LAYOUT.num_values * own.width * 4 // share
        settings = make.cls.for_budget(own, budget, make.settings)
        found = sum(make.cls.planned_bytes(own, settings).values())
        if not 0.9 * budget <= found <= budget:
            yield f"a budget of {budget:,} bytes gave {found:,}"
        elif sum(make(own, settings).export().num_bytes().values()) != found:
            yield f"a budget of {budget:,} bytes gave settings whose export does not take the {found:,} planned"
    with suppress(BudgetError):
        make.cls.for_budget(own, 1, make.settings)
        yield "a budget of 1 byte was not refused with a BudgetError"


def _spends_itself(cls: type[Method[Any]]) -> bool:
    return any("for_budget" in vars(base) for base in cls.__mro__ if base is not Method)
