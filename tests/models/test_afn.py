"""AFN and AFN+ against products of powers, computed one scalar at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.models.extremes import check_extremes
from tests.models.reference import (
    B,
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
    total,
)

AFN = {"logarithmic_neurons": 4, "hidden_units": (6, 5), "dropout": 0.2}
PLUS = {**AFN, "dnn_hidden_units": (3,), "dnn_dropout": 0.1}
EPSILON = 1e-7


def logarithm(value: Tensor, epsilon: float = EPSILON) -> Tensor:
    return torch.log(torch.clamp(torch.abs(value), min=epsilon))


def normalized(value: Tensor, norm: Any, channel: int, mean: Tensor, variance: Tensor) -> Tensor:
    scaled = norm.weight[channel] * (value - mean) / torch.sqrt(variance + norm.eps)
    return scaled if norm.bias is None else scaled + norm.bias[channel]


def neurons(layer: Any, logs: list[Tensor]) -> list[Tensor]:
    """exp(sum_f w_fo logs_f) of every neuron o."""
    return [torch.exp(dot(layer.weight[:, o], logs)) for o in range(layer.weight.shape[1])]


def running(norm: Any, values: list[Tensor]) -> list[Tensor]:
    """One value per channel, normalized by the running statistics."""
    return [normalized(v, norm, c, norm.running_mean[c], norm.running_var[c]) for c, v in enumerate(values)]


def deep(network: Any, features: list[Tensor]) -> Tensor:
    for layer in network[0]:
        if isinstance(layer, nn.BatchNorm1d):
            features = running(layer, features)
        else:
            features = hidden_layers(nn.Sequential(layer), features)
    return dot(network[1].weight[0], features)


def afn(model: Any, vectors: Tensor, first: Tensor) -> Tensor:
    layer, crossed = model.logarithmic, []
    for d in range(vectors.shape[1]):
        logs = running(layer.log_norm, [logarithm(v[d], layer.epsilon) for v in vectors])
        crossed += running(layer.exp_norm, neurons(layer, logs))
    return deep(model.network, crossed)


def afn_plus(model: Any, vectors: Tensor, first: Tensor) -> Tensor:
    return model.combination[0] * afn(model.afn, vectors, first) + model.combination[1] * deep(
        model.deep, flat(vectors)
    )


@pytest.mark.parametrize("batch_norm", [False, True])
def test_outputs_and_gradients_match_the_equations(batch_norm: bool) -> None:
    check_against(make("afn", **AFN, batch_norm=batch_norm), afn, *make_inputs())
    check_against(make("afn_plus", **PLUS, batch_norm=batch_norm), afn_plus, *make_inputs())


def test_odd_sizes() -> None:
    check_odd_sizes("afn", afn, **AFN)
    check_odd_sizes("afn_plus", afn_plus, **PLUS)


def test_small_values_are_raised_to_epsilon() -> None:
    vectors, first = make_inputs()
    small = (vectors.detach() * 1e-3).requires_grad_()
    assert bool((small.abs() < 1e-3).any())
    check_against(make("afn", **AFN, epsilon=1e-3), afn, small, first)


def test_training_normalizes_a_field_and_a_neuron_over_the_batch_and_the_dimensions() -> None:
    model = make("afn", **{**AFN, "dropout": 0.0}, batch_norm=False).train()
    vectors, first = make_inputs()
    layer = model.logarithmic

    def by_batch(norm: Any, rows: list[list[Tensor]]) -> list[list[Tensor]]:
        columns = list(zip(*rows, strict=True))
        means = [total(c) / len(c) for c in columns]
        variances = [total((v - m) ** 2 for v in c) / len(c) for c, m in zip(columns, means, strict=True)]
        return [[normalized(v, norm, c, means[c], variances[c]) for c, v in enumerate(row)] for row in rows]

    logs = [[logarithm(vectors[b, f, d]) for f in range(F)] for b in range(B) for d in range(D)]
    crossed = by_batch(layer.exp_norm, [neurons(layer, row) for row in by_batch(layer.log_norm, logs)])
    features = [[v for d in range(D) for v in crossed[b * D + d]] for b in range(B)]
    expected = torch.stack([deep(model.network, row) for row in features]) + first
    wanted = [vectors, *model.parameters()]
    logits = model(vectors, first)
    torch.testing.assert_close(logits, expected, rtol=1e-6, atol=1e-9)
    upstream = torch.arange(1.0, B + 1, dtype=torch.float64)
    others = torch.autograd.grad(expected, wanted, upstream)
    for gradient, other in zip(torch.autograd.grad(logits, wanted, upstream), others, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_parameter_counts_follow_the_formula(batch_norm: bool) -> None:
    num_neurons, norms, dnn_norms = 4, (2 * 6 + 5) * batch_norm, 3 * batch_norm
    count = F * num_neurons + 2 * F + 2 * num_neurons + mlp_parameters(num_neurons * D, (6, 5)) + norms + 5
    assert count_parameters(make("afn", **AFN, batch_norm=batch_norm)) == count
    plus = count + mlp_parameters(F * D, (3,)) + dnn_norms + 3 + 2
    assert count_parameters(make("afn_plus", **PLUS, batch_norm=batch_norm)) == plus


@pytest.mark.parametrize("name", ["afn", "afn_plus"])
def test_training_saving_and_extremes(name: str) -> None:
    check_every_parameter_is_trained(name)
    check_dropout_is_for_training_only(name, dropout=0.5)
    check_eval_is_deterministic(name)
    check_round_trip(name)
    check_extremes(name)
    check_every_parameter_is_trained(name, batch_norm=False)
    check_extremes(name, batch_norm=False)


def test_dropout_of_the_deep_network_is_for_training_only() -> None:
    check_dropout_is_for_training_only("afn_plus", dnn_dropout=0.5)


@pytest.mark.parametrize("name", ["afn", "afn_plus"])
@pytest.mark.parametrize("dim", [1, D])
def test_a_training_batch_of_one_row(name: str, dim: int) -> None:
    model = make(name, dim=dim).train()
    assert torch.isfinite(model(*make_inputs(1, dim=dim))).all()
