"""How much of each vocabulary, and of the training data, reads exact rows, codes, or the tail's shared code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mec.data.layout import OOV_ID

if TYPE_CHECKING:
    from mec.quantize.plan import VocabularyPlan

WAYS = {"head": "exact head rows", "coded": "own codes", "tail": "shared code", "exact": "exact vocabulary"}


def vocabulary_coverage(
    name: str, counts: NDArray[np.int64], plan: VocabularyPlan | None
) -> dict[str, str | int | dict[str, int]]:
    """Values and training impressions of one vocabulary, by the way they are stored.

    Args:
        name: Of the vocabulary.
        counts: (V,) training counts by id; that of id 0 is of all values without an id.
        plan: How it is coded; None where all rows are exact.

    Returns:
        ``vocabulary``, ``unknown`` (impressions of id 0), and by way (``WAYS``) ``values`` and ``impressions``, two
        mappings. Id 0 stands where its row or code is: with the tail if there is one.
    """
    size = len(counts)
    values, impressions = dict.fromkeys(WAYS, 0), dict.fromkeys(WAYS, 0)

    def add(way: str, start: int, stop: int) -> None:
        values[way] += stop - start
        impressions[way] += int(counts[start:stop].sum())

    if plan is None:
        add("exact", 0, size)
    else:
        base = plan.base or size  # ids from here on came later, and each has a code of its own
        tail_start = base - plan.tail(size)
        add("head", 1, 1 + plan.head)
        add("coded", 1 + plan.head, tail_start)
        add("tail", tail_start, base)
        add("coded", base, size)
        add("tail" if plan.has_tail(size) else "coded", OOV_ID, OOV_ID + 1)
    return {"vocabulary": name, "unknown": int(counts[OOV_ID]), "values": values, "impressions": impressions}


def coverage(
    counts: Mapping[str, NDArray[np.int64]], plans: Mapping[str, VocabularyPlan]
) -> list[dict[str, str | int | dict[str, Any]]]:
    """``vocabulary_coverage`` of every vocabulary, those with the most values first."""
    found = [vocabulary_coverage(name, counted, plans.get(name)) for name, counted in counts.items()]
    return sorted(found, key=lambda row: (-len(counts[str(row["vocabulary"])]), str(row["vocabulary"])))
