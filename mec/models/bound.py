"""A bound on what deep products of the inputs reach.

A cross layer multiplies by the inputs once more, SAM's layers square or cube their own: embeddings of 1e4 leave
float32 within a few layers, and one infinity makes the whole batch NaN. No model that works comes near the bound,
and below it nothing changes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

MAX_VALUE = 1e10  # sums of products of three such values are still float32


def bound_(values: Tensor) -> Tensor:
    """Cut values to [-1e10, 1e10], or to what the dtype can hold, in place; where one is cut, its gradient is 0.

    Args:
        values: Any shape and floating dtype; used by nothing else that needs a gradient of it.

    Returns:
        ``values``.
    """
    limit = min(MAX_VALUE, torch.finfo(values.dtype).max)
    # for its gradient clamp_ keeps a copy of what it was given, this the values themselves
    return functional.hardtanh_(values, -limit, limit)
