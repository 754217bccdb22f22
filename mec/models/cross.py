"""How DCN, DCNv2 and GDCN combine a cross network with a deep network.

Wang et al., "DCN V2", WWW 2021, section 3.3, figure 1. With x_0 (B, F * D) the concatenated embeddings:

    parallel: logit = w^T [cross(x_0), deep(x_0)]
    stacked:  logit = w^T deep(cross(x_0))
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from mec.models.base import mlp, output_layer
from mec.models.batch_norm import with_batch_norm

Structure = Literal["stacked", "parallel"]


class CrossAndDeep(nn.Module):
    """A cross network and a deep network, side by side or one after the other.

    Args:
        cross: (B, N) -> (B, N) cross network.
        num_inputs: N = F * D.
        hidden_units: Units of each hidden layer.
        dropout: After each hidden layer.
        batch_norm: Normalize each hidden layer before its activation.
        structure: Side by side (parallel), or the deep network on top of the cross network (stacked).
    """

    def __init__(
        self,
        cross: nn.Module,
        num_inputs: int,
        hidden_units: tuple[int, ...],
        dropout: float,
        batch_norm: bool,
        structure: Structure,
    ) -> None:
        super().__init__()
        self.structure = structure
        self.cross = cross
        hidden = mlp(num_inputs, hidden_units, dropout)
        self.hidden = with_batch_norm(hidden) if batch_norm else hidden
        self.output = output_layer(hidden_units[-1] + (num_inputs if structure == "parallel" else 0))

    def forward(self, embeddings: Tensor) -> Tensor:
        """(B, F, D) -> (B,) logits."""
        inputs = embeddings.flatten(1)  # (B, F * D)
        crossed = self.cross(inputs)  # (B, F * D)
        if self.structure == "parallel":
            features = torch.cat([crossed, self.hidden(inputs)], dim=1)
        else:
            features = self.hidden(crossed)
        logits: Tensor = self.output(features)
        return logits.squeeze(1)
