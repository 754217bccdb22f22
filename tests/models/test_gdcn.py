"""GDCN-P and GDCN-S against a slow float64 reference written from the paper's equations."""

from __future__ import annotations

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
    flat,
    hidden_layers,
    make,
    make_inputs,
    mlp_parameters,
)


def crosses(cross: Any, start: list[Tensor]) -> list[Tensor]:
    crossed = start
    for layer, gate in zip(cross.layers, cross.gates, strict=True):
        products = affine(layer.weight, layer.bias, crossed)
        passed = [1 / (1 + torch.exp(-g)) for g in affine(gate.weight, None, crossed)]
        crossed = [x0 * p * g + x for x0, p, g, x in zip(start, products, passed, crossed, strict=True)]
    return crossed


def gdcn_p(model: Any, vectors: Tensor, first: Tensor) -> Tensor:
    network, start = model.network, flat(vectors)
    return dot(network.output.weight[0], crosses(network.cross, start) + hidden_layers(network.hidden, start))


def gdcn_s(model: Any, vectors: Tensor, first: Tensor) -> Tensor:
    network = model.network
    return dot(network.output.weight[0], hidden_layers(network.hidden, crosses(network.cross, flat(vectors))))


BOTH = [("gdcn_p", gdcn_p), ("gdcn_s", gdcn_s)]
SMALL: dict[str, object] = {"num_cross_layers": 2, "hidden_units": (5, 4)}


@pytest.mark.parametrize(("name", "reference"), BOTH)
@pytest.mark.parametrize("batch_norm", [False, True])
def test_outputs_and_gradients_match_the_equations(name: str, reference: Any, batch_norm: bool) -> None:
    check_against(make(name, **SMALL, batch_norm=batch_norm), reference, *make_inputs(3))
    check_odd_sizes(name, reference, num_cross_layers=1, hidden_units=(2,), batch_norm=batch_norm)


@pytest.mark.parametrize("name", ["gdcn_p", "gdcn_s"])
def test_eval_mode_training_and_saving(name: str) -> None:
    check_eval_is_deterministic(name, **SMALL)
    check_dropout_is_for_training_only(name, dropout=0.5)
    check_round_trip(name, **SMALL)
    check_every_parameter_is_trained(name, hidden_units=(16, 8))


@pytest.mark.parametrize("name", ["gdcn_p", "gdcn_s"])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_parameter_counts_follow_the_formula(name: str, batch_norm: bool) -> None:
    model = make(name, num_cross_layers=3, hidden_units=(7, 2), batch_norm=batch_norm)
    n = F * D
    output = 2 + (n if name == "gdcn_p" else 0)
    assert count_parameters(model) == 3 * (2 * n * n + n) + mlp_parameters(n, (7, 2), batch_norm) + output


@pytest.mark.parametrize("name", ["gdcn_p", "gdcn_s"])
def test_an_open_gate_leaves_dcnv2(name: str) -> None:
    model = make(name, **SMALL, batch_norm=False, dropout=0.0)
    structure = "parallel" if name == "gdcn_p" else "stacked"
    other: Any = build_backbone("dcnv2", F, D, {**SMALL, "structure": structure}).double().eval()
    for layer, theirs in zip(model.network.cross.layers, other.network.cross.layers, strict=True):
        theirs.load_state_dict({key: value / 2 for key, value in layer.state_dict().items()})
    for gate in model.network.cross.gates:
        torch.nn.init.zeros_(gate.weight)
    other.network.hidden.load_state_dict(model.network.hidden.state_dict())
    other.network.output.load_state_dict(model.network.output.state_dict())
    vectors, first = make_inputs()
    torch.testing.assert_close(model(vectors, first), other(vectors, first))  # sigmoid(0) = 1/2


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="num_cross_layers: Input should be greater than or equal to 1"):
        build_backbone("gdcn_p", F, D, {"num_cross_layers": 0})
