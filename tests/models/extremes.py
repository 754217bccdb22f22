"""Embeddings far outside anything trained: all zeros, all 1e4, and 1e4 of random sign, in float32."""

from __future__ import annotations

import torch

from mec.models import build_backbone
from tests.models.reference import B, D, F


def check_extremes(name: str, **settings: object) -> None:
    """Finite logits, and gradients without NaN, in training and in eval mode."""
    signs = torch.randn(B, F, D, generator=torch.Generator().manual_seed(5)).sign()
    for vectors in (torch.zeros(B, F, D), torch.full((B, F, D), 1e4), 1e4 * signs):
        for training in (True, False):
            torch.manual_seed(4)
            model = build_backbone(name, F, D, settings).train(training)
            inputs = vectors.clone().requires_grad_()
            logits = model(inputs, torch.zeros(B))
            assert torch.isfinite(logits).all(), f"{name} {settings}: {logits}"
            wanted = [inputs, *model.parameters()]
            gradients = torch.autograd.grad(logits.sum(), wanted, allow_unused=True, materialize_grads=True)
            assert not any(torch.isnan(g).any() for g in gradients), f"{name} {settings}: a gradient is NaN"
