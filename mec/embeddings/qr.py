"""Quotient-remainder embeddings: Shi et al., "Compositional embeddings using complementary partitions for
memory-efficient recommendation systems", KDD 2020.

    e(x) = E1[x mod m] o E2[x div m],  o one of multiply, add, concat

Every value has its own pair of rows, since x = m (x div m) + (x mod m). With c ``collisions``, m = ceil(V / c), but
never less than ceil(sqrt V), where both tables are as small as they get together.

Bytes per vocabulary: (m + ceil(V / m)) (D + 1) floats; with concat, E1 has the first ceil((D + 1) / 2) columns, the
first-order weight among them, and E2 the others: m ceil((D + 1) / 2) + ceil(V / m) floor((D + 1) / 2) floats.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from mec.embeddings.exact_rows import draw, fill_unseen
from mec.embeddings.export import Array
from mec.embeddings.full import RowSparseTable
from mec.embeddings.method import METHODS, MethodInputs, with_settings
from mec.embeddings.table_method import Table, TableMethod, TableSettings
from mec.quantize.storage import Floats

Compose = Literal["multiply", "add", "concat"]


class QRSettings(TableSettings):
    """Settings of quotient-remainder embeddings."""

    collisions: float = Field(4.0, ge=1, description="values per remainder row; beyond sqrt(V) it is sqrt(V)")
    compose: Compose = Field("multiply", description="how the two rows become one; add diverged for the authors")


class QRTable(Table):
    """A remainder table and a quotient table.

    Args:
        counts: (V,) training counts.
        remainders: m.
        widths: Columns of the two tables.
        compose: How their rows become one.
        init_std: Of the first vectors.
        generator: Of the first vectors.
    """

    seen_remainders: Tensor
    seen_quotients: Tensor

    def __init__(
        self,
        counts: NDArray[np.int64],
        remainders: int,
        widths: tuple[int, int],
        compose: Compose,
        init_std: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.remainders = remainders
        self.compose = compose
        self.remainder = RowSparseTable(remainders, widths[0])
        self.quotient = RowSparseTable(-(-len(counts) // remainders), widths[1])
        draw(self.remainder.weight, init_std, generator)
        if compose == "concat":
            with torch.no_grad():  # no first-order weight among its columns
                self.quotient.weight.normal_(0.0, init_std, generator=generator)
        else:
            # a product of two small vectors would start, and stay, near zero
            draw(self.quotient.weight, init_std, generator, mean=1.0 if compose == "multiply" else 0.0)
        seen = torch.from_numpy(np.flatnonzero(counts))  # ids
        remainder_uses = torch.bincount(seen % remainders, minlength=len(self.remainder.weight))
        quotient_uses = torch.bincount(seen // remainders, minlength=len(self.quotient.weight))
        self.register_buffer("seen_remainders", remainder_uses > 0, persistent=False)
        self.register_buffer("seen_quotients", quotient_uses > 0, persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """(N,) -> (N, D + 1)."""
        first, second = self.remainder(ids % self.remainders), self.quotient(ids // self.remainders)
        return composed(first, second, self.compose)

    def arrays(self) -> dict[str, Array]:
        """``remainder`` (m, W1) and ``quotient`` (ceil(V / m), W2)."""
        return {
            "remainder": Array("rows", self.remainder.weight),
            "quotient": Array("rows", self.quotient.weight),
        }

    def facts(self) -> dict[str, Any]:
        """How rows are composed."""
        return {"compose": self.compose}

    def finish(self, floats: Floats) -> None:
        """Fill rows that no value in training reads with the mean of their table's others; see ``Table.finish``."""
        fill_unseen(self.remainder.weight, self.seen_remainders)
        fill_unseen(self.quotient.weight, self.seen_quotients)
        super().finish(floats)

    @staticmethod
    def served_rows(arrays: Mapping[str, Tensor], facts: Mapping[str, Any], ids: Tensor) -> Tensor:
        """See ``Table.served_rows``."""
        num = len(arrays["remainder"])
        first = functional.embedding(ids % num, arrays["remainder"]).float()
        return composed(first, functional.embedding(ids // num, arrays["quotient"]).float(), facts["compose"])


def composed(first: Tensor, second: Tensor, compose: Compose) -> Tensor:
    """(N, W1), (N, W2) -> (N, D + 1)."""
    if compose == "concat":
        return torch.cat([first, second], dim=1)
    return first * second if compose == "multiply" else first + second


@METHODS.register("qr")
class QR(TableMethod[QRSettings]):
    """Two complementary tables per vocabulary; a size is a number of remainders per all large vocabularies' values."""

    name = "qr"
    Settings = QRSettings
    table_type = QRTable
    size_settings = ("collisions",)

    @classmethod
    def table_bytes(cls, vocabulary: str, inputs: MethodInputs, settings: QRSettings) -> dict[str, int]:
        """rows: m W1 + ceil(V / m) W2 floats."""
        size = inputs.layout.size(vocabulary)
        num, widths = _remainders(size, settings), _widths(inputs.width, settings)
        return {"rows": (num * widths[0] + -(-size // num) * widths[1]) * settings.float_bytes}

    def make_table(self, vocabulary: str, inputs: MethodInputs, settings: QRSettings) -> Table:
        """See ``TableMethod.make_table``."""
        counts, widths = inputs.counts[vocabulary], _widths(inputs.width, settings)
        num = _remainders(len(counts), settings)
        return QRTable(counts, num, widths, settings.compose, settings.init_std, inputs.generator(vocabulary))

    @classmethod
    def num_sizes(cls, inputs: MethodInputs, base: QRSettings) -> int:
        """Values of the largest vocabulary."""
        return max(inputs.layout.size(name) for name, _ in inputs.layout.vocabularies)

    @classmethod
    def at_size(cls, inputs: MethodInputs, base: QRSettings, size: int) -> QRSettings:
        """As many collisions as leave the largest vocabulary with ``size`` remainders."""
        return with_settings(base, collisions=cls.num_sizes(inputs, base) / size)


def _remainders(size: int, settings: QRSettings) -> int:
    # V / (V / m) may exceed m by a rounding error, which must not cost a row
    return max(math.ceil(size / settings.collisions * (1 - 1e-12)), math.isqrt(size - 1) + 1)


def _widths(width: int, settings: QRSettings) -> tuple[int, int]:
    return ((width + 1) // 2, width // 2) if settings.compose == "concat" else (width, width)
