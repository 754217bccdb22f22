"""How floats are stored: codewords and exact rows in half precision, or as they were computed."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mec.errors import ConfigError

Floats = Literal["float32", "float16"]
DTYPES: dict[Floats, torch.dtype] = {"float32": torch.float32, "float16": torch.float16}
_LARGEST_HALF = 65_504.0  # of float16, IEEE 754 binary16
_LEAST_HALF = 2.0**-14  # the least of its normal numbers; below, fewer and fewer bits are left


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


def refuse_vanishing(rows: Tensor, floats: Floats, what: str) -> None:
    """Refuse a whole table whose rows float16 would round to nothing, or nearly so; rows of zeros are none.

    A few small rows beside larger ones lose nothing that counts, nor does a small field that says nothing: parts of a
    table and vocabularies without codes are not for this.

    Args:
        rows: (V, W) float32 table.
        floats: How it, or its codewords, will be stored.
        what: Whose rows they are, for the error.

    Raises:
        ConfigError: The largest value is above 0 and below float16's normal numbers.
    """
    if floats == "float32" or not rows.numel():
        return
    low, high = torch.aminmax(rows)
    largest = max(-float(low), float(high))
    if 0 < largest < _LEAST_HALF:
        raise ConfigError(
            f"{what} are too small for float16, whose normal numbers begin at {_LEAST_HALF:.1e}: they would be 0, or "
            "nearly so",
            found=f"{largest:.1e}, the largest",
            fix="pre-train again with a smaller pretrain.l2, which may have held the model at zero, or set "
            "quantize.floats to float32",
        )
