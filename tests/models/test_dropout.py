"""Dropout: chances, scale, gradients, seeds."""

from __future__ import annotations

import pytest
import torch

from mec.models.dropout import Dropout


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5, 0.9])
def test_chance_and_scale(p: float) -> None:
    torch.manual_seed(0)
    result = Dropout(p)(torch.ones(1000, 501))
    kept = result != 0
    deviation = (p * (1 - p) / kept.numel()) ** 0.5
    assert abs(float(kept.double().mean()) - (1 - p)) < 5 * deviation
    assert torch.allclose(result[kept], torch.full_like(result[kept], 1 / (1 - p)), rtol=1e-3)


def test_units_are_dropped_independently() -> None:
    """Neighbours share a draw of 64 bits; their fates must not be alike."""
    torch.manual_seed(1)
    kept = (Dropout(0.4)(torch.ones(400_000)) != 0).double().view(-1, 4)
    correlations = torch.corrcoef(kept.T) - torch.eye(4, dtype=torch.float64)
    assert float(correlations.abs().max()) < 5 / 100_000**0.5
    next_draw = torch.corrcoef(torch.stack([kept[:-1, 3], kept[1:, 0]]))[0, 1]
    assert abs(float(next_draw)) < 5 / 100_000**0.5


def test_gradient_is_that_of_the_mask() -> None:
    torch.manual_seed(2)
    inputs = torch.randn(7, 3, 5, requires_grad=True)
    result = Dropout(0.5)(inputs)
    result.sum().backward()  # type: ignore[no-untyped-call]
    assert inputs.grad is not None
    assert torch.equal(inputs.grad, torch.where(result == 0, 0.0, 2.0))


def test_a_seed_gives_the_same_mask_and_the_next_call_another() -> None:
    layer, ones = Dropout(0.5), torch.ones(1000)
    torch.manual_seed(3)
    first, second = layer(ones), layer(ones)
    torch.manual_seed(3)
    assert torch.equal(layer(ones), first)
    assert not torch.equal(first, second)


def test_nothing_is_dropped_in_evaluation_or_at_0() -> None:
    inputs = torch.randn(5)
    assert Dropout(0.5).eval()(inputs) is inputs
    assert Dropout(0.0)(inputs) is inputs
