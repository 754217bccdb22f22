"""The bound on deep products: nothing changes below it, nothing overflows above it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mec.models import bound, build_backbone, dcn, dcnv2, gdcn, sam
from tests.models.extremes import check_extremes
from tests.models.reference import D, F, make, make_inputs

CROSSES: list[tuple[str, dict[str, object]]] = [
    ("dcn", {}),
    ("dcnv2", {}),
    ("dcnv2", {"structure": "stacked", "batch_norm": True}),
    ("dcnv2", {"low_rank": 3}),
    ("gdcn_p", {}),
    ("gdcn_s", {}),
]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_values_are_cut_in_place_and_cut_ones_have_no_gradient(dtype: torch.dtype) -> None:
    limit = min(1e10, torch.finfo(dtype).max)
    start = torch.tensor([-torch.inf, -limit / 2, -1.0, 0.0, 3.0, limit / 2, torch.inf], dtype=dtype).requires_grad_()
    values = start * 1
    bounded = bound.bound_(values)
    assert bounded.data_ptr() == values.data_ptr()
    largest = torch.tensor(limit, dtype=dtype)
    assert torch.equal(bounded, torch.cat([-largest.view(1), start[1:-1], largest.view(1)]))
    (gradient,) = torch.autograd.grad(bounded.sum(), start)
    assert gradient.tolist() == [0, 1, 1, 1, 1, 1, 0]


@pytest.mark.parametrize(("name", "settings"), CROSSES)
@pytest.mark.parametrize("layers", [9, 12, 17])
def test_deep_crosses_do_not_overflow(name: str, settings: dict[str, object], layers: int) -> None:
    check_extremes(name, **settings, num_cross_layers=layers)


@pytest.mark.parametrize(("name", "settings"), [*CROSSES, ("sam", {})])
def test_ordinary_inputs_give_the_same_bits_without_it(
    name: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    depth = {"num_layers": 2} if name == "sam" else {"num_cross_layers": 6}
    model = make(name, **settings, **depth)
    vectors, first = make_inputs()

    def run() -> list[Tensor]:
        logits = model(vectors, first)
        return [logits, *torch.autograd.grad(logits.square().sum(), [vectors, *model.parameters()])]

    calls = []
    for module in (dcn, dcnv2, gdcn, sam):
        monkeypatch.setattr(module, "bound_", lambda values: calls.append(1) or bound.bound_(values))
    bounded = run()
    assert calls
    for module in (dcn, dcnv2, gdcn, sam):
        monkeypatch.setattr(module, "bound_", lambda values: values)
    assert all(torch.equal(a, b) for a, b in zip(bounded, run(), strict=True))


def test_sam_scores_in_float16() -> None:
    """Its largest value is far below the bound."""
    torch.manual_seed(0)
    model = build_backbone("sam", F, D, {}).eval()
    vectors, first = 0.1 * torch.randn(64, F, D), torch.randn(64)
    exact = model(vectors, first)
    half = model.half()(vectors.half(), first.half())
    torch.testing.assert_close(half.float(), exact, rtol=0.01, atol=0.01)
