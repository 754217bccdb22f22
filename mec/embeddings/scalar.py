"""Scalar quantization: every float of a row rounded to one of 2^b levels, on a grid of the row's own.

    minmax: x' = low + c step,              low = min x, step = (max x - min x) / (2^b - 1)
    scale:  x' = (c - (2^(b-1) - 1)) step,  step = max |x| / (2^(b-1) - 1)

with c the nearest code. Row-wise min-max is Guan et al., "Post-training 4-bit quantization on embedding tables",
arXiv 1911.02079; training through the rounding is Jacob et al., CVPR 2018, with the straight-through gradient.

Bytes per vocabulary: codes ceil(V (D + 1) b / 8), rows 2 V floats for minmax and V for scale. With ``first_order:
float`` the first-order weight is no part of the grid: codes ceil(V D b / 8), and rows V floats more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from mec.embeddings.exact_rows import round_floats
from mec.embeddings.export import Array
from mec.embeddings.method import METHODS, MethodInputs, with_settings
from mec.embeddings.row_table import RowTable, packed_codes, rounded, straight_through
from mec.embeddings.start import StartSettings, start_rows
from mec.embeddings.table_method import Table, TableMethod
from mec.quantize.packing import gather_codes, packed_bytes

Range = Literal["minmax", "scale"]
SMALLEST_BITS, LARGEST_BITS = 2, 8


class ScalarSettings(StartSettings):
    """Settings of scalar quantization."""

    bits: int = Field(8, ge=SMALLEST_BITS, le=LARGEST_BITS, description="b, bits per float")
    range: Range = Field("minmax", description="a row's levels: from its least to its largest float, or around 0")
    training: Literal["aware", "post"] = Field(
        "aware", description="trained through the rounding, or rounded when validated and when trained"
    )
    first_order: Literal["coded", "float"] = Field(
        "coded", description="first-order weight: on the row's grid, or a float of its own"
    )


class ScalarTable(RowTable):
    """Rows of b bits per float; see ``RowTable`` for what it is built from."""

    name = "scalar"

    def __init__(self, vocabulary: str, inputs: MethodInputs, settings: ScalarSettings) -> None:
        super().__init__(vocabulary, inputs, settings)
        self.bits = settings.bits
        self.range: Range = settings.range
        self.aware = settings.training == "aware"
        self.first = int(settings.first_order == "float")  # first coded column

    def trained(self, rows: Tensor) -> Tensor:
        """See ``RowTable.trained``."""
        if self.training and not self.aware:
            return rows
        held = rows.detach()
        grid = rounded(grid_of(held[:, self.first :], self.bits, self.range), self.floats)
        served = decode(encode(held[:, self.first :], grid, self.bits, self.range), grid, self.bits, self.range)
        return straight_through(rows, torch.cat([rounded(held[:, : self.first], self.floats), served], dim=1))

    def pack(self, rows: Tensor) -> dict[str, Array]:
        """``codes``, a bit stream, and ``floats`` (V, 1 to 3): the grid, and the first-order weight if it is one."""
        coded = rows[:, self.first :]
        grid = Array("rows", grid_of(coded, self.bits, self.range))
        round_floats({"step sizes": grid}, self.floats)
        own = torch.cat([coded, grid.tensor], dim=1)
        width = coded.shape[1]
        codes = packed_codes(own, lambda p: encode(p[:, :width], p[:, width:], self.bits, self.range), self.bits)
        floats = torch.cat([grid.tensor, rows[:, : self.first]], dim=1)
        return {"codes": Array("codes", codes), "floats": Array("rows", floats)}

    def facts(self) -> dict[str, Any]:
        """Bits, range, and how many columns are coded."""
        return {"bits": self.bits, "range": self.range, "coded": self.width - self.first}

    @staticmethod
    def served_rows(arrays: Mapping[str, Tensor], facts: Mapping[str, Any], ids: Tensor) -> Tensor:
        """See ``Table.served_rows``."""
        bits, kind = facts["bits"], facts["range"]
        floats = functional.embedding(ids, arrays["floats"]).float()
        grid, first = floats[:, : grid_floats(kind)], floats[:, grid_floats(kind) :]
        codes = gather_codes(arrays["codes"], ids, facts["coded"], bits)
        return torch.cat([first, decode(codes, grid, bits, kind)], dim=1)


def grid_floats(kind: Range) -> int:
    """Floats that a row's grid takes."""
    return 2 if kind == "minmax" else 1


def grid_of(rows: Tensor, bits: int, kind: Range) -> Tensor:
    """(N, C) rows -> (N, 2) low and step, or (N, 1) step."""
    if kind == "minmax":
        low, high = rows.aminmax(dim=1, keepdim=True)
        return torch.cat([low, (high - low) / _top(bits)], dim=1)
    return rows.abs().amax(dim=1, keepdim=True) / _largest(bits)


def encode(rows: Tensor, grid: Tensor, bits: int, kind: Range) -> Tensor:
    """(N, C) rows on the (N, 1 or 2) grid as it is stored -> (N, C) int32 codes of the nearest levels."""
    step = grid[:, -1:]
    steps = torch.where(step > 0, step, 1.0)  # a row without spread, where all codes mean the same
    if kind == "minmax":
        return ((rows - grid[:, :1]) / steps).round_().clamp_(0, _top(bits)).int()
    largest = _largest(bits)
    return (rows / steps).round_().clamp_(-largest, largest).add_(largest).int()


def decode(codes: Tensor, grid: Tensor, bits: int, kind: Range) -> Tensor:
    """(N, C) codes, (N, 1 or 2) float32 grid -> (N, C) float32."""
    if kind == "minmax":
        return grid[:, :1] + codes.float() * grid[:, 1:]
    return (codes - _largest(bits)).float() * grid


def _top(bits: int) -> int:
    """The largest code of b bits."""
    return (1 << bits) - 1


def _largest(bits: int) -> int:
    """The largest magnitude of b bits with a sign, in steps."""
    return (1 << (bits - 1)) - 1


@METHODS.register("scalar")
class Scalar(TableMethod[ScalarSettings]):
    """A few bits per float; a size is a number of bits."""

    name = "scalar"
    Settings = ScalarSettings
    table_type = ScalarTable
    size_settings = ("bits",)

    @classmethod
    def first_rows(cls, inputs: MethodInputs, settings: ScalarSettings) -> Mapping[str, Tensor] | None:
        """See ``TableMethod.first_rows``."""
        return start_rows(inputs, settings, cls.name)

    @classmethod
    def table_bytes(cls, vocabulary: str, inputs: MethodInputs, settings: ScalarSettings) -> dict[str, int]:
        """codes: V (D + 1) b bits; rows: the grids' floats; or V D b bits and one float more per value."""
        size, own = inputs.layout.size(vocabulary), int(settings.first_order == "float")
        num_floats = grid_floats(settings.range) + own
        codes = packed_bytes(size, inputs.width - own, settings.bits)
        return {"codes": codes, "rows": size * num_floats * settings.float_bytes}

    def make_table(self, vocabulary: str, inputs: MethodInputs, settings: ScalarSettings) -> Table:
        """See ``TableMethod.make_table``."""
        return ScalarTable(vocabulary, inputs, settings)

    @classmethod
    def num_sizes(cls, inputs: MethodInputs, base: ScalarSettings) -> int:
        """2 to 8 bits."""
        return LARGEST_BITS - SMALLEST_BITS + 1

    @classmethod
    def at_size(cls, inputs: MethodInputs, base: ScalarSettings, size: int) -> ScalarSettings:
        """b = size + 1."""
        return with_settings(base, bits=size + SMALLEST_BITS - 1)
