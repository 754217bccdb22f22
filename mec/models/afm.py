"""AFM: Xiao et al., "Attentional Factorization Machines", IJCAI 2017, equations 4 to 6.

With the elementwise products of all pairs of embeddings, v_i * v_j:

    score_ij = h^T ReLU(W (v_i * v_j) + b),  a = softmax over all pairs of score
    logit = sum_f w_f + p^T sum_{i<j} a_ij (v_i * v_j)

Initial values are the authors' (W, b normal with the Glorot deviation, h standard normal, p all ones, so AFM
starts as an FM whose pairs are averaged). Their L2 penalty on W is left out: training penalizes embeddings only.
"""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor, nn

from mec.config import Settings
from mec.models.base import BACKBONES, Backbone, upper_triangle
from mec.models.dropout import Dropout


class AFMSettings(Settings):
    """Settings of AFM."""

    attention_size: int = Field(16, ge=1, description="units of the attention network, the paper's attention factor t")
    attention_dropout: float = Field(0.0, ge=0, lt=1, description="on the attention weights of the pairs")
    dropout: float = Field(0.3, ge=0, lt=1, description="on the pooled vector of the interaction layer")


@BACKBONES.register("afm")
class AFM(Backbone):
    """An FM whose pairs are weighted by an attention network."""

    settings_type = AFMSettings
    interaction_orders = frozenset({1, 2})
    left: Tensor
    right: Tensor

    def __init__(self, num_fields: int, embedding_dim: int, settings: AFMSettings) -> None:
        super().__init__(num_fields, embedding_dim, settings)
        left, right = upper_triangle(num_fields)
        self.register_buffer("left", left, persistent=False)
        self.register_buffer("right", right, persistent=False)
        self.attention = nn.Linear(embedding_dim, settings.attention_size)  # W (t, D), b (t,)
        deviation = math.sqrt(2 / (embedding_dim + settings.attention_size))
        nn.init.normal_(self.attention.weight, std=deviation)
        nn.init.normal_(self.attention.bias, std=deviation)
        self.score = nn.Parameter(torch.randn(settings.attention_size))  # h (t,)
        self.projection = nn.Parameter(torch.ones(embedding_dim))  # p (D,)
        self.attention_dropout = Dropout(settings.attention_dropout)
        self.dropout = Dropout(settings.dropout)

    def forward(self, embeddings: Tensor, first_order: Tensor | None) -> Tensor:
        """(B, F, D), (B,) -> (B,); see ``Backbone.forward``."""
        # (B, P, D), and 0 pairs for one field
        products = embeddings.index_select(1, self.left) * embeddings.index_select(1, self.right)
        scores = torch.relu(self.attention(products)) @ self.score  # (B, P)
        weights = self.attention_dropout(torch.softmax(scores, dim=1))
        pooled = torch.bmm(weights.unsqueeze(1), products).squeeze(1)  # (B, D)
        logits: Tensor = self.dropout(pooled) @ self.projection
        return logits if first_order is None else logits + first_order
