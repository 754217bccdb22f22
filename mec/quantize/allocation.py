"""Bytes to vocabularies: the plan of each one, so that all together distort least within a byte budget.

All vocabularies live in one space of inner products, so their squared errors, weighted by popularity, are added up.
Every plan that is compared was measured on a sample of the vocabulary's own rows (``mec.quantize.rate_curves``), and
bytes go where they take away most of that sum (``mec.quantize.spending``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mec.config import QuantizeConfig
from mec.devices import find_device
from mec.errors import ConfigError
from mec.quantize.allocation_report import VocabularyShare, allocation_json
from mec.quantize.plan import VocabularyPlan
from mec.quantize.plan_search import PlanSearch, exact_front
from mec.quantize.rate_curves import SMALLEST, Limits
from mec.quantize.spending import spend

_VALUE_BITS = 4  # times the bits per value that the budget has on average


@dataclass(frozen=True)
class TableToPlace:
    """One vocabulary.

    Attributes:
        name: Of the vocabulary.
        size: V.
        read: Gives its (V, W) float32 table; called at most once, and only a sample of the table is kept.
        weights: (V,) float32 weight of each value's squared error, at least 0, not all 0.
        counts: (V,) int64 training counts.
    """

    name: str
    size: int
    read: Callable[[], Tensor]
    weights: Tensor
    counts: NDArray[np.int64]


@dataclass(frozen=True)
class Allocation:
    """What each vocabulary was given.

    Attributes:
        budget_bytes: What there was to give.
        shares: Vocabulary -> what it was given, and why; in the order of the tables.
    """

    budget_bytes: int
    shares: Mapping[str, VocabularyShare]

    @property
    def plans(self) -> dict[str, VocabularyPlan | None]:
        """Vocabulary -> plan; None: all its rows exact."""
        return {name: share.choice.plan for name, share in self.shares.items()}

    @property
    def num_bytes(self) -> int:
        """Bytes given, at most the budget."""
        return sum(share.choice.num_bytes for share in self.shares.values())

    @property
    def distortion(self) -> float:
        """Weighted squared error of all vocabularies, as measured on the samples."""
        return sum(share.choice.distortion for share in self.shares.values())

    def to_json(self) -> dict[str, object]:
        """JSON value for people: what was given to which vocabulary, and why."""
        return allocation_json(self.budget_bytes, self.shares)


def allocate(
    tables: Sequence[TableToPlace],
    budget_bytes: int,
    width: int,
    settings: QuantizeConfig,
    seed: int,
    report: Callable[[float, str], None],
) -> Allocation:
    """Choose structure, M, K, head and tail of every vocabulary, or all rows exact.

    The bytes used are within 5 % of the budget wherever more bytes would still lower the distortion; a vocabulary's
    own smallest step, one exact row or one code, is what may be left over.

    Args:
        tables: Vocabularies, at least one.
        budget_bytes: For codes, codebooks, and exact and head rows together.
        width: W = D + 1, floats per row.
        settings: ``max_points`` and ``iterations`` bound the fits, which run on ``device``; ``floats`` says what a
            float takes.
        seed: Of samples and first codewords.
        report: Told of progress: the share done, from 0 to 1, and a text.

    Raises:
        ConfigError: The least plans of all vocabularies take more than the budget, or there is no such device.
    """
    float_bytes, device = settings.float_bytes, find_device(settings.device, "quantize.device")
    if sum(table.size for table in tables) * width * float_bytes <= budget_bytes:
        fronts = [exact_front(table.size, width, float_bytes) for table in tables]
    else:
        _refuse_too_little(tables, budget_bytes, width, float_bytes)
        limits = Limits(
            codebook_bytes=budget_bytes // 2,
            value_bits=max(12.0, _VALUE_BITS * 8 * budget_bytes / sum(table.size for table in tables)),
            iterations=settings.iterations,
            fit_points=settings.max_points,
        )
        searches = []
        for number, table in enumerate(tables):
            report(0.5 * number / len(tables), f"{table.name}: plans compared")
            own_seed = int.from_bytes(hashlib.sha256(f"{seed}/{table.name}".encode()).digest()[:6], "little")
            rows = table.read()
            assert rows.shape == (table.size, width)
            searches.append(PlanSearch(rows, table.weights, limits, float_bytes, own_seed, device))
            del rows
        first = [search.coarse_front() for search in searches]
        fronts = []
        for number, (search, front, choice) in enumerate(zip(searches, first, spend(first, budget_bytes), strict=True)):
            report(0.5 + 0.5 * number / len(tables), f"{tables[number].name}: best plans measured")
            fronts.append(search.fine_front(front, choice))
    report(1.0, "budget spent")
    choices = spend(fronts, budget_bytes)
    shares = {
        table.name: VocabularyShare(
            size=table.size,
            parts=_parts(choice.plan, table.size, width, settings.float_bytes),
            choice=choice,
            smaller=front.cheapest_cut(choice),
            larger=front.steepest(choice, int(front.num_bytes[-1]) + 1),
        )
        for table, front, choice in zip(tables, fronts, choices, strict=True)
    }
    allocation = Allocation(budget_bytes, shares)
    assert allocation.num_bytes <= budget_bytes
    return allocation


def _refuse_too_little(tables: Sequence[TableToPlace], budget_bytes: int, width: int, float_bytes: int) -> None:
    least = {table.name: least_bytes(table.size, width, float_bytes) for table in tables}
    if sum(least.values()) <= budget_bytes:
        return
    largest = sorted(least.items(), key=lambda item: -item[1])[:5]
    taken = ", ".join(f"{name} {num_bytes:,}" for name, num_bytes in largest)
    raise ConfigError(
        f"quantize.budget is less than the least that {len(tables)} vocabularies can be coded in, of which take most: "
        f"{taken} bytes",
        found=f"{budget_bytes:,} bytes",
        fix=f"give {sum(least.values())}B or more, or use fewer fields or a smaller pretrain.embedding_dim",
    )


def least_bytes(size: int, width: int, float_bytes: int) -> int:
    """What V = ``size`` values take at least: four codewords and one code for all, or all rows exact."""
    smallest = VocabularyPlan(*SMALLEST, head=0, tail_start=1)
    return min(size * width * float_bytes, sum(smallest.serving_bytes(size, width, float_bytes).values()))


def _parts(plan: VocabularyPlan | None, size: int, width: int, float_bytes: int) -> dict[str, int]:
    if plan is None:
        return {"codes": 0, "codebooks": 0, "rows": size * width * float_bytes}
    return plan.serving_bytes(size, width, float_bytes)
