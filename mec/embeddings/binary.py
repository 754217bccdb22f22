"""Binary vectors: one bit per dimension, and one scale per value.

    e(x) = a sign(v),  a = mean |v|

v is trained through the sign with the straight-through gradient; a follows it. Binary vectors are those of Liu et al.,
"Discrete factorization machines for fast feature-based recommendation", IJCAI 2018, and "Towards low-loss 1-bit
quantization of user-item representations for top-K recommendation", arXiv 2112.01944; a, the scale that approximates
v best, is Rastegari et al., "XNOR-Net", ECCV 2016, equation 6. As in discrete factorization machines, the first-order
weight stays a float.

Bytes per vocabulary: codes ceil(V D / 8), rows 2 V floats.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mec.embeddings.export import Array
from mec.embeddings.method import METHODS, MethodInputs
from mec.embeddings.row_table import RowTable, packed_codes, rounded, straight_through
from mec.embeddings.start import StartSettings, start_rows
from mec.embeddings.table_method import Table, TableMethod
from mec.quantize.packing import gather_codes, packed_bytes


class BinarySettings(StartSettings):
    """Settings of binary vectors."""


class BinaryTable(RowTable):
    """Rows of one bit per dimension; see ``RowTable`` for what it is built from."""

    name = "binary"

    def trained(self, rows: Tensor) -> Tensor:
        """See ``RowTable.trained``."""
        held = rows.detach()
        floats = rounded(row_floats(held), self.floats)
        return straight_through(rows, decode(bits_of(held[:, 1:]), floats))

    def pack(self, rows: Tensor) -> dict[str, Array]:
        """``codes``, a stream of V D bits, and ``floats`` (V, 2): first-order weight and scale."""
        codes = packed_codes(rows[:, 1:], bits_of, 1)
        return {"codes": Array("codes", codes), "floats": Array("rows", row_floats(rows))}

    def facts(self) -> dict[str, Any]:
        """D."""
        return {"embedding_dim": self.width - 1}

    @staticmethod
    def served_rows(arrays: Mapping[str, Tensor], facts: Mapping[str, Any], ids: Tensor) -> Tensor:
        """See ``Table.served_rows``."""
        bits = gather_codes(arrays["codes"], ids, facts["embedding_dim"], 1)
        return decode(bits, functional.embedding(ids, arrays["floats"]).float())


def row_floats(rows: Tensor) -> Tensor:
    """(N, D + 1) -> (N, 2): first-order weight, and a."""
    return torch.stack([rows[:, 0], rows[:, 1:].abs().mean(dim=1)], dim=1)


def bits_of(vectors: Tensor) -> Tensor:
    """(N, D) -> (N, D) int32: 1 from 0 on, 0 below."""
    return (vectors >= 0).int()


def decode(bits: Tensor, floats: Tensor) -> Tensor:
    """(N, D) bits, (N, 2) float32 -> (N, D + 1)."""
    return torch.cat([floats[:, :1], (2 * bits - 1) * floats[:, 1:]], dim=1)


@METHODS.register("binary")
class Binary(TableMethod[BinarySettings]):
    """One bit per dimension; it has one size."""

    name = "binary"
    Settings = BinarySettings
    table_type = BinaryTable

    @classmethod
    def first_rows(cls, inputs: MethodInputs, settings: BinarySettings) -> Mapping[str, Tensor] | None:
        """See ``TableMethod.first_rows``."""
        return start_rows(inputs, settings, cls.name)

    @classmethod
    def table_bytes(cls, vocabulary: str, inputs: MethodInputs, settings: BinarySettings) -> dict[str, int]:
        """codes: V D bits; rows: 2 V floats."""
        size = inputs.layout.size(vocabulary)
        return {"codes": packed_bytes(size, inputs.embedding_dim, 1), "rows": 2 * size * settings.float_bytes}

    def make_table(self, vocabulary: str, inputs: MethodInputs, settings: BinarySettings) -> Table:
        """See ``TableMethod.make_table``."""
        return BinaryTable(vocabulary, inputs, settings)

    @classmethod
    def num_sizes(cls, inputs: MethodInputs, base: BinarySettings) -> int:
        """One."""
        return 1

    @classmethod
    def at_size(cls, inputs: MethodInputs, base: BinarySettings, size: int) -> BinarySettings:
        """The settings as they are."""
        return base
