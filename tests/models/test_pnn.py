"""PNN with inner, outer and both products against the equations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mec.errors import ConfigError
from mec.models import build_backbone
from tests.models.extremes import check_extremes
from tests.models.reference import (
    D,
    F,
    check_against,
    check_dropout_is_for_training_only,
    check_every_parameter_is_trained,
    check_odd_sizes,
    check_round_trip,
    count_parameters,
    flat,
    make,
    make_inputs,
    mlp_parameters,
    network,
    pair_products,
    total,
)

PRODUCTS = ["inner", "outer", "both"]
HIDDEN = (6, 5)


def summed_outer_products(vectors: Tensor) -> list[Tensor]:
    """Entries (a, b) of sum_i sum_j v_i v_j^T, pair by pair of fields."""
    dims, fields = range(vectors.shape[1]), range(len(vectors))
    return [total(vectors[i, a] * vectors[j, b] for i in fields for j in fields) for a in dims for b in dims]


def pnn(model: Any, vectors: Tensor, first: Tensor) -> Tensor:
    products = {
        "inner": pair_products(vectors),
        "outer": summed_outer_products(vectors),
        "both": pair_products(vectors) + summed_outer_products(vectors),
    }
    return network(model, flat(vectors) + products[model.settings.product])


@pytest.mark.parametrize("product", PRODUCTS)
def test_outputs_and_gradients_match_the_equations(product: str) -> None:
    settings = {"product": product, "hidden_units": HIDDEN, "dropout": 0.2}
    check_against(make("pnn", **settings), pnn, *make_inputs())
    check_odd_sizes("pnn", pnn, **settings)


@pytest.mark.parametrize(("product", "num_products"), [("inner", 6), ("outer", 9), ("both", 15)])
def test_parameter_counts_follow_the_formula(product: str, num_products: int) -> None:
    model = make("pnn", product=product, hidden_units=HIDDEN)
    assert count_parameters(model) == mlp_parameters(F * D + num_products, HIDDEN) + 5


@pytest.mark.parametrize("product", PRODUCTS)
def test_training_saving_and_extremes(product: str) -> None:
    check_every_parameter_is_trained("pnn", product=product)
    check_dropout_is_for_training_only("pnn", product=product, dropout=0.5)
    check_round_trip("pnn", product=product)
    check_extremes("pnn", product=product)


def test_inner_is_the_default() -> None:
    torch.manual_seed(0)
    default = build_backbone("pnn", F, D, {})
    torch.manual_seed(0)
    inner = build_backbone("pnn", F, D, {"product": "inner"})
    linears = [f"hidden.{layer}.{part}" for layer in (0, 3) for part in ("weight", "bias")]
    assert list(default.state_dict()) == [*linears, "output.weight"]
    for key, value in default.state_dict().items():
        assert torch.equal(value, inner.state_dict()[key])


def test_unknown_products_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"product: Input should be 'inner', 'outer' or 'both'"):
        build_backbone("pnn", F, D, {"product": "cross"})
