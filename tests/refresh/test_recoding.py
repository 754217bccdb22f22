"""New codes value by value, against a loop in Python; and what moves, by popularity."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from mec.errors import BundleError, ConfigError, TrainingError
from mec.quantize.fitting import Codebook
from mec.quantize.product import ProductCodebook
from mec.quantize.residual import ResidualCodebook
from mec.refresh.drift import decoded_drift, reader
from mec.refresh.recoding import recode

WIDTH, OLD, NEW = 4, 50, 70


def _draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


BOOKS: dict[str, Codebook] = {
    "residual 1": ResidualCodebook(_draw(1, 8, WIDTH, seed=1)),
    "residual 2": ResidualCodebook(_draw(2, 8, WIDTH, seed=2)),
    "product 2": ProductCodebook(_draw(8, WIDTH, seed=3), 2),
}


@pytest.mark.parametrize("hysteresis", [0.0, 0.2, 0.5])
@pytest.mark.parametrize("name", list(BOOKS))
@pytest.mark.parametrize("chunk_rows", [7, 1000])
def test_against_a_loop(name: str, hysteresis: float, chunk_rows: int) -> None:
    book = BOOKS[name]
    before, rows = _draw(OLD, WIDTH, seed=4), _draw(NEW, WIDTH, seed=5)
    rows[:OLD] = before + 0.5 * rows[:OLD]
    old_codes = book.encode(before).to(torch.int32)
    counts = torch.randint(-2, 9, (OLD,), generator=torch.Generator().manual_seed(6)).clamp(min=0)
    found = recode(rows, old_codes, counts, book, hysteresis=hysteresis, chunk_rows=chunk_rows)
    assert found.codes.dtype == torch.int32
    num_held = 0
    for i in range(NEW):
        nearest = book.encode(rows[i : i + 1])[0].tolist()
        wanted = nearest
        if i < OLD:
            old = old_codes[i].tolist()
            errors = [float((rows[i] - book.decode(torch.tensor([c]))[0]).square().sum()) for c in (nearest, old)]
            if not counts[i] or errors[0] >= (1 - hysteresis) * errors[1]:
                wanted = old
            num_held += bool(counts[i]) and wanted != nearest
            saved = int(counts[i]) * (errors[1] - errors[0]) if wanted != old else 0.0
            assert float(found.saved[i]) == pytest.approx(saved, rel=1e-4)
        assert found.codes[i].tolist() == wanted
        assert bool(found.changed[i]) == (i >= OLD or wanted != old_codes[i].tolist())
    assert found.num_held == num_held
    assert found.num_changed == int(found.changed.sum())
    assert NEW - OLD < found.num_changed < NEW
    assert num_held > 0 or hysteresis == 0


def test_hysteresis_compares_squared_errors() -> None:
    book = ResidualCodebook(torch.tensor([[[0.0], [1.0]]]))
    rows = torch.tensor([[0.55], [0.55], [0.75], [0.75]])
    # from codeword 0 to 1: .3025 to .2025, a third saved; .5625 to .0625, eight ninths saved
    old = torch.zeros(4, 1, dtype=torch.int64)
    for hysteresis, wanted in ((0.33, [1, 1, 1, 1]), (0.34, [0, 0, 1, 1]), (0.88, [0, 0, 1, 1]), (0.89, [0, 0, 0, 0])):
        found = recode(rows, old, torch.ones(4, dtype=torch.int64), book, hysteresis=hysteresis, chunk_rows=3)
        assert found.codes[:, 0].tolist() == wanted


def test_the_same_rows_again_change_nothing() -> None:
    book = BOOKS["residual 2"]
    rows = _draw(NEW, WIDTH, seed=5)
    counts = torch.ones(OLD, dtype=torch.int64)
    first = recode(rows, book.encode(_draw(OLD, WIDTH, seed=4)), counts, book, hysteresis=0.2, chunk_rows=16)
    again = recode(rows, first.codes, torch.ones(NEW, dtype=torch.int64), book, hysteresis=0.2, chunk_rows=16)
    assert torch.equal(again.codes, first.codes)
    assert again.num_changed == 0


def test_rows_without_new_data_are_not_looked_at() -> None:
    book = BOOKS["residual 1"]
    rows = _draw(OLD, WIDTH, seed=5)
    rows[3] = torch.nan
    old_codes = book.encode(_draw(OLD, WIDTH, seed=4))
    counts = torch.ones(OLD, dtype=torch.int64)
    counts[3] = 0
    found = recode(rows, old_codes, counts, book, hysteresis=0.0, chunk_rows=16)
    assert torch.equal(found.codes[3], old_codes[3])
    counts[3] = 2
    with pytest.raises(TrainingError, match="found: 1 rows"):
        recode(rows, old_codes, counts, book, hysteresis=0.0, chunk_rows=16)


def test_new_rows_that_are_not_finite_are_refused() -> None:
    book = BOOKS["residual 1"]
    rows = _draw(OLD + 2, WIDTH, seed=5)
    rows[-1, 0] = torch.inf
    old_codes = book.encode(rows[:OLD])
    with pytest.raises(TrainingError, match="cannot be coded"):
        recode(rows, old_codes, torch.zeros(OLD, dtype=torch.bool), book, hysteresis=0.0, chunk_rows=16)


@pytest.mark.parametrize("hysteresis", [-0.1, 1.0, float("nan")])
def test_hysteresis_that_is_none_is_refused(hysteresis: float) -> None:
    book = BOOKS["residual 1"]
    rows = _draw(OLD, WIDTH, seed=5)
    with pytest.raises(ConfigError, match="hysteresis"):
        recode(rows, book.encode(rows), torch.ones(OLD) > 0, book, hysteresis=hysteresis, chunk_rows=16)


@pytest.mark.parametrize("wrong", ["fewer rows", "wider rows", "more codes"])
def test_tables_of_another_space_are_refused(wrong: str) -> None:
    book = BOOKS["residual 1"]
    rows = _draw(OLD, WIDTH, seed=5)
    codes = book.encode(rows)
    if wrong == "fewer rows":
        rows = rows[:-1]
    elif wrong == "wider rows":
        rows = torch.cat([rows, rows], 1)
    else:
        codes = torch.cat([codes, codes], 1)
    with pytest.raises(BundleError, match="do not extend 50 coded values of width 4"):
        recode(rows, codes, torch.ones(OLD) > 0, book, hysteresis=0.0, chunk_rows=16)


@pytest.mark.parametrize("chunk_rows", [3, 100])
def test_drift_by_popularity(chunk_rows: int) -> None:
    # 200 impressions: ids 1 and 2 are head, 3 and 4 torso, 5 to 24 tail, 25 unseen as it has no count
    counts = np.array([5, 60, 60, 40, 20, *[1] * 20, 0])
    old = torch.ones(len(counts), 2)
    new = old.clone()
    new[2] = torch.tensor([1.0, 3.0])
    new[5:10] = 0.0
    new[0] = -1.0
    extended = torch.cat([new, torch.full((9, 2), 1e9)])  # values that only the newer generation knows
    found = decoded_drift(reader(old), reader(extended), counts, chunk_rows=chunk_rows)
    assert {name: d.num_values for name, d in found.items()} == {"unseen": 2, "tail": 20, "torso": 2, "head": 2}
    head, tail, torso, unseen = found["head"], found["tail"], found["torso"], found["unseen"]
    assert (head.values_moved, head.impressions_moved) == (0.5, 0.5)
    assert (head.relative, head.relative_unweighted) == (60 * 4 / (120 * 2), 1.0)
    assert (tail.values_moved, tail.impressions_moved, tail.relative) == (0.25, 0.25, 0.25)
    assert (torso.values_moved, torso.relative) == (0.0, 0.0)
    # id 0 stands for five impressions, id 25 for none
    assert (unseen.values_moved, unseen.impressions_moved) == (0.5, 1.0)
    assert (unseen.relative, unseen.relative_unweighted) == (4.0, 2.0)
    assert set(head.to_json()) >= {"num_values", "relative"}


def test_drift_weighs_values_by_their_counts() -> None:
    counts = np.array([0, 90, 90, 10])
    old = torch.tensor([[0.0], [2.0], [1.0], [3.0]])
    new = torch.tensor([[0.0], [3.0], [1.0], [3.0]])
    found = decoded_drift(reader(old), reader(new), counts)
    assert found["head"].relative == pytest.approx(90 * 1 / (90 * 4 + 90 * 1))
    counts[2] = 30  # ids 1 alone is head now
    assert decoded_drift(reader(old), reader(new), counts)["head"].relative == pytest.approx(1 / 4)
