"""LR and AFM against slow float64 references written from the papers' equations."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor

from mec.errors import ConfigError
from mec.models import build_backbone
from tests.models.reference import (
    D,
    F,
    affine,
    check_against,
    check_dropout_is_for_training_only,
    check_eval_is_deterministic,
    check_every_parameter_is_trained,
    check_odd_sizes,
    check_round_trip,
    count_parameters,
    dot,
    make,
    make_inputs,
    relu,
    softmax,
    total,
)


def lr(model: Any, vectors: Tensor, first: Tensor) -> Tensor:
    return first


def afm(model: Any, vectors: Tensor, first: Tensor) -> Tensor:
    dim = vectors.shape[1]
    products = [
        [vectors[i, d] * vectors[j, d] for d in range(dim)] for i, j in combinations(range(len(vectors)), 2)
    ]  # equation 2
    scores = [dot(model.score, relu(affine(model.attention.weight, model.attention.bias, p))) for p in products]
    attention = softmax(scores)  # equation 5
    pooled = [total(a * p[d] for a, p in zip(attention, products, strict=True)) for d in range(dim)]
    return first + dot(model.projection, pooled)  # equation 6


ROWS: list[tuple[str, Any, dict[str, object]]] = [("lr", lr, {}), ("afm", afm, {"attention_size": 6})]


@pytest.mark.parametrize(("name", "reference", "settings"), ROWS)
def test_outputs_and_gradients_match_the_equations(name: str, reference: Any, settings: dict[str, object]) -> None:
    check_against(make(name, **settings), reference, *make_inputs())
    check_odd_sizes(name, reference, **settings)


@pytest.mark.parametrize(("name", "reference", "settings"), ROWS)
def test_eval_mode_training_and_saving(name: str, reference: Any, settings: dict[str, object]) -> None:
    check_eval_is_deterministic(name, **settings)
    check_round_trip(name, **settings)
    check_every_parameter_is_trained(name, **settings)


def test_parameter_counts_follow_the_formula() -> None:
    assert count_parameters(make("lr")) == 0
    t = 7
    assert count_parameters(make("afm", attention_size=t)) == (D * t + t) + t + D


@pytest.mark.parametrize("setting", ["dropout", "attention_dropout"])
def test_each_dropout_is_for_training_only(setting: str) -> None:
    check_dropout_is_for_training_only("afm", **{"dropout": 0.0, "attention_dropout": 0.0, setting: 0.5})


@pytest.mark.parametrize("setting", ["dropout", "attention_dropout"])
def test_dropout_is_of_the_pooled_units_or_of_the_pairs_weights(setting: str) -> None:
    num_fields, dim = (4, 1) if setting == "dropout" else (2, 3)  # one pooled unit of many pairs, or one pair
    chances = {"dropout": 0.0, "attention_dropout": 0.0, setting: 0.5}
    model = make("afm", num_fields, dim, **chances)
    vectors, _ = make_inputs(64, num_fields, dim)
    whole = model(vectors, None)
    logits = model.train()(vectors, None)
    dropped = logits == 0
    assert 10 < int(dropped.sum()) < 54
    torch.testing.assert_close(logits, torch.where(dropped, 0.0, 2 * whole))


def test_afm_starts_as_an_fm_with_averaged_pairs_when_the_scores_are_equal() -> None:
    model = build_backbone("afm", F, D, {}).double().eval()
    torch.nn.init.zeros_(model.score)  # type: ignore[arg-type]
    vectors, _ = make_inputs()
    fm = build_backbone("fm", F, D, {})
    torch.testing.assert_close(model(vectors, None), fm(vectors, None) / (F * (F - 1) / 2))


def test_lr_needs_first_order_weights_and_afm_does_not() -> None:
    vectors, first = make_inputs()
    with pytest.raises(ValueError, match=r"found: first_order=None; fix: pass the \(B,\) sums"):
        build_backbone("lr", F, D, {})(vectors, None)
    model = make("afm")
    torch.testing.assert_close(model(vectors, None) + first, model(vectors, first))


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="attention_size: Input should be greater than or equal to 1"):
        build_backbone("afm", F, D, {"attention_size": 0})
    with pytest.raises(ConfigError, match="its settings are: none"):
        build_backbone("lr", F, D, {"dropout": 0.1})
