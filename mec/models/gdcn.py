"""GDCN: Wang et al., "Towards Deeper, Lighter and Interpretable Cross Network for CTR Prediction", CIKM 2023.

Section 3, the gated cross layer. c_0 (B, F * D) are the concatenated embeddings; * is elementwise:

    c_{l+1} = c_0 * (W_l^c c_l + b_l) * sigmoid(W_l^g c_l) + c_l

The information gate, sigmoid(W_l^g c_l), decides which of the layer's crosses are passed on. GDCN-P puts a deep
network beside the cross layers, GDCN-S on top of them. Batch norm, dropout and initial values of the cross layers
(W^c and W^g U(-1/sqrt(F * D), 1/sqrt(F * D)), b_l U(0, 1)) are those of the authors' experiments.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from mec.models.base import BACKBONES
from mec.models.bound import bound_
from mec.models.cross import CrossAndDeep, Structure
from mec.models.wide import WideBackbone, WideSettings


class GDCNSettings(WideSettings):
    """Settings of GDCN."""

    num_cross_layers: int = Field(
        3, ge=1, description="gated cross layers; L of them reach interactions of order L + 1"
    )
    hidden_units: tuple[PositiveInt, ...] = Field((128, 64), min_length=1, description="units of each hidden layer")
    dropout: float = Field(0.5, ge=0, lt=1, description="after each hidden layer")
    batch_norm: bool = Field(True, description="normalize each hidden layer before its activation")


class GatedCross(nn.Module):
    """Gated cross layers.

    Args:
        num_inputs: N = F * D.
        num_layers: L.
    """

    def __init__(self, num_inputs: int, num_layers: int) -> None:
        super().__init__()
        layers = [nn.Linear(num_inputs, num_inputs) for _ in range(num_layers)]  # W^c, b
        gates = [nn.Linear(num_inputs, num_inputs, bias=False) for _ in range(num_layers)]  # W^g
        bound = num_inputs**-0.5
        for linear in layers + gates:
            nn.init.uniform_(linear.weight, -bound, bound)
        for linear in layers:
            nn.init.uniform_(linear.bias)
        self.layers = nn.ModuleList(layers)
        self.gates = nn.ModuleList(gates)

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, N) -> (B, N)."""
        crossed = inputs
        for number, (layer, gate) in enumerate(zip(self.layers, self.gates, strict=True)):
            crossed = torch.addcmul(crossed, inputs, layer(crossed) * torch.sigmoid(gate(crossed)))
            if number % 2:  # as in DCNv2
                crossed = bound_(crossed)
        return crossed


class GDCN(WideBackbone):
    """Gated cross layers and a deep network, combined by ``structure``."""

    settings_type = GDCNSettings
    interaction_orders = frozenset({1, 2, 3})
    field_order_matters = True
    structure: ClassVar[Structure]

    def __init__(self, num_fields: int, embedding_dim: int, settings: GDCNSettings) -> None:
        super().__init__(num_fields, embedding_dim, settings)
        num_inputs = num_fields * embedding_dim
        self.network = CrossAndDeep(
            GatedCross(num_inputs, settings.num_cross_layers),
            num_inputs,
            settings.hidden_units,
            settings.dropout,
            settings.batch_norm,
            self.structure,
        )

    def interact(self, embeddings: Tensor) -> Tensor:
        """(B, F, D) -> (B,)."""
        logits: Tensor = self.network(embeddings)
        return logits


@BACKBONES.register("gdcn_p")
class GDCNP(GDCN):
    """GDCN-P: the deep network beside the gated cross layers."""

    structure = "parallel"


@BACKBONES.register("gdcn_s")
class GDCNS(GDCN):
    """GDCN-S: the deep network on top of the gated cross layers."""

    structure = "stacked"
