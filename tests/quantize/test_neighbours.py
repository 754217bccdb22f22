"""Overlap of nearest neighbours against a loop over all ways to break ties, and what is listed."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mec.quantize import neighbours
from mec.quantize.neighbours import compare_neighbours, sample_values


def compare(exact: Tensor, decoded: Tensor, counts: list[int] | None = None, slices: list[str] | None = None) -> Any:
    num = len(exact)
    return compare_neighbours(
        np.arange(1, num + 1),
        np.array(counts or range(num, 0, -1)),
        slices or ["head"] * num,
        exact,
        decoded,
        lambda ids: [f"v{value}" for value in ids],
    )


def slow_overlap(exact: Tensor, decoded: Tensor, num: int) -> list[float]:
    """Mean over all pairs of equally good choices of ``num`` neighbours, of each value."""
    result = []
    for query in range(len(exact)):
        choices = []
        for vectors in (exact.double(), decoded.double()):
            others = [other for other in range(len(vectors)) if other != query]
            cosines = {o: float(torch.cosine_similarity(vectors[query], vectors[o], dim=0)) for o in others}
            best = sum(sorted(cosines.values())[-num:])
            choices.append([set(c) for c in combinations(others, num) if sum(cosines[o] for o in c) > best - 1e-9])
        pairs = [(one, other) for one in choices[0] for other in choices[1]]
        result.append(sum(len(one & other) for one, other in pairs) / len(pairs) / num)
    return result


def test_overlap_is_the_mean_over_all_ways_to_break_ties(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "NUM_NEAREST", 3)
    monkeypatch.setattr(neighbours, "_CHUNK_QUERIES", 4)
    generator = torch.Generator().manual_seed(1)
    exact = torch.randn(11, 4, generator=generator)
    codewords = torch.randn(3, 4, generator=generator)
    decoded = codewords[torch.randint(0, 3, (11,), generator=generator)]
    slices = ["head"] * 4 + ["torso"] * 7
    found, expected = compare(exact, decoded, slices=slices), slow_overlap(exact, decoded, 3)
    assert len(set(expected)) > 3
    assert found["overlap"] == pytest.approx(np.mean(expected), abs=1e-5)
    assert [shown["overlap"] for shown in found["shown"]] == pytest.approx(expected[:5], abs=1e-5)
    assert found["by_slice"]["head"] == {"queries": 4, "overlap": pytest.approx(np.mean(expected[:4]), abs=1e-5)}
    assert found["by_slice"]["torso"] == {"queries": 7, "overlap": pytest.approx(np.mean(expected[4:]), abs=1e-5)}
    same = [sum(torch.equal(decoded[q], decoded[o]) for o in range(11) if o != q) for q in range(11)]
    assert found["same_vector"] == pytest.approx(np.mean(same), abs=1e-5)
    assert (found["sample"], found["queries"], found["nearest"], found["chance"]) == (11, 11, 3, 0.3)


def test_equal_vectors_keep_all_neighbours_and_one_code_for_all_keeps_chance() -> None:
    exact = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
    assert compare(exact, 3 * exact)["overlap"] == pytest.approx(1, abs=1e-3)  # as near as rounding tells
    found = compare(exact, torch.ones(200, 6))
    assert found["overlap"] == pytest.approx(10 / 199, abs=1e-5)
    assert found["chance"] == pytest.approx(10 / 199, abs=1e-5)
    assert found["same_vector"] == 199


def test_listed_are_the_most_popular_values_and_the_most_popular_of_equally_near() -> None:
    exact = torch.tensor(
        [[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [-1.0, 0.0], [1.0, 0.3], [0.0, 0.0], [0.5, 0.5], [1, 1.1]]
    )
    decoded = torch.ones(8, 2)
    found = compare(exact, decoded, counts=[3, 9, 1, 2, 8, 4, 5, 6])
    first = found["shown"][0]
    assert (first["value"], first["count"]) == ("v2", 9)
    assert [name for name, _ in first["before"]] == ["v1", "v5", "v7", "v8", "v3"]
    cosine = float(torch.cosine_similarity(exact[1], exact[4], dim=0))
    assert first["before"][1][1] == pytest.approx(cosine, abs=1e-3)
    assert first["after"] == [[name, 1.0] for name in ("v5", "v8", "v7", "v6", "v1")]
    assert first["as_near"] == 2
    assert [shown["value"] for shown in found["shown"]] == ["v2", "v5", "v8", "v7", "v6"]


def test_one_value_has_no_neighbours_and_two_have_one() -> None:
    assert compare(torch.ones(1, 3), torch.ones(1, 3)) is None
    found = compare(torch.eye(2), torch.eye(2))
    assert (found["nearest"], found["overlap"], len(found["shown"])) == (1, 1.0, 2)


@pytest.mark.parametrize("shuffled", [False, True])
def test_the_sample_holds_the_popular_half_and_spans_the_others(shuffled: bool) -> None:
    by_rank = np.concatenate([np.arange(300, 0, -1), np.zeros(40)]).astype(np.int64)
    places = np.random.default_rng(0).permutation(340) if shuffled else np.arange(340)
    counts = np.concatenate([[10**6], by_rank[places]])
    ids = sample_values(counts, most=40)
    assert (np.diff(ids) > 0).all()
    assert len(ids) == 40
    found = np.sort(counts[ids])[::-1]
    assert (found[:20] == np.arange(300, 280, -1)).all()
    assert found[20:].min() == 1
    assert np.abs(np.diff(found[20:]) + 280 / 20).max() < 2
    assert (np.sort(counts[sample_values(counts)]) == np.arange(1, 301)).all()
