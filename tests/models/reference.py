"""Slow float64 building blocks for the references of the backbones, and the checks every backbone must pass.

A reference scores one row, ``reference(model, vectors (F, D), first_order ()) -> logit ()``, with
explicit loops over scalars; the checks hold a model and its gradients against it.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from mec.models import Backbone, build_backbone
from mec.models.dropout import Dropout

Reference = Callable[[Any, Tensor, Tensor], Tensor]

B, F, D = 5, 4, 3
ODD_SIZES = [(1, 1, 1), (1, 4, 3), (5, 1, 3), (5, 4, 1), (2, 2, 1), (3, 1, 1)]  # (B, F, D)


def make(name: str, num_fields: int = F, dim: int = D, **settings: object) -> Any:
    """A float64 backbone in eval mode; every parameter and running statistic is random, so that none hides at 0 or 1.

    Typed Any: references reach into submodules by name.
    """
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(1)
    model = build_backbone(name, num_fields, dim, settings).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d) and module.running_mean is not None:
                module.running_mean.copy_(torch.randn(module.num_features, generator=generator, dtype=torch.float64))
                module.running_var.copy_(torch.rand(module.num_features, generator=generator).double() + 0.5)
    return model


def make_inputs(num_rows: int = B, num_fields: int = F, dim: int = D) -> tuple[Tensor, Tensor]:
    """Random embeddings (B, F, D) and first-order sums (B,), float64, both with gradients."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(num_rows, num_fields, dim, generator=generator, dtype=torch.float64)
    first_order = torch.randn(num_rows, generator=generator, dtype=torch.float64)
    return vectors.requires_grad_(), first_order.requires_grad_()


def total(values: Iterable[Tensor]) -> Tensor:
    """Sum of scalars, one by one; 0 for none."""
    result = torch.zeros((), dtype=torch.float64)
    for value in values:
        result = result + value
    return result


def dot(left: Sequence[Tensor] | Tensor, right: Sequence[Tensor] | Tensor) -> Tensor:
    """Inner product of two vectors of scalars."""
    return total(a * b for a, b in zip(left, right, strict=True))


def affine(weight: Tensor, bias: Tensor | None, vector: Sequence[Tensor] | Tensor) -> list[Tensor]:
    """weight (O, I) times vector (I,) plus bias (O,), unit by unit."""
    units = [dot(row, vector) for row in weight]
    return units if bias is None else [u + b for u, b in zip(units, bias, strict=True)]


def relu(vector: Sequence[Tensor]) -> list[Tensor]:
    return [torch.clamp(v, min=0) for v in vector]


def softmax(scores: Sequence[Tensor]) -> list[Tensor]:
    powers = [torch.exp(s) for s in scores]
    return [p / total(powers) for p in powers]


def flat(vectors: Tensor) -> list[Tensor]:
    """(F, D) -> F * D scalars, field after field."""
    return [value for vector in vectors for value in vector]


def pair_products(vectors: Tensor) -> list[Tensor]:
    """Inner products of all pairs of fields i < j."""
    return [dot(vectors[i], vectors[j]) for i, j in combinations(range(len(vectors)), 2)]


def hidden_layers(layers: nn.Sequential, vector: Sequence[Tensor]) -> list[Tensor]:
    """One row through Linear, BatchNorm1d (eval mode), ReLU and Dropout (eval mode) layers, unit by unit."""
    hidden = list(vector)
    for layer in layers:
        if isinstance(layer, nn.Linear):
            hidden = affine(layer.weight, layer.bias, hidden)
        elif isinstance(layer, nn.BatchNorm1d):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            statistics = zip(hidden, layer.running_mean, layer.running_var, layer.weight, layer.bias, strict=True)
            hidden = [w * (h - mean) / torch.sqrt(var + layer.eps) + b for h, mean, var, w, b in statistics]
        elif isinstance(layer, nn.ReLU):
            hidden = relu(hidden)
        else:
            assert isinstance(layer, Dropout)
    return hidden


def network(model: Any, features: Sequence[Tensor]) -> Tensor:
    """One row through ``model.hidden`` and the bias-free ``model.output``: the deep part's logit."""
    return dot(model.output.weight[0], hidden_layers(model.hidden, features))


def check_against(model: Any, reference: Reference, vectors: Tensor, first_order: Tensor) -> None:
    """Outputs, and gradients of the inputs and of every parameter, agree with the reference to 1e-6.

    Args:
        model: Float64 backbone in eval mode.
        reference: Scores one row.
        vectors: (B, F, D) float64 with gradient.
        first_order: (B,) float64 with gradient.
    """
    logits = model(vectors, first_order)
    expected = torch.stack([reference(model, v, w) for v, w in zip(vectors, first_order, strict=True)])
    if getattr(model.settings, "wide", False):  # references are the papers'
        expected = expected + first_order
    torch.testing.assert_close(logits, expected, rtol=1e-6, atol=1e-9)
    wanted = {"vectors": vectors, "first_order": first_order, **dict(model.named_parameters())}
    upstream = torch.randn(len(logits), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    options: dict[str, bool] = {"allow_unused": True, "materialize_grads": True}
    found = torch.autograd.grad(logits, list(wanted.values()), upstream, **options)
    others = torch.autograd.grad(expected, list(wanted.values()), upstream, **options)
    for name, gradient, other in zip(wanted, found, others, strict=True):
        torch.testing.assert_close(
            gradient, other, rtol=1e-6, atol=1e-9, msg=lambda text, name=name: f"gradient of {name}: {text}"
        )


def check_odd_sizes(name: str, reference: Reference, **settings: object) -> None:
    """One row, one field, one dimension, and their combinations, against the reference."""
    for num_rows, num_fields, dim in ODD_SIZES:
        check_against(make(name, num_fields, dim, **settings), reference, *make_inputs(num_rows, num_fields, dim))


def check_every_parameter_is_trained(name: str, **settings: object) -> None:
    """A step in training mode, from the initial values, has a gradient beyond rounding errors for every parameter."""
    torch.manual_seed(3)
    model = build_backbone(name, F, D, settings).double()
    vectors, first_order = make_inputs(64)
    model(vectors, first_order).square().sum().backward()
    idle = [n for n, p in model.named_parameters() if p.grad is None or not torch.any(p.grad.abs() > 1e-9)]
    assert not idle, f"no gradient: {idle}"


def check_eval_is_deterministic(name: str, **settings: object) -> None:
    """Eval mode repeats itself bit for bit, and changes no buffer."""
    model = make(name, **settings)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    vectors, first_order = make_inputs()
    first, second = model(vectors, first_order), model(vectors, first_order)
    assert torch.equal(first, second)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def check_dropout_is_for_training_only(name: str, **settings: object) -> None:
    """The settings' dropout makes training passes differ; eval mode is deterministic."""
    check_eval_is_deterministic(name, **settings)
    model = make(name, **settings).train()
    vectors, first_order = make_inputs()
    assert not torch.equal(model(vectors, first_order), model(vectors, first_order))


def check_round_trip(name: str, **settings: object) -> None:
    """A saved state_dict, loaded into a fresh model, gives the same bits."""
    model = make(name, **settings)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    torch.manual_seed(99)
    other: Backbone = build_backbone(name, F, D, settings).double().eval()
    other.load_state_dict(torch.load(file, weights_only=True))
    vectors, first_order = make_inputs()
    assert torch.equal(model(vectors, first_order), other(vectors, first_order))


def count_parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def mlp_parameters(num_inputs: int, hidden_units: Sequence[int], batch_norm: bool = False) -> int:
    """Closed formula of an MLP without its output layer; batch norm's scale and shift replace the bias."""
    count = 0
    for units in hidden_units:
        count += num_inputs * units + (2 * units if batch_norm else units)
        num_inputs = units
    return count
