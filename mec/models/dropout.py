"""Dropout (Srivastava et al., 2014) whose masks do not cost more than the layers around them.

On the CPU torch draws once per unit, and tests it in floating point: 40 % of a DeepFM step on codes. Here one draw
of 64 bits serves four units, so a chance is a multiple of 2^-16.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

_LEVELS = 1 << 16


class Dropout(nn.Module):
    """Sets units to 0 by chance while training, and scales the others so that the expectation stays.

    Args:
        p: Chance, from 0 to below 1; rounded to a multiple of 2^-16 on the CPU.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        assert 0 <= p < 1
        self.p = p

    def forward(self, inputs: Tensor) -> Tensor:
        """Any shape -> the same."""
        if not self.training or self.p == 0:
            return inputs
        if inputs.device.type != "cpu":
            return functional.dropout(inputs, self.p)
        dropped = min(round(self.p * _LEVELS), _LEVELS - 1)
        draws = torch.empty((inputs.numel() + 3) // 4, dtype=torch.int64).random_(-(1 << 63), None)
        levels = draws.view(torch.int16)[: inputs.numel()].view(inputs.shape)  # -32,768 to 32,767
        kept = (levels >= dropped - _LEVELS // 2).to(inputs.dtype)
        return inputs * kept.mul_(_LEVELS / (_LEVELS - dropped))

    def extra_repr(self) -> str:
        """As torch's."""
        return f"p={self.p}"
