"""Reliability of vectors: planted signal is found, and ranges and samples by brute force."""

from __future__ import annotations

import math
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor

from mec.quantize.reliability import LEAST, popularity_ranges, reliability, reliability_json, sample_ranges

LEAST_VALUES = 256
ONE_RANGE = np.zeros(2000, dtype=np.int64)
ALL_KNOWN = np.ones(2000, dtype=np.bool_)


def halves(shape: tuple[int, int], noise: float, seed: int) -> list[Tensor]:
    """Signal of variance 1 plus two halves' own noise: twice the variance that it has in a model of all rows."""
    rng = np.random.default_rng(seed)
    signal = rng.normal(0, 1, shape)
    return [torch.from_numpy(signal + rng.normal(0, math.sqrt(2 * noise), shape)).float() for _ in range(2)]


@pytest.mark.parametrize("noise", [0.1, 1.0, 5.0])
def test_planted_signal_is_found(noise: float) -> None:
    num, width = 2000, 8
    found = reliability(halves((num, width), noise, seed=3), ONE_RANGE, ALL_KNOWN)
    r = 1 / (1 + 2 * noise)
    # a correlation of n pairs errs by (1 - r²) / √n, and 2 r / (1 + r) changes by 2 / (1 + r)² times that
    error = 2 / (1 + r) ** 2 * (1 - r**2) / math.sqrt(num * width)
    assert found == pytest.approx([1 / (1 + noise)], abs=4 * error)


def test_each_range_has_its_own() -> None:
    clear, noisy = halves((600, 8), 0.05, seed=1), halves((600, 8), 4.0, seed=2)
    both = [torch.cat(pair) + 3 for pair in zip(clear, noisy, strict=True)]
    ranges = np.repeat([0, 1], 600)
    known = np.ones(1200, dtype=np.bool_)
    alone = [float(reliability(part, ranges[:600], known[:600])[0]) for part in (clear, noisy)]
    assert reliability(both, ranges, known) == pytest.approx(alone, abs=1e-5)
    assert alone[0] > 0.9
    assert alone[1] < 0.4


@pytest.mark.parametrize(
    ("r", "wanted"), [(-1.0, LEAST), (-0.05, LEAST), (0.0, LEAST), (0.001, LEAST), (0.25, 0.4), (1.0, 1.0)]
)
def test_halves_that_disagree_or_hardly_agree_have_the_least(r: float, wanted: float) -> None:
    a, b = torch.tensor([1.0, 1.0, -1.0, -1.0]), torch.tensor([1.0, -1.0, 1.0, -1.0])
    first, unrelated = torch.stack([a, b], dim=1), torch.stack([a * b, a * b], dim=1)
    second = r * first + math.sqrt(1 - r**2) * unrelated
    found = reliability([first, second], ONE_RANGE[:4], ALL_KNOWN[:4])
    assert found.tolist() == pytest.approx([wanted], rel=1e-6)


def test_more_than_two_folds_by_hand() -> None:
    rng = np.random.default_rng(4)
    shared = rng.normal(0, 1, (50, 3))
    tables = [(2 + shared + rng.normal(0, scale, (50, 3))).astype(np.float32) for scale in (0.5, 1.0, 2.0)]
    pairs = []
    for a, b in combinations(range(3), 2):
        top, squares = 0.0, [0.0, 0.0]
        for column in range(3):
            one, two = ([float(x) for x in tables[index][:, column]] for index in (a, b))
            for x, y in zip(one, two, strict=True):
                dx, dy = x - sum(one) / 50, y - sum(two) / 50
                top, squares = top + dx * dy, [squares[0] + dx * dx, squares[1] + dy * dy]
        pairs.append(top / math.sqrt(squares[0] * squares[1]))
    r = sum(pairs) / 3
    # each model has 2/3 of the rows: all rows are 3/2 times as many
    wanted = 1.5 * r / (1 + 0.5 * r)
    found = reliability([torch.from_numpy(table) for table in tables], ONE_RANGE[:50], ALL_KNOWN[:50])
    assert found == pytest.approx([wanted], rel=1e-6)


def test_values_that_a_fold_does_not_know_do_not_count() -> None:
    tables = halves((500, 4), 0.5, seed=6)
    ranges = np.repeat([0, 1], 250)
    known = np.random.default_rng(7).random(500) < 0.6
    known[250:] = False
    known[300] = True
    wanted = reliability([table[:250][known[:250]] for table in tables], ranges[:250][known[:250]], known[known][:-1])
    for table in tables:
        table[~known] = 1e6
    found = reliability(tables, ranges, known)
    assert found.tolist() == [wanted[0], LEAST], "one known value has nothing to agree on"


def test_without_variance_there_is_nothing_to_doubt() -> None:
    equal = [torch.full((300, 4), value) for value in (0.1, 0.7)]
    assert reliability(equal, ONE_RANGE[:300], ALL_KNOWN[:300]).tolist() == [1.0]
    one_equal = [equal[0], halves((300, 4), 1.0, seed=8)[0]]
    assert reliability(one_equal, ONE_RANGE[:300], ALL_KNOWN[:300]).tolist() == [1.0]


def test_full_agreement_is_one_however_it_is_rounded() -> None:
    for seed in range(40):
        same = halves((30, 4), 1.0, seed)[0].mul(100).round()  # so that three times it is exact
        (found,) = reliability([same, 3 * same], ONE_RANGE[:30], ALL_KNOWN[:30])
        assert 1 - 1e-6 < found <= 1.0


def ranges_by_hand(counts: list[int]) -> list[int]:
    """Bit lengths of counts, taken together from the rarest until 256 values are held and 256 are left."""
    sizes = Counter(count.bit_length() for count in counts if count)
    number_of, held, number = {}, 0, 0
    left = sum(sizes.values())
    for length in sorted(sizes):
        number_of[length] = number
        held, left = held + sizes[length], left - sizes[length]
        if held >= LEAST_VALUES and left >= LEAST_VALUES:
            held, number = 0, number + 1
    return [number_of[count.bit_length()] if count else -1 for count in counts]


@pytest.mark.parametrize("num", [0, 1, 255, 256, 511, 512, 513, 3000])
@pytest.mark.parametrize("shape", [0.3, 0.7, 1.5])
def test_ranges_by_brute_force(num: int, shape: float) -> None:
    rng = np.random.default_rng(num)
    counts = (rng.pareto(shape, num).clip(0, 1e12) * 2).astype(np.int64)
    found = popularity_ranges(counts)
    assert found.tolist() == ranges_by_hand(counts.tolist())
    sizes = Counter(found[found >= 0].tolist())
    assert sorted(sizes) == list(range(len(sizes)))
    assert len(sizes) <= 1 or min(sizes.values()) >= LEAST_VALUES


def test_powers_of_two_begin_ranges() -> None:
    sizes = {0: 5, 1: 256, 2: 128, 3: 128, 4: 200, 7: 55, 8: 257}
    counts = np.repeat(list(sizes), list(sizes.values()))
    wanted = np.repeat([-1, 0, 1, 2], [5, 256, 256, 200 + 55 + 257])  # 255 values from 4 to 7 are too few
    assert popularity_ranges(counts).tolist() == wanted.tolist()


def test_samples_leave_no_range_short() -> None:
    ranges = np.full(300_000, -1)
    ranges[1:100_001], ranges[100_001:100_301], ranges[100_301:100_557] = 0, 1, 2
    index = sample_ranges(ranges, 1000)
    assert (np.diff(index) > 0).all()
    sizes = Counter(ranges[index].tolist())
    assert sizes == {0: math.ceil(100_000 / 300), 1: 300, 2: 256}
    assert sample_ranges(ranges, 150_001).tolist() == np.flatnonzero(ranges >= 0).tolist()
    assert sample_ranges(np.full(9, -1), 1000).tolist() == []


def test_facts_of_each_range() -> None:
    counts, ranges = np.array([0, 9, 8, 3, 2, 2]), np.array([-1, 1, 1, 0, 0, 0])
    assert reliability_json(counts, ranges, np.array([0.25, 0.5])) == [
        {"count_from": 2, "values": 3, "reliability": 0.25},
        {"count_from": 8, "values": 2, "reliability": 0.5},
    ]
