"""AutoInt and AutoInt+ against equations 5 to 9, head by head and field by field."""

from __future__ import annotations

import math
from typing import Any

import pytest
from torch import Tensor

from mec.errors import ConfigError
from mec.models import build_backbone
from tests.models.extremes import check_extremes
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
    flat,
    make,
    make_inputs,
    mlp_parameters,
    network,
    relu,
    softmax,
    total,
)

SHAPES = [
    {"num_layers": 1, "num_heads": 1, "attention_dim": 5},
    {"num_layers": 2, "num_heads": 3, "attention_dim": 6, "scaling": True, "attention_dropout": 0.1},
    {"num_layers": 3, "num_heads": 2, "attention_dim": 4},
]
DEEP = {"hidden_units": (6, 5), "dropout": 0.2}


def attention(model: Any, vectors: Tensor) -> Tensor:
    """Logit of the interacting layers; the rows of Q, K and V are their heads', one after the other."""
    heads = model.settings.num_heads
    size = model.settings.attention_dim // heads
    scale = 1 / math.sqrt(size) if model.settings.scaling else 1.0
    fields = [list(v) for v in vectors]
    for layer in model.layers:
        maps = (layer.query, layer.key, layer.value, layer.residual)
        queries, keys, values, residuals = ([affine(m.weight, None, v) for v in fields] for m in maps)
        fields = []
        for m in range(len(vectors)):
            attended: list[Tensor] = []
            for head in range(heads):
                units = slice(head * size, (head + 1) * size)
                weights = softmax([scale * dot(queries[m][units], key[units]) for key in keys])
                attended += [
                    total(w * value[unit] for w, value in zip(weights, values, strict=True))
                    for unit in range(units.start, units.stop)
                ]
            fields.append(relu([a + r for a, r in zip(attended, residuals[m], strict=True)]))
    return dot(model.attention_output.weight[0], [unit for field in fields for unit in field])


def autoint(model: Any, vectors: Tensor, first: Tensor) -> Tensor:
    return attention(model, vectors)


def autoint_plus(model: Any, vectors: Tensor, first: Tensor) -> Tensor:
    return attention(model.autoint, vectors) + network(model, flat(vectors))


@pytest.mark.parametrize("settings", SHAPES)
def test_autoint_matches_the_equations(settings: dict[str, object]) -> None:
    check_against(make("autoint", **settings), autoint, *make_inputs())


@pytest.mark.parametrize("batch_norm", [False, True])
def test_autoint_plus_matches_the_equations(batch_norm: bool) -> None:
    settings = {**SHAPES[1], **DEEP, "batch_norm": batch_norm}
    check_against(make("autoint_plus", **settings), autoint_plus, *make_inputs())


def test_odd_sizes() -> None:
    check_odd_sizes("autoint", autoint, **SHAPES[2])
    check_odd_sizes("autoint_plus", autoint_plus, **SHAPES[0], **DEEP)


@pytest.mark.parametrize("settings", SHAPES)
def test_parameter_counts_follow_the_formula(settings: dict[str, Any]) -> None:
    width = settings["attention_dim"]
    count = 4 * width * D + (settings["num_layers"] - 1) * 4 * width * width + F * width
    assert count_parameters(make("autoint", **settings)) == count
    plus = make("autoint_plus", **settings, **DEEP)
    assert count_parameters(plus) == count + mlp_parameters(F * D, (6, 5)) + 5


@pytest.mark.parametrize("name", ["autoint", "autoint_plus"])
def test_training_saving_and_extremes(name: str) -> None:
    check_every_parameter_is_trained(name)
    check_dropout_is_for_training_only(name, attention_dropout=0.5)
    check_eval_is_deterministic(name)
    check_round_trip(name)
    check_extremes(name)


def test_dropout_of_the_deep_network_is_for_training_only() -> None:
    check_dropout_is_for_training_only("autoint_plus", dropout=0.5)


def test_heads_must_share_the_units() -> None:
    with pytest.raises(ConfigError, match=r"attention_dim=10 cannot be shared by num_heads=4; make it a multiple"):
        build_backbone("autoint", F, D, {"attention_dim": 10, "num_heads": 4})
