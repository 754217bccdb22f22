"""Factorization machine: Rendle, "Factorization Machines", ICDM 2010, equation 1.

The pre-trained model: small, and its vectors carry every pairwise interaction.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mec.config import Settings
from mec.models.base import BACKBONES, Backbone


class FMSettings(Settings):
    """The FM has no settings of its own."""


@BACKBONES.register("fm")
class FM(Backbone):
    """sum_f w_f + sum_{i<j} <v_i, v_j>; no parameters beyond the embeddings."""

    settings_type = FMSettings
    interaction_orders = frozenset({1, 2})

    def forward(self, embeddings: Tensor, first_order: Tensor | None) -> Tensor:
        """(B, F, D), (B,) -> (B,); see ``Backbone.forward``."""
        interactions = pairwise_sum(embeddings)
        return interactions if first_order is None else interactions + first_order


class _PairwiseSum(torch.autograd.Function):
    """sum_{i<j} <v_i, v_j> = (|sum_i v_i|^2 - sum_i |v_i|^2) / 2 with its gradient in one pass.

    d/dv_i = sum_j v_j - v_i. Autograd's own graph of the same formula moves four times the bytes.
    """

    @staticmethod
    def forward(ctx: Any, embeddings: Tensor) -> Tensor:
        total = embeddings.sum(dim=1)  # (B, D)
        ctx.save_for_backward(embeddings, total)
        squares = torch.linalg.vector_norm(embeddings, dim=(1, 2)).square()  # (B,)
        result: Tensor = 0.5 * (total.square().sum(dim=1) - squares)
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        embeddings, total = ctx.saved_tensors
        gradient: Tensor = (total.unsqueeze(1) - embeddings).mul_(grads[0].view(-1, 1, 1))
        return gradient


def pairwise_sum(embeddings: Tensor) -> Tensor:
    """(B, F, D) -> (B,) sum over field pairs of inner products."""
    result: Tensor = _PairwiseSum.apply(embeddings)  # type: ignore[no-untyped-call]
    return result
