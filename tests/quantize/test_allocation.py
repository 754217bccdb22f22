"""The byte budget: that it is well spent, and that predictions hold for the codebooks that follow."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from mec.config import QuantizeConfig
from mec.errors import ConfigError
from mec.quantize.allocation import Allocation, TableToPlace, allocate, least_bytes
from mec.quantize.coding import code_table
from mec.quantize.fit_watch import FitWatch
from mec.quantize.fitting import fit_codebook
from mec.quantize.kmeans import kmeans
from mec.quantize.plan_front import PlanFront
from mec.quantize.rate_curves import Limits, RateCurve, measure_curves, shapes_within
from mec.quantize.spending import least_choices, spend
from mec.quantize.table_sample import sample_table
from mec.quantize.weights import popularity_weights
from tests.quantize.tables import clustered, place, shrunk, zipf_counts

WIDTH = 5
SETTINGS = QuantizeConfig()
ROW_BYTES = WIDTH * SETTINGS.float_bytes
LIMITS = Limits(codebook_bytes=1 << 30, value_bits=24, iterations=4, fit_points=1 << 20)


def given_to(tables: list[TableToPlace], budget: int, *, width: int = WIDTH, seed: int = 0) -> Allocation:
    return allocate(tables, budget, width, SETTINGS, seed, lambda share, text: None)


def front_of(rows: NDArray[np.float32], *, limits: Limits = LIMITS) -> PlanFront:
    table = place("front", rows)
    sample = sample_table(torch.from_numpy(rows), table.weights, 1 << 20, torch.Generator().manual_seed(0))
    shapes = shapes_within(len(rows), rows.shape[1], 2, limits)
    curves = measure_curves(sample, shapes, limits, 0, every_shape=False)
    return PlanFront(len(rows), rows.shape[1], 2, sample.edges, curves, sample.num_heads)


@pytest.fixture(scope="module")
def fronts() -> list[PlanFront]:
    return [front_of(shrunk(150)), front_of(shrunk(60, seed=1) * 2)]


def test_near_the_best_of_all_pairs(fronts: list[PlanFront]) -> None:
    first, second = fronts
    pairs = first.num_bytes[:, None] + second.num_bytes
    distortions = first.distortions[:, None] + second.distortions
    least = int(pairs.min())
    for budget in np.linspace(least, int(pairs.max()) - 1, 40).astype(int):
        best = distortions[pairs <= budget].min()
        found = spend(fronts, int(budget))
        assert sum(choice.num_bytes for choice in found) <= budget
        assert sum(choice.distortion for choice in found) <= 1.05 * best + 1e-9


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_more_bytes_never_distort_more(fronts: list[PlanFront], data: st.DataObject) -> None:
    least = sum(choice.num_bytes for choice in least_choices(fronts))
    most = sum(int(front.num_bytes[-1]) for front in fronts)
    few = data.draw(st.integers(least, most))
    many = data.draw(st.integers(few, min(most, few + 300)))
    less, more = (sum(choice.distortion for choice in spend(fronts, budget)) for budget in (few, many))
    assert more <= less * (1 + 1e-3)  # codes end on whole bytes


def test_a_larger_budget_is_predicted_to_distort_less() -> None:
    tables = [place("large", shrunk(500)), place("small", shrunk(100, seed=1))]
    found = [given_to(tables, budget).distortion for budget in range(400, 5_000, 1_100)]
    assert found == sorted(found, reverse=True)


def test_prediction_is_the_distortion_counted_value_by_value() -> None:
    rows = shrunk(90)
    table = place("v", rows)
    sample = sample_table(torch.from_numpy(rows), table.weights, 1000, torch.Generator().manual_seed(0))
    curve = measure_curves(sample, [("residual", 1, 4)], LIMITS, 3, every_shape=True)[0]
    known = table.weights > 0
    fitted = kmeans(torch.from_numpy(rows)[known], table.weights[known], 4, iterations=4, seed=3).codewords.numpy()

    def error(row: NDArray[np.float64]) -> float:
        return min(float(np.square(row - codeword).sum()) for codeword in fitted.astype(np.float64))

    weights = table.weights.double().numpy()
    for tail, edge in enumerate(sample.edges):
        ids = [0, *range(edge, len(rows))]
        wanted = sum(weights[i] * error(rows[i].astype(np.float64)) for i in range(1, edge))
        assert curve.coded[tail] == pytest.approx(wanted, rel=1e-4)
        if weights[ids].any():
            mean = np.average(rows[ids].astype(np.float64), axis=0, weights=weights[ids])
            code = fitted[np.square(fitted - mean).sum(1).argmin()]
            wanted = sum(weights[i] * float(np.square(rows[i] - code).sum()) for i in ids)
            assert curve.shared[tail] == pytest.approx(wanted, rel=1e-4)


def test_samples_keep_weights_heads_and_tails() -> None:
    rows, counts = torch.from_numpy(shrunk(9000)), zipf_counts(9000)
    counts[0] = 700
    weights = torch.from_numpy(popularity_weights(counts, "raw"))
    sample = sample_table(rows, weights, 1000, torch.Generator().manual_seed(1))
    assert 930 <= len(sample.rows) <= 1000  # ranges are rounded down
    assert sample.whole[sample.ranges < 10].all()
    assert not (sample.whole & sample.held_out).any()
    for number in range(-1, len(sample.edges) - 1):
        part = slice(0, 1) if number < 0 else slice(int(sample.edges[number]), int(sample.edges[number + 1]))
        found = sample.weights[torch.from_numpy(sample.ranges == number)].sum()
        assert float(found) == pytest.approx(float(weights[part].sum()), rel=1e-4)
    for tail, edge in enumerate(sample.edges):
        ids = torch.tensor([0, *range(edge, 9000)])
        mean = (weights[ids].double() @ rows[ids].double()) / weights[ids].double().sum()
        scatter = weights[ids].double() @ (rows[ids].double() - mean).square().sum(1)
        assert torch.allclose(sample.tail_means[tail].double(), mean, atol=1e-5)
        assert sample.tail_scatters[tail] == pytest.approx(float(scatter), rel=1e-6, abs=1e-6)


def test_prediction_holds_for_the_codebooks_that_follow() -> None:
    size, width = 12_000, 9
    table = place("v", shrunk(size, width=width))
    for share in (0.02, 0.1):
        allocation = given_to([table], int(share * 4 * size * width), width=width)
        plan = allocation.plans["v"]
        assert plan is not None
        coded = code_table(
            "v",
            table.read().clone(),
            table.weights.clone(),
            plan,
            SETTINGS,
            seed=9,
            watch=FitWatch(lambda share, text: None),
            coded=lambda num_values: None,
        )
        # predicted for a codebook of all rows; fitted without head and tail, as the step does, it is a little better
        book = fit_codebook(table.read(), table.weights, plan, SETTINGS, seed=9)
        tail = [0, *range(plan.tail_start, size)]
        rows, weights = table.read().double(), table.weights.double()
        decoded = book.decode(book.encode(table.read())).double()
        mean = weights[tail] @ rows[tail] / weights[tail].sum()
        decoded[tail] = book.decode(book.encode(mean.float()[None])).double()
        errors = (rows - decoded).square().sum(1) * weights
        errors[1 : 1 + plan.head] = 0
        assert allocation.distortion == pytest.approx(float(errors.sum()), rel=0.08)
        assert coded.quality.distortion < 1.05 * allocation.distortion


def test_bytes_go_to_the_vocabulary_that_needs_them() -> None:
    tables = [place("plain", shrunk(400) * np.float32(0.01)), place("busy", shrunk(400, seed=1))]
    allocation = given_to(tables, 2_000)
    spent = {name: share.choice.num_bytes for name, share in allocation.shares.items()}
    assert spent["busy"] > 10 * spent["plain"]


def test_popular_rows_are_kept_exact_and_rare_ones_share_a_code() -> None:
    rows = np.random.default_rng(0).normal(0, 1, (1000, WIDTH)).astype(np.float32)
    rows[300:] *= 0.01
    counts = np.concatenate([[0], np.full(50, 1_000_000), np.full(949, 1)]).astype(np.int64)
    plan = given_to([place("v", rows, counts)], 50 * ROW_BYTES + 400).plans["v"]
    assert plan is not None
    assert 30 <= plan.head <= 60
    assert plan.tail_start < 400


@pytest.mark.parametrize("same", [0.0, 3.0])
def test_equal_rows_need_one_codeword(same: float) -> None:
    allocation = given_to([place("v", np.full((500, WIDTH), same, np.float32))], 2_000)
    assert allocation.distortion == pytest.approx(0, abs=1e-6)
    assert allocation.num_bytes == least_bytes(500, WIDTH, 2)


def test_fewer_rows_than_codewords_are_exact() -> None:
    tables = [place("tiny", shrunk(3)), place("one", shrunk(1, seed=3), np.array([5])), place("large", shrunk(800))]
    allocation = given_to(tables, 900)
    assert allocation.plans["tiny"] is None
    assert allocation.plans["one"] is None
    assert allocation.plans["large"] is not None


def test_values_that_training_never_saw() -> None:
    counts = np.concatenate([[0], np.arange(40, 0, -1), np.zeros(359)]).astype(np.int64)
    allocation = given_to([place("v", clustered(400, WIDTH), counts)], 900)
    plan = allocation.plans["v"]
    assert plan is not None
    assert plan.head < 40  # something is left to fit a codebook on
    assert plan.tail_start <= 52  # no codes for values of no weight, but for the rest of a range


def test_all_exact_reads_no_table() -> None:
    def refuse() -> Tensor:
        raise AssertionError("read")

    table = replace(place("v", shrunk(100)), read=refuse)
    assert given_to([table], 100 * ROW_BYTES).plans == {"v": None}


def test_each_table_is_read_once() -> None:
    rows = torch.from_numpy(shrunk(300))
    reads: list[int] = []

    def read() -> Tensor:
        reads.append(1)
        return rows

    given_to([replace(place("v", rows.numpy()), read=read)], 500)
    assert len(reads) == 1


def test_too_little_names_the_least_budget_that_works() -> None:
    tables = [place(name, shrunk(size)) for name, size in (("user", 500), ("item", 400), ("tiny", 3))]
    least = 2 * (4 * ROW_BYTES + 1) + 3 * ROW_BYTES
    with pytest.raises(ConfigError, match=f"give {least}B or more") as error:
        given_to(tables, least - 1)
    assert "user 41, item 41, tiny 30" in str(error.value)
    assert given_to(tables, least).num_bytes == least


def test_the_same_seed_gives_the_same_plans() -> None:
    tables = [place("v", shrunk(6000))]
    assert given_to(tables, 3_000).to_json() == given_to(tables, 3_000).to_json()


def test_json_says_why() -> None:
    tables = [place("large", shrunk(900)), place("small", shrunk(150, seed=1))]
    allocation = given_to(tables, 1_500)
    facts = json.loads(json.dumps(allocation.to_json()))
    assert facts["budget_bytes"] == 1_500
    assert facts["used_bytes"] == sum(facts["parts"].values()) == allocation.num_bytes
    assert sum(v["distortion_share"] for v in facts["vocabularies"].values()) == pytest.approx(1)
    for name, vocabulary in facts["vocabularies"].items():
        own_bytes = sum(vocabulary["bytes"].values())
        assert vocabulary["below"]["bytes"] < own_bytes < vocabulary["above"]["bytes"]
        assert vocabulary["below"]["distortion"] > vocabulary["distortion"] > vocabulary["above"]["distortion"]
        gained = vocabulary["distortion"] - vocabulary["above"]["distortion"]
        added = vocabulary["above"]["bytes"] - own_bytes
        assert vocabulary["gain_per_byte"]["next"] == pytest.approx(gained / added)
        assert f"{own_bytes:,} bytes" in vocabulary["reason"], name


def test_progress_goes_from_nothing_to_all() -> None:
    told: list[float] = []
    tables = [place("a", shrunk(300)), place("b", shrunk(200))]
    allocate(tables, 600, WIDTH, SETTINGS, 0, lambda share, text: told.append(share))
    assert told == sorted(told)
    assert told[0] == 0.0
    assert told[-1] == 1.0


def curve_shapes(curves: list[RateCurve]) -> set[tuple[str, int, int]]:
    return {(c.plan.structure, c.plan.num_codes, c.plan.num_codewords) for c in curves}


def test_sparse_curves_stand_for_all_shapes() -> None:
    rows = shrunk(3000)
    table = place("v", rows)
    sample = sample_table(torch.from_numpy(rows), table.weights, 4000, torch.Generator().manual_seed(0))
    shapes = [("residual", 1, k) for k in (4, 8, 16, 32, 64)]
    sparse = measure_curves(sample, shapes, LIMITS, 0, every_shape=False)  # type: ignore[arg-type]
    measured = measure_curves(sample, shapes, LIMITS, 0, every_shape=True)  # type: ignore[arg-type]
    assert curve_shapes(sparse) == curve_shapes(measured) == set(shapes)
    for one, other in zip(sparse, measured, strict=True):
        assert one.coded[-1] == pytest.approx(other.coded[-1], rel=0.15)
