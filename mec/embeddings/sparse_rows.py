"""A table of which most floats are 0, so that one row is found without reading the others.

The kept floats lie in one array, row after row. Where a row's own begin is known for every 16th row; what the rows in
between hold is counted. Which columns a row has is a bitmap or, where it takes fewer bytes, a list of columns:

    bitmap: V ceil(W / 8) + 4 ceil(V / 16) bytes
    csr:    n c + V c'    + 4 ceil(V / 16) bytes, c and c' 1 up to 256 columns, and 2 beyond
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

Format = Literal["bitmap", "csr"]

_BLOCK = 16
_POPCOUNT = torch.tensor([byte.bit_count() for byte in range(256)], dtype=torch.uint8)
_BITS = torch.arange(8, dtype=torch.uint8)


def index_format(num_values: int, width: int, num_kept: int) -> Format:
    """The format of fewer bytes; the bitmap of equals."""
    sizes: dict[Format, int] = {name: _bytes(name, num_values, width, num_kept) for name in ("bitmap", "csr")}
    return "csr" if sizes["csr"] < sizes["bitmap"] else "bitmap"


def index_bytes(num_values: int, width: int, num_kept: int) -> int:
    """Bytes of the index of n kept floats among V rows of W; never falling in n."""
    return _bytes(index_format(num_values, width, num_kept), num_values, width, num_kept)


def sparse_rows(rows: Tensor, num_kept: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Keep the n floats of largest magnitude.

    Args:
        rows: (V, W) float32 on the CPU.
        num_kept: n, from 1 to V W.

    Returns:
        (n,) float32 kept floats, row after row; and the index by name.
    """
    num_values, width = rows.shape
    flat = rows.flatten()
    kept = torch.topk(flat.abs(), num_kept, sorted=False).indices.sort().values  # (n,)
    row, column = kept // width, kept % width
    counts = torch.bincount(row, minlength=num_values)  # (V,)
    starts = (counts.cumsum(0) - counts)[::_BLOCK].to(torch.int32)
    if index_format(num_values, width, num_kept) == "csr":
        columns, held = column.to(_type(width - 1)), counts.to(_type(width))
        return flat[kept], {"columns": columns, "counts": held, "starts": starts}
    mask = np.zeros((num_values, width), dtype=bool)
    mask[row.numpy(), column.numpy()] = True
    return flat[kept], {"bitmap": torch.from_numpy(np.packbits(mask, axis=1, bitorder="little")), "starts": starts}


def look_up(values: Tensor, index: Mapping[str, Tensor], width: int, ids: Tensor) -> Tensor:
    """Rows as they were before the small floats were dropped, those as 0.

    Args:
        values: (n,) kept floats as they are stored.
        index: As ``sparse_rows`` gave it.
        width: W.
        ids: (N,) int64.

    Returns:
        (N, W) float32.
    """
    lists = "columns" in index
    per_row = index["counts" if lists else "bitmap"]
    before = torch.arange(_BLOCK, device=ids.device) - (ids % _BLOCK)[:, None]  # (N, 16), below 0: an earlier row
    block = functional.embedding((ids[:, None] + before).clamp_(max=len(per_row) - 1), per_row.view(len(per_row), -1))
    held = block[:, :, 0].long() if lists else _POPCOUNT.to(ids.device)[block.int()].sum(dim=2)  # (N, 16)
    start = index["starts"][ids // _BLOCK] + torch.where(before < 0, held, 0).sum(dim=1)  # (N,)
    last = len(values) - 1
    if lists:
        place = torch.arange(width, device=ids.device)  # (W,)
        own = place < index["counts"][ids].long()[:, None]  # (N, W)
        at = (start[:, None] + place).clamp_(max=last)
        column = torch.where(own, index["columns"][at].long(), width)
        rows = values.new_zeros(len(ids), width + 1, dtype=torch.float32)
        return rows.scatter_(1, column, values[at].float())[:, :width].contiguous()
    bits = (per_row[ids][:, :, None] >> _BITS.to(ids.device)) & 1  # (N, ceil(W / 8), 8)
    own = bits.flatten(1)[:, :width].bool()
    at = (start[:, None] + own.cumsum(dim=1) - 1).clamp_(0, last)
    return torch.where(own, values[at].float(), 0.0)


def _bytes(name: Format, num_values: int, width: int, num_kept: int) -> int:
    starts = 4 * -(-num_values // _BLOCK)
    if name == "bitmap":
        return num_values * -(-width // 8) + starts
    return num_kept * _type(width - 1).itemsize + num_values * _type(width).itemsize + starts


def _type(largest: int) -> torch.dtype:
    return torch.uint8 if largest < 256 else torch.int16
