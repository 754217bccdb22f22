"""DCN: Wang et al., "Deep & Cross Network for Ad Click Predictions", ADKDD 2017, equations 3 to 6.

x_0 (B, F * D) are the concatenated embeddings. Cross layers and a deep network stand side by side:

    x_{l+1} = x_0 (x_l^T w_l) + b_l + x_l
    logit = w^T [x_L, deep(x_0)]

The deep network is batch-normalized and has no dropout, as in the paper's experiments. The paper names no
initial values: kernels are Xavier-uniform, biases 0.
"""

from __future__ import annotations

import math

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from mec.models.base import BACKBONES
from mec.models.bound import bound_
from mec.models.cross import CrossAndDeep
from mec.models.wide import WideBackbone, WideSettings


class DCNSettings(WideSettings):
    """Settings of DCN."""

    num_cross_layers: int = Field(3, ge=1, description="cross layers; L of them reach interactions of order L + 1")
    hidden_units: tuple[PositiveInt, ...] = Field((128, 64), min_length=1, description="units of each hidden layer")
    dropout: float = Field(0.0, ge=0, lt=1, description="after each hidden layer")
    batch_norm: bool = Field(True, description="normalize each hidden layer before its activation")


class VectorCross(nn.Module):
    """The cross network, a vector w_l and a bias b_l per layer.

    Every x_l is a_l x_0 + c_l with a number a_l per row and a vector c_l for all rows (a_0 = 1, c_0 = 0), so the
    layers only carry a_l and c_l along:

        a_{l+1} = a_l (1 + x_0^T w_l) + c_l^T w_l,  c_{l+1} = c_l + b_l

    Args:
        num_inputs: N = F * D.
        num_layers: L.
    """

    def __init__(self, num_inputs: int, num_layers: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_layers, num_inputs))  # w (L, N)
        self.bias = nn.Parameter(torch.zeros(num_layers, num_inputs))  # b (L, N)
        bound = math.sqrt(6 / (num_inputs + 1))  # each w_l maps N numbers to one
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, N) -> (B, N)."""
        products = inputs @ self.weight.T  # (B, L): x_0^T w_l
        scale, offset = torch.ones_like(inputs[:, 0]), torch.zeros_like(self.bias[0])  # (B,), (N,)
        for product, weight, bias in zip(products.unbind(1), self.weight, self.bias, strict=True):
            scale = bound_(scale * (1 + product) + offset.dot(weight))
            offset = offset + bias
        return torch.addcmul(offset, scale.unsqueeze(1), inputs)


@BACKBONES.register("dcn")
class DCN(WideBackbone):
    """A cross network and a deep network over the same embeddings."""

    settings_type = DCNSettings
    interaction_orders = frozenset({1, 2, 3})
    field_order_matters = True

    def __init__(self, num_fields: int, embedding_dim: int, settings: DCNSettings) -> None:
        super().__init__(num_fields, embedding_dim, settings)
        num_inputs = num_fields * embedding_dim
        self.network = CrossAndDeep(
            VectorCross(num_inputs, settings.num_cross_layers),
            num_inputs,
            settings.hidden_units,
            settings.dropout,
            settings.batch_norm,
            "parallel",
        )

    def interact(self, embeddings: Tensor) -> Tensor:
        """(B, F, D) -> (B,)."""
        logits: Tensor = self.network(embeddings)
        return logits
