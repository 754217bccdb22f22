"""Rows that no value in training reads are filled by methods whose values share rows; all others stay bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mec.embeddings import hashing
from mec.embeddings.hash_functions import bucket
from mec.embeddings.method import Method, MethodInputs
from mec.embeddings.methods import build_method
from mec.testing_methods import exported
from tests.embeddings.test_methods import one_vocabulary, rows_of

V, W = 300, 7
UNSEEN = (0, *range(200, V))
HASHING = [
    ("hashing", {"rows_share": 0.9}),
    ("double_hashing", {"rows_share": 0.9}),
    ("double_hashing", {"rows_share": 0.9, "combine": "concat"}),
    ("double_hashing", {"rows_share": 0.9, "num_hashes": 1}),
    ("double_hashing", {"rows_share": 0.9, "head": 0.8}),
]
SHARING = [
    *HASHING,
    ("others", {"min_count": 1}),
    ("qr", {"compose": "multiply"}),
    ("qr", {"compose": "add"}),
    ("qr", {"compose": "concat"}),
]


def some_unseen(*, in_order: bool = True) -> MethodInputs:
    """Id 0 and the last hundred ids are not in training; out of order, another hundred."""
    counts = np.arange(V, 0, -1)
    counts[list(UNSEEN)] = 0
    counts[1:] = counts[1:] if in_order else np.random.default_rng(0).permutation(counts[1:])
    return one_vocabulary(V, counts)


def drawn(name: str, settings: dict[str, Any], own: MethodInputs) -> Method[Any]:
    """A method whose tables hold noise and lose nothing when they are stored."""
    method = build_method(name, own, {"floats": "float32", "min_values": 2} | settings)
    for weight in method.state_dict().values():
        if weight.is_floating_point():
            weight.normal_(1.0, 1.0, generator=torch.Generator().manual_seed(0))
    return method


def before_it_is_finished(
    name: str, settings: dict[str, object], *, in_order: bool
) -> tuple[Method[Any], Tensor, Tensor]:
    """A method, (V,) which values are in training, and (V, W) rows."""
    own = some_unseen(in_order=in_order)
    method = drawn(name, settings, own)
    return method, torch.from_numpy(own.counts["f"] > 0), rows_of(method, V)


def finished_rows(method: Method[Any]) -> Tensor:
    method.finish()
    return rows_of(method, V)


@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize(("name", "settings"), SHARING)
def test_rows_of_values_in_training_stay_and_all_are_served(name, settings, in_order):
    method, seen, before = before_it_is_finished(name, settings, in_order=in_order)
    after = finished_rows(method)
    assert torch.equal(after[seen], before[seen])
    assert not torch.equal(after[~seen], before[~seen])
    served, _ = exported(method)
    assert torch.equal(served(torch.arange(V, dtype=torch.int32)[:, None])[:, 0], after)


@pytest.mark.parametrize(("name", "settings"), SHARING)
def test_nothing_is_filled_where_no_value_is_in_training(name, settings):
    method = drawn(name, settings, one_vocabulary(V, np.zeros(V)))
    before = rows_of(method, V)
    assert torch.equal(finished_rows(method), before)


@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize(("name", "settings"), HASHING)
def test_a_hashed_value_that_shares_nothing_has_the_mean_of_values_in_training(name, settings, in_order):
    method, seen, before = before_it_is_finished(name, settings, in_order=in_order)
    mean = before[seen].mean(dim=0)
    shape = method.tables[0].shape
    places = np.stack(shape.row_places(torch.arange(V), method.tables[0].index))  # (H, V)
    alone = [
        i for i in np.flatnonzero(~seen.numpy()) if not np.isin(places[:, i], places[:, seen.numpy()].flatten()).any()
    ]
    after = finished_rows(method)
    assert alone[0] == 0
    assert len(alone) > 5
    torch.testing.assert_close(after[alone], mean.expand(len(alone), W))


def test_one_of_two_added_rows_is_kept_where_it_is_shared():
    own = some_unseen()
    method = drawn("double_hashing", {"rows_share": 0.9, "head": 0}, own)
    weight, ids = method.tables[0].table.weight.clone(), torch.arange(V)
    left, right = (1 + bucket(ids, own.salt("hash", "f", i), 269) for i in range(2))
    mean = rows_of(method, V)[1:200].mean(dim=0)
    after = finished_rows(method)
    read = set(left[1:200].tolist()) | set(right[1:200].tolist())
    half = [i for i in UNSEEN[1:] if int(left[i]) in read and int(right[i]) not in read]
    assert len(half) > 5
    for i in half:
        torch.testing.assert_close(after[i], weight[left[i]] + mean / 2)


def test_each_half_is_filled_where_its_own_hash_is_not_shared():
    own = some_unseen()
    method = drawn("double_hashing", {"rows_share": 0.9, "head": 0, "combine": "concat"}, own)
    weight, ids = method.tables[0].table.weight.clone(), torch.arange(V)
    left, right = (1 + bucket(ids, own.salt("hash", "f", i), 269) for i in range(2))
    mean = rows_of(method, V)[1:200].mean(dim=0)
    after = finished_rows(method)
    halves = ((left, set(left[1:200].tolist()), slice(0, 4)), (right, set(right[1:200].tolist()), slice(4, W)))
    for places, read, columns in halves:
        shared = [i for i in UNSEEN[1:] if int(places[i]) in read]
        alone = [i for i in UNSEEN[1:] if int(places[i]) not in read]
        assert min(len(shared), len(alone)) > 5
        assert torch.equal(after[shared][:, columns], weight[places[shared]][:, columns])
        torch.testing.assert_close(after[alone][:, columns], mean[columns].expand(len(alone), -1))


def test_the_others_row_is_the_mean_of_kept_ones_where_no_value_in_training_shares_it():
    method = drawn("others", {"min_count": 1}, some_unseen())
    before = rows_of(method, V)
    after = finished_rows(method)
    torch.testing.assert_close(after[list(UNSEEN)], before[1:200].mean(dim=0).expand(len(UNSEEN), W))


def test_the_others_row_stays_where_a_value_in_training_shares_it():
    counts = some_unseen().counts["f"]
    for own, min_count in ((one_vocabulary(V, counts), 102), (one_vocabulary(V, counts + (np.arange(V) == 0)), 1)):
        method = drawn("others", {"min_count": min_count}, own)
        before = rows_of(method, V)
        assert torch.equal(finished_rows(method), before)


@pytest.mark.parametrize("compose", ["multiply", "add", "concat"])
def test_halves_of_qr_are_filled_with_the_mean_of_those_that_training_reaches(compose):
    counts = np.zeros(V)
    counts[[1, 2, 4, 40, 41]] = 9  # of 60 remainders 1, 2, 4, 40, 41, of 5 quotients 0
    method = drawn("qr", {"compose": compose, "collisions": 5}, one_vocabulary(V, counts))
    part = method.tables[0]
    remainder, quotient = part.remainder.weight.clone(), part.quotient.weight.clone()
    remainder[[i for i in range(60) if not counts[i]]] = remainder[[1, 2, 4, 40, 41]].mean(dim=0)
    quotient[1:] = quotient[0].clone()
    after = finished_rows(method)
    for i in range(V):
        first, second = remainder[i % 60], quotient[i // 60]
        expected = torch.cat([first, second])
        if compose != "concat":
            expected = first * second if compose == "multiply" else first + second
        torch.testing.assert_close(after[i], expected)


@pytest.mark.parametrize(("name", "settings"), HASHING)
def test_values_are_looked_at_in_chunks(name, settings, monkeypatch):
    whole = finished_rows(drawn(name, settings, some_unseen()))
    monkeypatch.setattr(hashing, "_CHUNK_VALUES", 7)
    assert torch.equal(finished_rows(drawn(name, settings, some_unseen())), whole)
