"""PNN: Qu et al., "Product-based Neural Networks for User Response Prediction", ICDM 2016, equations 5-10.

Inner products as in IPNN, with every pair's product fed to the network (the authors' own later
practice, arXiv 1807.00311), not their low-rank summary.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from mec.config import Settings
from mec.models.base import BACKBONES, Backbone, mlp, output_layer, upper_triangle


class PNNSettings(Settings):
    """Settings of PNN."""

    hidden_units: tuple[int, ...] = Field((128, 64), min_length=1, description="units of each hidden layer")
    dropout: float = Field(0.3, ge=0, lt=1, description="after each hidden layer")


@BACKBONES.register("pnn")
class PNN(Backbone):
    """A deep network over the embeddings (linear signal) and their pairwise inner products (quadratic signal)."""

    settings_type = PNNSettings
    left: Tensor
    right: Tensor

    def __init__(self, num_fields: int, embedding_dim: int, settings: PNNSettings) -> None:
        super().__init__(num_fields, embedding_dim, settings)
        left, right = upper_triangle(num_fields)
        self.register_buffer("left", left, persistent=False)
        self.register_buffer("right", right, persistent=False)
        self.hidden = mlp(num_fields * embedding_dim + len(left), settings.hidden_units, settings.dropout)
        self.output = output_layer(settings.hidden_units[-1])

    def forward(self, embeddings: Tensor, first_order: Tensor | None) -> Tensor:
        """(B, F, D), (B,) -> (B,); the first-order weights have no place in PNN and are ignored."""
        gram = embeddings @ embeddings.transpose(1, 2)  # (B, F, F)
        products = gram[:, self.left, self.right]  # (B, P)
        logits: Tensor = self.output(self.hidden(torch.cat([embeddings.flatten(1), products], dim=1)))
        return logits.squeeze(1)
