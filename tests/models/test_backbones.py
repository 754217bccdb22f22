"""Backbones against slow float64 references written from the papers' equations, and the registry."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch import Tensor

from mec.errors import ConfigError
from mec.models import BACKBONES, Backbone, build_backbone

B, F, D = 5, 4, 3


def build(name: str, **settings: object) -> Backbone:
    torch.manual_seed(1)
    return build_backbone(name, F, D, settings).double().eval()


def inputs() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(B, F, D, dtype=torch.float64, requires_grad=True), torch.randn(
        B, dtype=torch.float64, requires_grad=True
    )


def network(model: Backbone, features: list[Tensor]) -> Tensor:
    """One row through the hidden layers and the output layer, unit by unit."""
    hidden = torch.cat([f.reshape(-1) for f in features])
    for layer in model.hidden:  # type: ignore[union-attr]
        if isinstance(layer, torch.nn.Linear):
            units = [
                sum(w * x for w, x in zip(row, hidden, strict=True)) + b
                for row, b in zip(layer.weight, layer.bias, strict=True)
            ]
            hidden = torch.stack([torch.clamp(u, min=0) for u in units])
    return (model.output.weight[0] * hidden).sum()  # type: ignore[union-attr]


def pairs(vectors: Tensor) -> list[Tensor]:
    return [sum(vectors[i, d] * vectors[j, d] for d in range(D)) for i, j in combinations(range(F), 2)]  # type: ignore[misc]


def fm(model: Backbone, vectors: Tensor, first: Tensor) -> Tensor:
    return first + sum(pairs(vectors))


def deepfm(model: Backbone, vectors: Tensor, first: Tensor) -> Tensor:
    return fm(model, vectors, first) + network(model, [vectors])


def pnn(model: Backbone, vectors: Tensor, first: Tensor) -> Tensor:
    return network(model, [vectors, torch.stack(pairs(vectors))])


@pytest.mark.parametrize(("name", "reference"), [("fm", fm), ("deepfm", deepfm), ("pnn", pnn)])
def test_outputs_and_gradients_match_the_equations(name: str, reference: object) -> None:
    settings = {} if name == "fm" else {"hidden_units": (6, 5), "dropout": 0.2}
    model = build(name, **settings)
    vectors, first = inputs()
    logits = model(vectors, first)
    expected = torch.stack([reference(model, vectors[b], first[b]) for b in range(B)])  # type: ignore[operator]
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)
    wanted = [vectors, *model.parameters()]
    upstream = torch.randn(B, dtype=torch.float64)
    found = torch.autograd.grad(logits, wanted, upstream)
    for gradient, other in zip(found, torch.autograd.grad(expected, wanted, upstream), strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", BACKBONES.names())
def test_odd_sizes(name: str) -> None:
    model = build_backbone(name, 1, 1, {}).eval()
    assert model(torch.zeros(1, 1, 1), torch.zeros(1)).shape == (1,)


@pytest.mark.parametrize("name", ["deepfm", "pnn"])
def test_parameter_counts_follow_the_formula(name: str) -> None:
    inputs_ = F * D + (F * (F - 1) // 2 if name == "pnn" else 0)
    model = build(name, hidden_units=(7, 2))
    assert sum(p.numel() for p in model.parameters()) == inputs_ * 7 + 7 + 7 * 2 + 2 + 2


@pytest.mark.parametrize("name", ["deepfm", "pnn"])
def test_dropout_is_for_training_only(name: str) -> None:
    model = build(name, dropout=0.5)
    vectors, first = inputs()
    torch.testing.assert_close(model(vectors, first), model(vectors, first), rtol=0, atol=0)
    model.train()
    assert not torch.equal(model(vectors, first), model(vectors, first))


def test_unknown_backbones_and_settings_list_the_known_ones() -> None:
    with pytest.raises(
        ConfigError, match=r"unknown backbone; found: nope; fix: set train\.model to one of deepfm, fm, pnn"
    ):
        build_backbone("nope", F, D, {})
    with pytest.raises(ConfigError, match=r"its settings are: hidden_units, dropout"):
        build_backbone("deepfm", F, D, {"units": 3})


def test_a_name_is_taken_once() -> None:
    with pytest.raises(ValueError, match="'fm' is registered already"):
        BACKBONES.register("fm")(Backbone)
