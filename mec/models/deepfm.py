"""DeepFM: Guo et al., "DeepFM: A Factorization-Machine based Neural Network for CTR Prediction", IJCAI 2017.

Equations 1 to 4.
"""

from __future__ import annotations

from pydantic import Field, PositiveInt
from torch import Tensor

from mec.config import Settings
from mec.models.base import BACKBONES, Backbone, mlp, output_layer
from mec.models.fm import pairwise_sum


class DeepFMSettings(Settings):
    """Settings of DeepFM."""

    hidden_units: tuple[PositiveInt, ...] = Field((128, 64), min_length=1, description="units of each hidden layer")
    dropout: float = Field(0.3, ge=0, lt=1, description="after each hidden layer")


@BACKBONES.register("deepfm")
class DeepFM(Backbone):
    """FM and a deep network over the same embeddings, their logits added."""

    settings_type = DeepFMSettings
    interaction_orders = frozenset({1, 2, 3})
    field_order_matters = True

    def __init__(self, num_fields: int, embedding_dim: int, settings: DeepFMSettings) -> None:
        super().__init__(num_fields, embedding_dim, settings)
        self.hidden = mlp(num_fields * embedding_dim, settings.hidden_units, settings.dropout)
        self.output = output_layer(settings.hidden_units[-1])

    def forward(self, embeddings: Tensor, first_order: Tensor | None) -> Tensor:
        """(B, F, D), (B,) -> (B,); see ``Backbone.forward``."""
        deep = self.output(self.hidden(embeddings.flatten(1))).squeeze(1)  # (B, F * D) -> (B,)
        logits: Tensor = deep + pairwise_sum(embeddings)
        return logits if first_order is None else logits + first_order
