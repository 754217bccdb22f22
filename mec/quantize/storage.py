"""How floats are stored: codewords and exact rows in half precision, or as they were computed."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mec.errors import ConfigError

Floats = Literal["float32", "float16"]
DTYPES: dict[Floats, torch.dtype] = {"float32": torch.float32, "float16": torch.float16}
_LARGEST_HALF = 65_504.0  # of float16, IEEE 754 binary16


def stored(values: Tensor, floats: Floats, what: str) -> Tensor:
    """Values as they are written, rounded to nearest.

    Args:
        values: float32, any shape.
        floats: How they are stored.
        what: Whose values they are, for the error.

    Returns:
        float16 or float32; float32 comes back unchanged, without a copy.

    Raises:
        ConfigError: A value is beyond float16's range.
    """
    if floats == "float16" and values.numel():
        low, high = torch.aminmax(values)
        largest = max(-float(low), float(high))
        if not largest <= _LARGEST_HALF:
            raise ConfigError(
                f"{what} cannot be stored as float16, which ends at {_LARGEST_HALF:,.0f}",
                found=f"{largest:g}",
                fix="set quantize.floats to float32, or pre-train again with a smaller pretrain.learning_rate",
            )
    return values.to(DTYPES[floats])
