"""DCN against a slow float64 reference written from the paper's equations, and batch norm on short batches."""

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


def dcn(model: Any, vectors: Tensor, first: Tensor) -> Tensor:
    start = flat(vectors)
    crossed = start
    cross = model.network.cross
    for weight, bias in zip(cross.weight, cross.bias, strict=True):
        factor = dot(crossed, weight)  # equation 3: x_l^T w_l
        crossed = [x0 * factor + b + x for x0, b, x in zip(start, bias, crossed, strict=True)]
    deep = hidden_layers(model.network.hidden, start)  # equation 4
    return dot(model.network.output.weight[0], crossed + deep)  # equation 5


ROWS: list[dict[str, object]] = [
    {"hidden_units": (6, 5)},
    {"hidden_units": (6,), "num_cross_layers": 1, "batch_norm": False},
    {"hidden_units": (4, 4), "num_cross_layers": 4, "dropout": 0.2},
]


@pytest.mark.parametrize("settings", ROWS)
def test_outputs_and_gradients_match_the_equations(settings: dict[str, object]) -> None:
    check_against(make("dcn", **settings), dcn, *make_inputs())
    check_odd_sizes("dcn", dcn, **settings)


@pytest.mark.parametrize("settings", ROWS)
def test_eval_mode_training_and_saving(settings: dict[str, object]) -> None:
    check_eval_is_deterministic("dcn", **settings)
    check_round_trip("dcn", **settings)
    check_every_parameter_is_trained("dcn", **settings)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_parameter_counts_follow_the_formula(batch_norm: bool) -> None:
    model = make("dcn", num_cross_layers=5, hidden_units=(7, 2), batch_norm=batch_norm)
    n = F * D
    assert count_parameters(model) == 5 * 2 * n + mlp_parameters(n, (7, 2), batch_norm) + n + 2


def test_dropout_is_for_training_only() -> None:
    check_dropout_is_for_training_only("dcn", dropout=0.5)


def test_training_mode_normalizes_by_the_batch() -> None:
    model = make("dcn", hidden_units=(6,), num_cross_layers=1).train()
    vectors, first = make_inputs(8)
    linear, norm = model.network.hidden[0], model.network.hidden[1]
    hidden = linear(vectors.flatten(1))
    mean = sum(hidden) / 8
    variance = sum((h - mean) ** 2 for h in hidden) / 8
    expected = norm.weight * (hidden - mean) / torch.sqrt(variance + norm.eps) + norm.bias
    deep = torch.clamp(expected, min=0) @ model.network.output.weight[0, F * D :]
    crossed = model.network.cross(vectors.flatten(1)) @ model.network.output.weight[0, : F * D]
    torch.testing.assert_close(model(vectors, first), crossed + deep + first)


def test_a_training_batch_of_one_row_uses_the_running_statistics() -> None:
    model = make("dcn").train()
    vectors, first = make_inputs(1)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    short = model(vectors, first)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    torch.testing.assert_close(short, model.eval()(vectors, first))


def test_settings_out_of_range_are_refused() -> None:
    for settings in ({"num_cross_layers": 0}, {"hidden_units": (0,)}, {"hidden_units": ()}, {"dropout": 1.0}):
        with pytest.raises(ConfigError, match="num_cross_layers, hidden_units, dropout, batch_norm"):
            build_backbone("dcn", F, D, settings)
