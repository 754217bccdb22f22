"""A byte budget is kept and spent, whatever the sizes, widths, counts, weights and floats."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mec.config import QuantizeConfig
from mec.quantize.allocation import TableToPlace, allocate, least_bytes
from mec.quantize.weights import popularity_weights
from tests.quantize.tables import place, shrunk, zipf_counts


def drawn_counts(kind: str, size: int, seed: int) -> NDArray[np.int64]:
    """(V,) training counts in the order of ids; some value is seen."""
    counts = zipf_counts(size)
    if kind == "flat":
        counts[1:] = 3
    if kind == "unseen":
        counts[2 + size // 3 :] = 0
    if kind == "steep":
        counts = np.sort(np.random.default_rng(seed).zipf(1.5, size).clip(max=10**6))[::-1].astype(np.int64)
    counts[0] = 7 if kind == "steep" or size == 1 else 0
    return counts


@st.composite
def drawn_tables(
    draw: st.DrawFn, sizes: st.SearchStrategy[list[int]]
) -> tuple[list[TableToPlace], int, QuantizeConfig]:
    """Vocabularies, W, and settings; rows far apart, near 0, or for a part equal."""
    width = draw(st.sampled_from([2, 5, 17]))
    config = QuantizeConfig.model_validate(
        {
            "weights": draw(st.sampled_from(["none", "sqrt", "log2", "raw"])),
            "floats": draw(st.sampled_from(["float16", "float32"])),
        }
    )
    tables = []
    for number, size in enumerate(draw(sizes)):
        seed = draw(st.integers(0, 100))
        rows = shrunk(size, width=width, seed=seed)
        if draw(st.booleans()):
            rows[size // 2 :] = rows[-1]
        counts = drawn_counts(draw(st.sampled_from(["zipf", "flat", "unseen", "steep"])), size, seed)
        weights = torch.from_numpy(popularity_weights(counts, config.weights))
        tables.append(replace(place(f"v{number}", rows, counts), weights=weights))
    return tables, width, config


def check_budget(drawn: tuple[list[TableToPlace], int, QuantizeConfig], share: float) -> None:
    """Bytes recounted from plans are at most the budget, and within 5 % of it where more of them would help.

    They would not where the budget has room for an exact row of everything different among the values that have a
    weight: what is left over is then for values that nothing is known of, or that are equal to others.
    """
    tables, width, config = drawn
    row_bytes = width * config.float_bytes
    exact = sum(table.size for table in tables) * row_bytes
    budget = max(int(share * exact), sum(least_bytes(table.size, width, config.float_bytes) for table in tables))
    allocation = allocate(tables, budget, width, config, 0, lambda share, text: None)
    recounted, known_bytes, squares = 0, 0, 0.0
    for table in tables:
        rows = table.read()
        known_bytes += row_bytes * len(rows[table.weights > 0].unique(dim=0))
        squares += float(table.weights @ rows.square().sum(1))
        plan = allocation.plans[table.name]
        parts = {} if plan is None else plan.serving_bytes(table.size, width, config.float_bytes)
        recounted += table.size * row_bytes if plan is None else sum(parts.values())
    assert allocation.num_bytes == recounted <= budget
    if budget >= exact:
        assert set(allocation.plans.values()) == {None}
    elif budget < known_bytes and allocation.distortion > 1e-6 * squares:
        assert budget - recounted <= max(0.05 * budget, row_bytes)


@settings(max_examples=10, deadline=None)
@given(drawn=drawn_tables(st.lists(st.integers(1, 400), min_size=1, max_size=2)), share=st.floats(0.02, 1.1))
def test_never_over_the_budget_and_within_five_percent(
    drawn: tuple[list[TableToPlace], int, QuantizeConfig], share: float
) -> None:
    check_budget(drawn, share)


@settings(max_examples=3, deadline=None)
@given(drawn=drawn_tables(st.lists(st.integers(1_500, 5_000), min_size=1, max_size=1)), share=st.floats(0.01, 0.9))
def test_tables_larger_than_their_samples_keep_the_budget(
    drawn: tuple[list[TableToPlace], int, QuantizeConfig], share: float
) -> None:
    check_budget(drawn, share)
