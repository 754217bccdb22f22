"""Rows of different lengths, end to end in one array, and what finding one of them costs.

Every value has a class, and every class a length. Classes are packed at b = ceil(log2 C) bits; of every 32nd value the
place of its first float is held, and the lengths of those before it in its block of 32 are added up.

    bytes = sum_i l_i floats + ceil(V b / 8) + 4 ceil(V / 32)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mec.embeddings.export import Array
from mec.errors import ConfigError
from mec.quantize.packing import bits_per_code, gather_codes, pack, packed_bytes

_BLOCK = 32
_MAX_FLOATS = (1 << 31) - 1  # places are int32


def ragged_bytes(num_values: int, num_floats: int, num_classes: int, float_bytes: int) -> dict[str, int]:
    """rows: the floats, index: classes and places.

    Args:
        num_values: V.
        num_floats: sum_i l_i.
        num_classes: C.
        float_bytes: Per stored float.

    Raises:
        ConfigError: 2^31 floats and more.
    """
    if num_floats > _MAX_FLOATS:
        raise ConfigError(
            f"rows of different lengths hold {_MAX_FLOATS:,} floats per vocabulary at most",
            found=f"{num_floats:,}",
            fix="give values fewer dimensions",
        )
    index = packed_bytes(num_values, 1, _bits(num_classes)) + 4 * (-(-num_values // _BLOCK))
    return {"rows": num_floats * float_bytes, "index": index}


def ragged_arrays(rows: Tensor, classes: NDArray[np.int64], lengths: Sequence[int]) -> dict[str, Array]:
    """Store the first floats of each row.

    Args:
        rows: (V, W).
        classes: (V,) in [0, C).
        lengths: C lengths, at most W.

    Returns:
        ``rows`` (sum l,), ``classes`` packed, ``places`` (ceil(V / 32),).
    """
    of_value = torch.tensor(lengths)[torch.from_numpy(classes)].to(rows.device)  # (V,)
    kept = torch.arange(rows.shape[1], device=rows.device) < of_value[:, None]  # (V, W)
    starts = of_value.cumsum(0) - of_value
    packed = torch.from_numpy(pack(classes[:, None], _bits(len(lengths)))).to(rows.device)
    return {
        "rows": Array("rows", rows[kept]),
        "classes": Array("index", packed),
        "places": Array("index", starts[::_BLOCK].int()),
    }


def ragged_rows(arrays: Mapping[str, Tensor], lengths: Sequence[int], ids: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Look rows up.

    Args:
        arrays: As ``ragged_arrays`` named them, at their stored width.
        lengths: C lengths.
        ids: (N,) int64.
        width: W, columns wanted.

    Returns:
        (N, W) float32 rows, 0 from their lengths on, and (N,) int64 classes.
    """
    block, within = ids // _BLOCK, ids % _BLOCK
    place = torch.arange(_BLOCK, device=ids.device)
    # values after the wanted one are not read: the last block may end before them
    beside = torch.minimum(block[:, None] * _BLOCK + place, ids[:, None])  # (N, 32)
    codes = gather_codes(arrays["classes"], beside.flatten(), 1, _bits(len(lengths)))
    classes = codes.view(len(ids), _BLOCK).long()  # (N, 32)
    found = torch.tensor(lengths, device=ids.device)[classes]
    start = arrays["places"][block] + (found * (place < within[:, None])).sum(dim=1)
    own = classes[torch.arange(len(ids), device=ids.device), within]
    column = torch.arange(width, device=ids.device)
    length = torch.tensor(lengths, device=ids.device)[own]
    floats = arrays["rows"]
    rows = floats[(start[:, None] + column).clamp_(max=len(floats) - 1)].float()
    return rows.masked_fill(column >= length[:, None], 0.0), own


def _bits(num_classes: int) -> int:
    return bits_per_code(max(2, num_classes))
