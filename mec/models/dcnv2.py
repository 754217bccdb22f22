"""DCNv2: Wang et al., "DCN V2: Improved Deep & Cross Network and Practical Lessons", WWW 2021, equations 1 to 4.

x_0 (B, F * D) are the concatenated embeddings; * is elementwise. A cross layer has one of three forms:

    full rank: x_{l+1} = x_0 * (W_l x_l + b_l) + x_l
    low rank:  x_{l+1} = x_0 * (U_l V_l^T x_l + b_l) + x_l
    mixture:   x_{l+1} = sum_i G_i(x_l) E_i(x_l) + x_l,  E_i(x) = x_0 * (U_l^i tanh(C_l^i tanh(V_l^i^T x)) + b_l)

G is a softmax over the experts of a linear map that all layers share (the paper's G has no layer index).
Kernels start He-normal and biases at 0, as in the paper's experiments.
"""

from __future__ import annotations

import math
from typing import Self

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from mec.models.base import BACKBONES
from mec.models.bound import bound_
from mec.models.cross import CrossAndDeep, Structure
from mec.models.wide import WideBackbone, WideSettings


class DCNv2Settings(WideSettings):
    """Settings of DCNv2."""

    structure: Structure = Field("parallel", description="deep network beside (parallel) or on top of the cross layers")
    num_cross_layers: int = Field(3, ge=1, description="cross layers; L of them reach interactions of order L + 1")
    low_rank: int | None = Field(
        None, ge=1, description="rank r of each cross layer, at best below F * D / 2; full rank if null"
    )
    num_experts: int | None = Field(
        None, ge=1, description="low-rank experts mixed in each cross layer; no mixture if null"
    )
    hidden_units: tuple[PositiveInt, ...] = Field((128, 64), min_length=1, description="units of each hidden layer")
    dropout: float = Field(0.0, ge=0, lt=1, description="after each hidden layer")
    batch_norm: bool = Field(False, description="normalize each hidden layer before its activation")

    @model_validator(mode="after")
    def _experts_have_a_rank(self) -> Self:
        if self.num_experts is not None and self.low_rank is None:
            raise ValueError("experts are low-rank: set low_rank too, or leave num_experts out")
        return self


class MatrixCross(nn.Module):
    """Full-rank or low-rank cross layers.

    Args:
        num_inputs: N = F * D.
        num_layers: L.
        low_rank: Rank r of W_l = U_l V_l^T; None for a full W_l.
    """

    def __init__(self, num_inputs: int, num_layers: int, low_rank: int | None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Linear(num_inputs, num_inputs)
            if low_rank is None
            else nn.Sequential(nn.Linear(num_inputs, low_rank, bias=False), nn.Linear(low_rank, num_inputs))
            for _ in range(num_layers)
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, N) -> (B, N)."""
        crossed = inputs
        for number, layer in enumerate(self.layers):
            crossed = torch.addcmul(crossed, inputs, layer(crossed))
            if number % 2:  # two layers from the bound are far inside float32, and each bound is 1 % of a step
                crossed = bound_(crossed)
        return crossed


class MixtureCross(nn.Module):
    """Cross layers that mix low-rank experts.

    The gates sum to 1 and x_0 and b_l are the same for all experts, so they are applied once, to the mixture.

    Args:
        num_inputs: N = F * D.
        num_layers: L.
        low_rank: r.
        num_experts: E; one expert needs no gate.
    """

    def __init__(self, num_inputs: int, num_layers: int, low_rank: int, num_experts: int) -> None:
        super().__init__()
        self.low_rank = low_rank
        self.num_experts = num_experts
        width = num_experts * low_rank
        self.down = nn.ModuleList(nn.Linear(num_inputs, width, bias=False) for _ in range(num_layers))  # V^T
        self.inner = nn.ParameterList(torch.empty(num_experts, low_rank, low_rank) for _ in range(num_layers))  # C
        self.up = nn.ModuleList(nn.Linear(width, num_inputs) for _ in range(num_layers))  # U, b
        self.gate = nn.Linear(num_inputs, num_experts, bias=False) if num_experts > 1 else None

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, N) -> (B, N)."""
        crossed = inputs
        for down, inner, up in zip(self.down, self.inner, self.up, strict=True):
            hidden = torch.tanh(down(crossed)).view(-1, self.num_experts, self.low_rank)  # (B, E, r)
            hidden = torch.tanh(torch.einsum("bei,eoi->beo", hidden, inner))  # (B, E, r)
            if self.gate is not None:
                hidden = hidden * torch.softmax(self.gate(crossed), dim=1).unsqueeze(2)
            crossed = torch.addcmul(crossed, inputs, up(hidden.flatten(1)))
        return crossed


@BACKBONES.register("dcnv2")
class DCNv2(WideBackbone):
    """A cross network with matrices instead of DCN's vectors, and a deep network."""

    settings_type = DCNv2Settings
    interaction_orders = frozenset({1, 2, 3})
    field_order_matters = True

    def __init__(self, num_fields: int, embedding_dim: int, settings: DCNv2Settings) -> None:
        super().__init__(num_fields, embedding_dim, settings)
        num_inputs = num_fields * embedding_dim
        self.network = CrossAndDeep(
            _cross(num_inputs, settings),
            num_inputs,
            settings.hidden_units,
            settings.dropout,
            settings.batch_norm,
            settings.structure,
        )
        self.network.apply(_start_he_normal)

    def interact(self, embeddings: Tensor) -> Tensor:
        """(B, F, D) -> (B,)."""
        logits: Tensor = self.network(embeddings)
        return logits


def _start_he_normal(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.kaiming_normal_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(
        module, MixtureCross
    ):  # visited after its linear layers, whose U has r inputs per expert, not E * r
        for kernel in [*module.inner, *(up.weight for up in module.up)]:
            nn.init.normal_(kernel, std=math.sqrt(2 / module.low_rank))


def _cross(num_inputs: int, settings: DCNv2Settings) -> nn.Module:
    if settings.num_experts is None or settings.low_rank is None:
        return MatrixCross(num_inputs, settings.num_cross_layers, settings.low_rank)
    return MixtureCross(num_inputs, settings.num_cross_layers, settings.low_rank, settings.num_experts)
