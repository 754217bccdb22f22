"""AutoInt: Song et al., "AutoInt: Automatic Feature Interaction Learning via Self-Attentive Neural Networks".

CIKM 2019, equations 5 to 9. In each interacting layer every field m attends to all fields k, in H heads of A / H units
(v_m are the fields' vectors, the embeddings at first; Q, K, V of each head h and R are linear maps without bias):

    alpha_mk = softmax over k of <Q_h v_m, K_h v_k>
    a_m = concat over h of sum_k alpha_mk V_h v_k
    v_m <- ReLU(a_m + R v_m)

    logit = w^T concat over m of v_m

AutoInt+ adds the logit of a deep network over the embeddings; the two are trained jointly. The paper names no
initial values: every matrix is Xavier-uniform.
"""

from __future__ import annotations

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional

from mec.models.base import BACKBONES, mlp, output_layer
from mec.models.batch_norm import with_batch_norm
from mec.models.wide import WideBackbone, WideSettings


class AutoIntSettings(WideSettings):
    """Settings of AutoInt."""

    num_layers: int = Field(3, ge=1, description="interacting layers, one on top of the other")
    num_heads: int = Field(2, ge=1, description="attention heads; must divide attention_dim")
    attention_dim: int = Field(64, ge=1, description="units of an interacting layer, all its heads together")
    scaling: bool = Field(
        False, description="divide attention scores by sqrt(attention_dim / num_heads); the paper does not"
    )
    attention_dropout: float = Field(0.0, ge=0, lt=1, description="of the attention weights")

    @model_validator(mode="after")
    def _heads_share_the_units(self) -> AutoIntSettings:
        if self.attention_dim % self.num_heads:
            raise ValueError(
                f"attention_dim={self.attention_dim} cannot be shared by num_heads={self.num_heads}; "
                "make it a multiple of num_heads"
            )
        return self


class AutoIntPlusSettings(AutoIntSettings):
    """Settings of AutoInt+."""

    hidden_units: tuple[PositiveInt, ...] = Field((128, 64), min_length=1, description="units of each hidden layer")
    dropout: float = Field(0.3, ge=0, lt=1, description="after each hidden layer")
    batch_norm: bool = Field(False, description="normalize each hidden layer before its activation")


class InteractingLayer(nn.Module):
    """Multi-head self-attention over fields with a residual connection and ReLU, equations 5 to 8.

    Args:
        num_inputs: N, width of each field's vector.
        settings: Width A, heads, scaling and dropout.
    """

    def __init__(self, num_inputs: int, settings: AutoIntSettings) -> None:
        super().__init__()
        self.num_heads = settings.num_heads
        self.dropout = settings.attention_dropout
        self.scale = (settings.attention_dim / settings.num_heads) ** -0.5 if settings.scaling else 1.0
        self.query = nn.Linear(num_inputs, settings.attention_dim, bias=False)  # Q, the heads' rows one after the other
        self.key = nn.Linear(num_inputs, settings.attention_dim, bias=False)  # K
        self.value = nn.Linear(num_inputs, settings.attention_dim, bias=False)  # V
        self.residual = nn.Linear(num_inputs, settings.attention_dim, bias=False)  # R
        for linear in (self.query, self.key, self.value, self.residual):
            nn.init.xavier_uniform_(linear.weight)

    def forward(self, vectors: Tensor) -> Tensor:
        """(B, F, N) -> (B, F, A)."""
        query, key, value = (
            linear(vectors).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for linear in (self.query, self.key, self.value)
        )  # each (B, H, F, A / H)
        # torch's fused attention is a quarter slower on the CPU for this few fields and units per head
        weights = torch.softmax((query * self.scale) @ key.transpose(2, 3), dim=3)  # (B, H, F, F)
        attended = functional.dropout(weights, self.dropout, self.training) @ value  # (B, H, F, A / H)
        return functional.relu(attended.transpose(1, 2).flatten(2) + self.residual(vectors))


def interacting_layers(embedding_dim: int, settings: AutoIntSettings) -> nn.Sequential:
    """The stack: (B, F, D) -> (B, F, A)."""
    widths = [embedding_dim] + [settings.attention_dim] * (settings.num_layers - 1)
    return nn.Sequential(*(InteractingLayer(width, settings) for width in widths))


@BACKBONES.register("autoint")
class AutoInt(WideBackbone):
    """Interacting layers over the fields."""

    settings_type = AutoIntSettings
    interaction_orders = frozenset({1, 2, 3})
    field_order_matters = True

    def __init__(self, num_fields: int, embedding_dim: int, settings: AutoIntSettings) -> None:
        super().__init__(num_fields, embedding_dim, settings)
        self.layers = interacting_layers(embedding_dim, settings)
        self.attention_output = output_layer(num_fields * settings.attention_dim)

    def interact(self, embeddings: Tensor) -> Tensor:
        """(B, F, D) -> (B,)."""
        logits: Tensor = self.attention_output(self.layers(embeddings).flatten(1))
        return logits.squeeze(1)


@BACKBONES.register("autoint_plus")
class AutoIntPlus(WideBackbone):
    """AutoInt and a deep network over the same embeddings, their logits added."""

    settings_type = AutoIntPlusSettings
    interaction_orders = frozenset({1, 2, 3})
    field_order_matters = True

    def __init__(self, num_fields: int, embedding_dim: int, settings: AutoIntPlusSettings) -> None:
        super().__init__(num_fields, embedding_dim, settings)
        self.autoint = AutoInt(num_fields, embedding_dim, settings)
        hidden = mlp(num_fields * embedding_dim, settings.hidden_units, settings.dropout)
        self.hidden = with_batch_norm(hidden) if settings.batch_norm else hidden
        self.output = output_layer(settings.hidden_units[-1])

    def interact(self, embeddings: Tensor) -> Tensor:
        """(B, F, D) -> (B,)."""
        deep = self.output(self.hidden(embeddings.flatten(1))).squeeze(1)  # (B,)
        logits: Tensor = self.autoint(embeddings, None) + deep
        return logits
