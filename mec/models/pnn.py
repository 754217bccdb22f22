"""PNN: Qu et al., "Product-based Neural Networks for User Response Prediction", ICDM 2016, section III.

v_f are the field embeddings. The network reads all of them (linear signal) and their products (quadratic signal):

    inner: <v_i, v_j> of every pair i < j  (IPNN)
    outer: sum_i sum_j v_i v_j^T = s s^T, s = sum_f v_f  (OPNN, its superposition of all pairs' outer products)
    both:  the two side by side  (PNN*)

Every inner product is fed to the network (the authors' own later practice, arXiv 1807.00311), not the low-rank
summary of the first paper. The later paper's kernel products are not among the choices.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from mec.models.base import BACKBONES, mlp, output_layer, upper_triangle
from mec.models.wide import WideBackbone, WideSettings


class PNNSettings(WideSettings):
    """Settings of PNN."""

    hidden_units: tuple[PositiveInt, ...] = Field((128, 64), min_length=1, description="units of each hidden layer")
    dropout: float = Field(0.3, ge=0, lt=1, description="after each hidden layer")
    product: Literal["inner", "outer", "both"] = Field(
        "inner",
        description="products fed to the network: F (F - 1) / 2 inner ones, D^2 of the summed outer ones, or both",
    )


@BACKBONES.register("pnn")
class PNN(WideBackbone):
    """A deep network over the embeddings (linear signal) and their products (quadratic signal)."""

    settings_type = PNNSettings
    interaction_orders = frozenset({1, 2, 3})
    field_order_matters = True
    left: Tensor
    right: Tensor

    def __init__(self, num_fields: int, embedding_dim: int, settings: PNNSettings) -> None:
        super().__init__(num_fields, embedding_dim, settings)
        self.product = settings.product
        left, right = upper_triangle(num_fields)
        self.register_buffer("left", left, persistent=False)
        self.register_buffer("right", right, persistent=False)
        num_products = {"inner": len(left), "outer": embedding_dim**2, "both": len(left) + embedding_dim**2}
        num_inputs = num_fields * embedding_dim + num_products[settings.product]
        self.hidden = mlp(num_inputs, settings.hidden_units, settings.dropout)
        self.output = output_layer(settings.hidden_units[-1])

    def interact(self, embeddings: Tensor) -> Tensor:
        """(B, F, D) -> (B,)."""
        signals = [embeddings.flatten(1)]  # (B, F * D)
        if self.product != "outer":
            gram = embeddings @ embeddings.transpose(1, 2)  # (B, F, F)
            signals.append(gram[:, self.left, self.right])  # (B, P)
        if self.product != "inner":
            total = embeddings.sum(dim=1)  # (B, D)
            signals.append((total.unsqueeze(2) * total.unsqueeze(1)).flatten(1))  # (B, D * D)
        logits: Tensor = self.output(self.hidden(torch.cat(signals, dim=1)))
        return logits.squeeze(1)
