"""SAM's five models against the paper's table, field pair by field pair."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from mec.errors import ConfigError
from mec.models import build_backbone
from mec.models.bound import MAX_VALUE
from mec.testing import check_backbone
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
    make,
    make_inputs,
    total,
)

SAM3 = [
    {"interaction_type": kind, "aggregation": aggregation, "num_layers": layers}
    for kind in ("SAM3A", "SAM3E")
    for aggregation in ("weighted_pooling", "concat")
    for layers in (1, 2)
]
ROWS: list[dict[str, Any]] = [{"interaction_type": kind} for kind in ("SAM1", "SAM2A", "SAM2E")] + SAM3
COUNTS = {"SAM1": F * D, "SAM2A": 2 * F * F * D, "SAM2E": F * F * D}


def sam3_layer(layer: Any, fields: list[list[Tensor]]) -> list[list[Tensor]]:
    outputs = []
    for i, left in enumerate(fields):
        units = affine(layer.residual.weight, None, left)
        for j, right in enumerate(fields):
            score = dot(left, affine(layer.key.weight, None, right))
            for d in range(len(units)):
                value = left[d] * right[d] if layer.values is None else layer.values[i, j, d]
                units[d] = units[d] + score * value
        outputs.append(units)
    return outputs


def sam(model: Any, vectors: Tensor, first: Tensor) -> Tensor:
    kind = model.settings.interaction_type
    fields = [list(v) for v in vectors]
    features: list[Tensor] = []
    if kind == "SAM1":
        features = [value for field in fields for value in field]
    elif kind in ("SAM2A", "SAM2E"):
        values = model.layers[0][0].values
        for i, left in enumerate(fields):
            for j, right in enumerate(fields):
                for d in range(len(left)):
                    value = left[d] * right[d] if kind == "SAM2E" else values[i, j, d]
                    features.append(dot(left, right) * value)
    else:
        for layer, _ in model.layers:
            fields = sam3_layer(layer, fields)
        if model.settings.aggregation == "concat":
            features = [value for field in fields for value in field]
        else:
            columns = zip(*fields, strict=True)
            features = [total(p * u for p, u in zip(model.pooling, c, strict=True)) for c in columns]
    return dot(model.output.weight[0], features)


@pytest.mark.parametrize("settings", ROWS)
def test_outputs_and_gradients_match_the_equations(settings: dict[str, Any]) -> None:
    check_against(make("sam", **settings), sam, *make_inputs())
    check_odd_sizes("sam", sam, **settings)


@pytest.mark.parametrize("settings", ROWS)
def test_parameter_counts_follow_the_formula(settings: dict[str, Any]) -> None:
    kind = settings["interaction_type"]
    if kind in COUNTS:
        count = COUNTS[kind]
    else:
        layer = 2 * D * D + (F * F * D if kind == "SAM3A" else 0)
        count = settings["num_layers"] * layer + (F * D if settings["aggregation"] == "concat" else F + D)
    assert count_parameters(make("sam", **settings)) == count


@pytest.mark.parametrize("settings", ROWS)
def test_training_saving_and_extremes(settings: dict[str, Any]) -> None:
    check_every_parameter_is_trained("sam", **settings)
    check_dropout_is_for_training_only("sam", dropout=0.5, **settings)
    check_eval_is_deterministic("sam", **settings)
    check_round_trip("sam", **settings)
    check_extremes("sam", **settings)


@pytest.mark.parametrize("settings", ROWS)
def test_the_orders_claimed_are_those_of_the_equations(settings: dict[str, Any]) -> None:
    """Of a sum of functions of fewer fields, the alternating sum over all subsets of fields is 0."""
    orders = set()
    for order in range(1, 4):
        (vectors, other), model = make_inputs(2, order)[0].detach(), make("sam", order, **settings)
        differences = []
        for chosen in product([0, 1], repeat=order):
            mixed = torch.stack([(vectors, other)[side][f] for f, side in enumerate(chosen)])
            differences.append((-1) ** sum(chosen) * model(mixed.unsqueeze(0), None).item())
        if abs(sum(differences)) > 1e-9 * max(map(abs, differences)):
            orders.add(order)
    assert orders == make("sam", **settings).interaction_orders


@pytest.mark.parametrize("settings", [row for row in SAM3 if row["num_layers"] == 1])
def test_single_layers_conform(settings: dict[str, Any]) -> None:
    assert check_backbone("sam", settings) == []


@pytest.mark.parametrize("kind", ["SAM3A", "SAM3E"])
def test_deep_stacks_saturate(kind: str) -> None:
    check_extremes("sam", interaction_type=kind, num_layers=6)
    model = make("sam", interaction_type=kind, num_layers=6)
    assert float(model.layers(torch.full((1, F, D), 1e4, dtype=torch.float64)).detach().abs().max()) == MAX_VALUE


def test_settings_of_sam3_alone_are_refused_elsewhere() -> None:
    with pytest.raises(ConfigError, match=r"num_layers=2 has no effect with SAM1; remove it"):
        build_backbone("sam", F, D, {"interaction_type": "SAM1", "num_layers": 2})
    with pytest.raises(ConfigError, match=r"aggregation='concat' has no effect with SAM2A; remove it"):
        build_backbone("sam", F, D, {"interaction_type": "SAM2A", "aggregation": "concat"})
