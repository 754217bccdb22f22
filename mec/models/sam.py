"""SAM: Cheng and Xue, "Looking at CTR Prediction Again: Is Attention All You Need?", SIGIR 2021, table 2.

Five self-attention models of one framework (f_i are the field vectors, * is elementwise, s_ij, K, Q, p, w learned):

    SAM1:  u_i  = f_i                                          logit = w^T concat over i of u_i
    SAM2A: u_ij = <f_i, f_j> s_ij                              logit = w^T concat over i, j of u_ij
    SAM2E: u_ij = <f_i, f_j> f_i * f_j                         the same
    SAM3A: u_i  = sum_j <f_i, K f_j> s_ij + Q f_i              logit = w^T sum_i p_i u_i
    SAM3E: u_i  = sum_j <f_i, K f_j> f_i * f_j + Q f_i         the same

SAM3 layers are stacked, u_i being the next layer's f_i; j runs over all fields, i among them. There is no softmax.
Common implementations also concatenate SAM3's u_i and put dropout on each u. s and p start at 1 as there; K, Q
and w are Xavier-uniform.

L layers are a polynomial of degree 2^L (SAM3A) or 3^L (SAM3E) in the embeddings, and one layer has pairs alone. What
deep stacks learn depends on the embeddings' size. In SAM3A each field adds up F scores per layer, since s = 1: with 4
layers and embeddings that start as N(0, .3^2) the first logits are in the tens of thousands, and planted interactions
of order 3 are hardly learned (test AUC .59); from N(0, .1^2) they are (1.0). SAM3E with 4 layers and embeddings of
N(0, 1) would reach 1e30 in its third layer; it is cut to 1e10, and what is cut has no gradient.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from mec.models.base import BACKBONES, output_layer
from mec.models.bound import bound_
from mec.models.dropout import Dropout
from mec.models.wide import WideBackbone, WideSettings


class SAMSettings(WideSettings):
    """Settings of SAM."""

    interaction_type: Literal["SAM1", "SAM2A", "SAM2E", "SAM3A", "SAM3E"] = Field(
        "SAM3A", description="which of the paper's models"
    )
    num_layers: int = Field(3, ge=1, description="stacked layers; of SAM3A and SAM3E only, the others have one")
    aggregation: Literal["weighted_pooling", "concat"] = Field(
        "weighted_pooling", description="of SAM3A's and SAM3E's fields before the output; the others concatenate"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="after each layer")

    @model_validator(mode="after")
    def _everything_has_an_effect(self) -> SAMSettings:
        if not self.interaction_type.startswith("SAM3"):
            self.refuse_without_effect(["num_layers", "aggregation"], f"with {self.interaction_type}")
        return self


class PairLayer(nn.Module):
    """SAM2: every pair of fields, not summed up.

    Args:
        num_fields: F.
        embedding_dim: D.
        elementwise: f_i * f_j (E) in place of the learned s_ij (A).
    """

    def __init__(self, num_fields: int, embedding_dim: int, elementwise: bool) -> None:
        super().__init__()
        self.values = None if elementwise else nn.Parameter(torch.ones(num_fields, num_fields, embedding_dim))  # s

    def forward(self, vectors: Tensor) -> Tensor:
        """(B, F, D) -> (B, F, F, D)."""
        scores = (vectors @ vectors.transpose(1, 2)).unsqueeze(3)  # (B, F, F, 1): <f_i, f_j>
        values = vectors.unsqueeze(2) * vectors.unsqueeze(1) if self.values is None else self.values
        pairs: Tensor = scores * values
        return pairs


class AttentionLayer(nn.Module):
    """SAM3: every field's sum over all fields.

    Args:
        num_fields: F.
        embedding_dim: D.
        elementwise: f_i * f_j (E) in place of the learned s_ij (A).
    """

    def __init__(self, num_fields: int, embedding_dim: int, elementwise: bool) -> None:
        super().__init__()
        self.key = nn.Linear(embedding_dim, embedding_dim, bias=False)  # K
        self.residual = nn.Linear(embedding_dim, embedding_dim, bias=False)  # Q
        self.values = None if elementwise else nn.Parameter(torch.ones(num_fields, num_fields, embedding_dim))  # s
        nn.init.xavier_uniform_(self.key.weight)
        nn.init.xavier_uniform_(self.residual.weight)

    def forward(self, vectors: Tensor) -> Tensor:
        """(B, F, D) -> (B, F, D)."""
        scores = vectors @ self.key(vectors).transpose(1, 2)  # (B, F, F): <f_i, K f_j>
        if self.values is None:
            mixed = vectors * (scores @ vectors)
        else:
            mixed = torch.einsum("bij,ijd->bid", scores, self.values)
        return bound_(mixed + self.residual(vectors))


@BACKBONES.register("sam")
class SAM(WideBackbone):
    """A self-attention model: interaction layers, aggregation, a linear output."""

    settings_type = SAMSettings
    field_order_matters = True

    def __init__(self, num_fields: int, embedding_dim: int, settings: SAMSettings) -> None:
        super().__init__(num_fields, embedding_dim, settings)
        if settings.interaction_type == "SAM1":
            self.interaction_orders = frozenset({1})
        elif settings.interaction_type in ("SAM2A", "SAM2E") or settings.num_layers == 1:  # pairs alone
            self.interaction_orders = frozenset({1, 2})
        else:
            self.interaction_orders = frozenset({1, 2, 3})
        self.half_precision = settings.interaction_type != "SAM3E"  # its order triples per layer, and errors with it
        elementwise = settings.interaction_type.endswith("E")
        num_outputs = num_fields * embedding_dim
        layers: list[nn.Module] = []
        self.pooling = None
        if settings.interaction_type == "SAM1":
            layers = [nn.Identity()]
        elif settings.interaction_type in ("SAM2A", "SAM2E"):
            layers = [PairLayer(num_fields, embedding_dim, elementwise)]
            num_outputs *= num_fields
        else:
            layers = [AttentionLayer(num_fields, embedding_dim, elementwise) for _ in range(settings.num_layers)]
            if settings.aggregation == "weighted_pooling":
                self.pooling = nn.Parameter(torch.ones(num_fields))  # p
                num_outputs = embedding_dim
        self.layers = nn.Sequential(*(nn.Sequential(layer, Dropout(settings.dropout)) for layer in layers))
        self.output = output_layer(num_outputs)

    def interact(self, embeddings: Tensor) -> Tensor:
        """(B, F, D) -> (B,)."""
        interactions: Tensor = self.layers(embeddings)  # (B, F, D), or (B, F, F, D) of SAM2
        pooled = interactions.flatten(1) if self.pooling is None else self.pooling @ interactions
        logits: Tensor = self.output(pooled)
        return logits.squeeze(1)
