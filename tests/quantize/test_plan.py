"""Plans of vocabularies: places in the stream against a slow loop, bytes, and which ids are head and tail."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mec.config import QuantizeConfig
from mec.errors import BundleError
from mec.quantize.plan import VocabularyPlan, check_order, settings_plan, stream_ids, stream_places


@st.composite
def spans(draw: st.DrawFn) -> tuple[int, int, int]:
    """V, H and the first id of the tail."""
    size = draw(st.integers(2, 60))
    head = draw(st.integers(0, size - 1))
    return size, head, draw(st.integers(head + 1, size))


@given(spans(), st.sampled_from([torch.int32, torch.int64]))
def test_places_are_those_of_a_slow_loop(span: tuple[int, int, int], dtype: torch.dtype) -> None:
    size, head, tail_start = span
    stream = [0, *(value for value in range(head + 1, tail_start))]  # the value whose code stands at each place
    plan = VocabularyPlan("residual", 1, 4, head, tail_start)
    assert plan.coded(size) == len(stream)
    assert plan.has_tail(size) == (tail_start < size)
    ids = torch.arange(size, dtype=dtype)
    places = stream_places(ids, head, len(stream))
    assert places.dtype == dtype
    for value, place in zip(ids.tolist(), places.tolist(), strict=True):
        if 1 <= value <= head:
            assert 0 <= place < len(stream)
        else:
            assert stream[place] == (value if value < tail_start else 0)


@given(spans(), st.integers(0, 9))
def test_appended_values_stand_behind_all_others(span: tuple[int, int, int], appended: int) -> None:
    base, head, tail_start = span
    size = base + appended
    stream = [0, *range(head + 1, tail_start), *range(base, size)]
    plan = VocabularyPlan("residual", 1, 4, head, tail_start, base)
    assert (plan.coded(size), plan.tail(size)) == (len(stream), base - tail_start)
    assert stream_ids(plan, size).tolist() == stream
    places = stream_places(torch.arange(size), head, plan.coded(size), plan.tail(size), plan.base).tolist()
    for value, place in enumerate(places):
        if not 1 <= value <= head:
            assert stream[place] == (value if value in stream else 0)
    ungrown = VocabularyPlan("residual", 1, 4, head, tail_start)
    assert stream_ids(ungrown, base).tolist() == stream[: len(stream) - appended]


def test_no_tail_start_is_no_tail() -> None:
    plan = VocabularyPlan("product", 2, 4, head=3)
    assert (plan.coded(10), plan.has_tail(10)) == (7, False)


@given(spans(), st.sampled_from(["product", "residual"]), st.integers(1, 5), st.integers(2, 300), st.integers(1, 20))
def test_bytes_are_those_of_arrays(
    span: tuple[int, int, int], structure: str, num_codes: int, num_codewords: int, width: int
) -> None:
    size, head, tail_start = span
    plan = VocabularyPlan(structure, num_codes, num_codewords, head, tail_start)  # type: ignore[arg-type]
    bits = len(f"{num_codewords - 1:b}")
    one_bit_each = np.zeros((tail_start - head, num_codes, bits), dtype=bool)
    shape = (num_codewords, width) if structure == "product" else (num_codes, num_codewords, width)
    for floats in (np.float16, np.float32):
        assert plan.serving_bytes(size, width, np.dtype(floats).itemsize) == {
            "codes": np.packbits(one_bit_each).nbytes,
            "codebooks": np.zeros(shape, floats).nbytes,
            "rows": np.zeros((head, width), floats).nbytes,
        }
        coded_bytes = np.packbits(one_bit_each).nbytes + np.zeros(shape, floats).nbytes
        saves = coded_bytes < np.zeros((size - head, width), floats).nbytes
        assert plan.saves_bytes(size, width, np.dtype(floats).itemsize) == saves


COUNTS = np.array([7, 90, 50, 50, 8, 3, 2, 2, 1, 1])


@pytest.mark.parametrize(
    ("settings", "head", "tail_start"),
    [
        ({}, 0, 10),
        ({"tail_count": 1}, 0, 10),
        ({"tail_count": 2}, 0, 8),
        ({"tail_count": 3}, 0, 6),
        ({"tail_count": 50}, 0, 4),
        ({"tail_count": 91}, 0, 1),
        ({"head": 2}, 2, 10),
        ({"head": 5, "tail_count": 50}, 5, 6),
    ],
)
def test_head_and_tail_of_the_settings(settings: dict[str, int], head: int, tail_start: int) -> None:
    config = QuantizeConfig.model_validate({"num_codewords": 4, "min_values": 10, **settings})
    assert settings_plan(config, 10, COUNTS) == VocabularyPlan("residual", 1, 4, head, tail_start)


@pytest.mark.parametrize("settings", [{"min_values": 11}, {"num_codewords": 10}, {"num_codewords": 4, "head": 6}])
def test_too_few_values_stay_exact(settings: dict[str, int]) -> None:
    assert settings_plan(QuantizeConfig.model_validate({"min_values": 2, **settings}), 10, COUNTS) is None


def test_ids_must_be_in_order_of_popularity() -> None:
    check_order("user", COUNTS)
    check_order("user", np.array([0]))
    with pytest.raises(BundleError, match=r"vocabulary 'user' .*found: 9 rows of id 3 after 4 of id 2"):
        check_order("user", np.array([0, 5, 4, 9]))
