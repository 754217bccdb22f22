"""DCNv2, its cross layers and structures, against slow float64 references written from the paper's equations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

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
    flat,
    hidden_layers,
    make,
    make_inputs,
    mlp_parameters,
    softmax,
    total,
)


def crosses_of_matrices(cross: Any, start: list[Tensor]) -> list[Tensor]:
    crossed = start
    for layer in cross.layers:
        if isinstance(layer, nn.Linear):  # equation 1
            products = affine(layer.weight, layer.bias, crossed)
        else:  # equation 2: V^T, then U and b
            products = affine(layer[1].weight, layer[1].bias, affine(layer[0].weight, None, crossed))
        crossed = [x0 * p + x for x0, p, x in zip(start, products, crossed, strict=True)]
    return crossed


def crosses_of_experts(cross: Any, start: list[Tensor], rank: int, num_experts: int) -> list[Tensor]:
    crossed = start
    for down, inner, up in zip(cross.down, cross.inner, cross.up, strict=True):
        gates = [torch.ones((), dtype=torch.float64)]
        if num_experts > 1:
            gates = softmax(affine(cross.gate.weight, None, crossed))
        experts = []
        for i in range(num_experts):  # equation 4
            mine = slice(i * rank, (i + 1) * rank)
            hidden = [torch.tanh(h) for h in affine(down.weight[mine], None, crossed)]
            hidden = [torch.tanh(h) for h in affine(inner[i], None, hidden)]
            products = affine(up.weight[:, mine], up.bias, hidden)
            experts.append([x0 * p for x0, p in zip(start, products, strict=True)])
        crossed = [  # equation 3
            total(g * expert[n] for g, expert in zip(gates, experts, strict=True)) + x for n, x in enumerate(crossed)
        ]
    return crossed


def dcnv2(model: Any, vectors: Tensor, first: Tensor) -> Tensor:
    network, settings, start = model.network, model.settings, flat(vectors)
    if settings.num_experts is None:
        crossed = crosses_of_matrices(network.cross, start)
    else:
        crossed = crosses_of_experts(network.cross, start, settings.low_rank, settings.num_experts)
    if settings.structure == "stacked":
        features = hidden_layers(network.hidden, crossed)
    else:
        features = crossed + hidden_layers(network.hidden, start)
    return dot(network.output.weight[0], features)


CROSSES: list[dict[str, object]] = [
    {},
    {"low_rank": 2},
    {"low_rank": 2, "num_experts": 1},
    {"low_rank": 2, "num_experts": 3},
]
SMALL: dict[str, object] = {"num_cross_layers": 2, "hidden_units": (5, 4)}
EVERY = [SMALL | {"structure": structure} | cross for structure in ("parallel", "stacked") for cross in CROSSES]


@pytest.mark.parametrize("settings", [*EVERY, SMALL | {"batch_norm": True, "dropout": 0.2}])
def test_outputs_and_gradients_match_the_equations(settings: dict[str, object]) -> None:
    check_against(make("dcnv2", **settings), dcnv2, *make_inputs(3))


@pytest.mark.parametrize("settings", EVERY)
def test_odd_sizes(settings: dict[str, object]) -> None:
    check_odd_sizes("dcnv2", dcnv2, **{**settings, "num_cross_layers": 1, "hidden_units": (2,)})


@pytest.mark.parametrize("settings", EVERY)
def test_eval_mode_training_and_saving(settings: dict[str, object]) -> None:
    check_eval_is_deterministic("dcnv2", **settings)
    check_round_trip("dcnv2", **settings)
    check_every_parameter_is_trained("dcnv2", **settings)


@pytest.mark.parametrize("structure", ["parallel", "stacked"])
@pytest.mark.parametrize("cross", CROSSES)
def test_parameter_counts_follow_the_formula(structure: str, cross: dict[str, Any]) -> None:
    model = make("dcnv2", structure=structure, num_cross_layers=3, hidden_units=(7, 2), **cross)
    n, r, experts = F * D, cross.get("low_rank"), cross.get("num_experts")
    if experts is not None:
        crosses = 3 * (experts * (2 * n * r + r * r) + n) + (n * experts if experts > 1 else 0)
    else:
        crosses = 3 * ((n * n if r is None else 2 * n * r) + n)
    output = 2 + (n if structure == "parallel" else 0)
    assert count_parameters(model) == crosses + mlp_parameters(n, (7, 2)) + output


@pytest.mark.parametrize("structure", ["parallel", "stacked"])
def test_dropout_is_for_training_only(structure: str) -> None:
    check_dropout_is_for_training_only("dcnv2", structure=structure, dropout=0.5)


def test_settings_that_contradict_or_exceed_are_refused() -> None:
    with pytest.raises(ConfigError, match="experts are low-rank: set low_rank too"):
        build_backbone("dcnv2", F, D, {"num_experts": 4})
    with pytest.raises(ConfigError, match="structure: Input should be 'stacked' or 'parallel'"):
        build_backbone("dcnv2", F, D, {"structure": "both"})
    with pytest.raises(ConfigError, match="low_rank: Input should be greater than or equal to 1"):
        build_backbone("dcnv2", F, D, {"low_rank": 0})
