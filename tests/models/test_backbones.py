"""Backbones against slow float64 references written from the papers' equations, and the registry."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mec.errors import ConfigError
from mec.models import BACKBONES, Backbone, build_backbone
from tests.models.reference import (
    D,
    F,
    Reference,
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


def fm(model: Any, vectors: Tensor, first: Tensor) -> Tensor:
    return first + total(pair_products(vectors))


def deepfm(model: Any, vectors: Tensor, first: Tensor) -> Tensor:
    return fm(model, vectors, first) + network(model, flat(vectors))


def pnn(model: Any, vectors: Tensor, first: Tensor) -> Tensor:
    return network(model, flat(vectors) + pair_products(vectors))


DEEP = {"hidden_units": (6, 5), "dropout": 0.2}
ROWS: list[tuple[str, Reference, dict[str, object]]] = [("fm", fm, {}), ("deepfm", deepfm, DEEP), ("pnn", pnn, DEEP)]


@pytest.mark.parametrize(("name", "reference", "settings"), ROWS)
def test_outputs_and_gradients_match_the_equations(
    name: str, reference: Reference, settings: dict[str, object]
) -> None:
    check_against(make(name, **settings), reference, *make_inputs())
    check_odd_sizes(name, reference, **settings)


@pytest.mark.parametrize(("name", "reference", "settings"), ROWS)
def test_every_parameter_is_trained_and_saved(name: str, reference: Reference, settings: dict[str, object]) -> None:
    check_every_parameter_is_trained(name, **settings)
    check_round_trip(name, **settings)


@pytest.mark.parametrize("name", BACKBONES.names())
def test_odd_sizes(name: str) -> None:
    model = build_backbone(name, 1, 1, {}).eval()
    assert model(torch.zeros(1, 1, 1), torch.zeros(1)).shape == (1,)


@pytest.mark.parametrize("name", ["deepfm", "pnn"])
def test_parameter_counts_follow_the_formula(name: str) -> None:
    num_inputs = F * D + (F * (F - 1) // 2 if name == "pnn" else 0)
    assert count_parameters(make(name, hidden_units=(7, 2))) == mlp_parameters(num_inputs, (7, 2)) + 2


@pytest.mark.parametrize("name", ["deepfm", "pnn"])
def test_dropout_is_for_training_only(name: str) -> None:
    check_dropout_is_for_training_only(name, dropout=0.5)


HIDDEN = [
    (name, field)
    for name in BACKBONES.names()
    for field in BACKBONES.get(name).settings_type.model_fields
    if field.endswith("hidden_units")
]


@pytest.mark.parametrize(("name", "field"), HIDDEN)
@pytest.mark.parametrize("units", [(), (0,), (8, -3)])
def test_hidden_layers_without_units_are_refused(name: str, field: str, units: tuple[int, ...]) -> None:
    assert ("deepfm", "hidden_units") in HIDDEN
    with pytest.raises(ConfigError, match=rf"bad settings of the backbone '{name}'; found: {field}"):
        build_backbone(name, F, D, {field: units})


def test_unknown_backbones_and_settings_list_the_known_ones() -> None:
    names = ", ".join(BACKBONES.names())
    with pytest.raises(ConfigError, match=rf"unknown backbone; found: nope; fix: set train\.model to one of {names}"):
        build_backbone("nope", F, D, {})
    with pytest.raises(ConfigError, match=r"its settings are: hidden_units, dropout"):
        build_backbone("deepfm", F, D, {"units": 3})


def test_a_name_is_taken_once() -> None:
    with pytest.raises(ValueError, match="'fm' is registered already"):
        BACKBONES.register("fm")(Backbone)
