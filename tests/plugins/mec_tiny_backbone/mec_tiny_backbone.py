"""A backbone of another package: the first-order weights and a linear map of the fields' mean vector."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from mec.config import Settings
from mec.models.base import Backbone, output_layer


class TinySettings(Settings):
    """Settings of Tiny."""

    scale: float = Field(1.0, gt=0, description="factor of the linear part")


class Tiny(Backbone):
    """logit = sum_f w_f + scale * u^T mean_f v_f."""

    settings_type = TinySettings
    interaction_orders = frozenset({1})

    def __init__(self, num_fields: int, embedding_dim: int, settings: TinySettings) -> None:
        super().__init__(num_fields, embedding_dim, settings)
        self.scale = settings.scale
        self.output = output_layer(embedding_dim)

    def forward(self, embeddings: Tensor, first_order: Tensor | None) -> Tensor:
        """(B, F, D), (B,) -> (B,); see ``Backbone.forward``."""
        logits: Tensor = self.scale * self.output(embeddings.mean(dim=1)).squeeze(1)
        return logits if first_order is None else logits + first_order
