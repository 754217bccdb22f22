"""Tables of few dimensions with a projection to D + 1: what low rank and mixed dimensions have in common.

    e(x) = P[x] Q,  P (V, r), Q (r, D + 1)

Bytes: r (V + D + 1) floats. Where that is no less than the full V (D + 1), the table is full: r = D + 1 without Q.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mec.embeddings.exact_rows import draw, fill_unseen
from mec.embeddings.export import Array
from mec.embeddings.full import RowSparseTable
from mec.embeddings.table_method import Table
from mec.quantize.storage import Floats


def is_full(num_values: int, width: int, rank: int) -> bool:
    """Whether rank r saves nothing for V values of D + 1 floats."""
    return rank * (num_values + width) >= num_values * width


def projected_bytes(num_values: int, width: int, rank: int, float_bytes: int) -> dict[str, int]:
    """rows: V r floats, other: r (D + 1) floats for Q; or rows: V (D + 1) floats. Never falling in r."""
    if is_full(num_values, width, rank):
        return {"rows": num_values * width * float_bytes}
    return {"rows": num_values * rank * float_bytes, "other": rank * width * float_bytes}


class ProjectedTable(Table):
    """P and Q of one vocabulary, trained together.

    First values: Q has orthonormal rows but for its column 0, which is 0, and P is drawn so that vectors have about the
    standard deviation ``init_std``.

    Args:
        num_values: V.
        width: D + 1.
        rank: r.
        seen: (V,) bool, values that are in training.
        init_std: Of the first vectors.
        generator: Of first values.
    """

    seen: Tensor

    def __init__(
        self, num_values: int, width: int, rank: int, seen: Tensor, init_std: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.register_buffer("seen", seen, persistent=False)
        self.projection: nn.Parameter | None = None
        if is_full(num_values, width, rank):
            self.table = RowSparseTable(num_values, width)
            draw(self.table.weight, init_std, generator)
            return
        self.table = RowSparseTable(num_values, rank)
        orthonormal = torch.linalg.qr(torch.randn(width, rank, generator=generator))[0].T.contiguous()  # (r, D + 1)
        orthonormal[:, 0] = 0.0
        self.projection = nn.Parameter(orthonormal)
        with torch.no_grad():
            self.table.weight.normal_(0.0, init_std * (width / rank) ** 0.5, generator=generator)

    def forward(self, ids: Tensor) -> Tensor:
        """(N,) -> (N, D + 1)."""
        rows: Tensor = self.table(ids)
        return rows if self.projection is None else rows @ self.projection

    def arrays(self) -> dict[str, Array]:
        """``rows`` (V, r) and ``projection`` (r, D + 1), or ``rows`` (V, D + 1)."""
        rows = {"rows": Array("rows", self.table.weight)}
        return rows if self.projection is None else rows | {"projection": Array("other", self.projection)}

    def finish(self, floats: Floats) -> None:
        """Fill rows of values that are not in training, and round."""
        fill_unseen(self.table.weight, self.seen)
        super().finish(floats)

    @staticmethod
    def served_rows(arrays: Mapping[str, Tensor], facts: Mapping[str, Any], ids: Tensor) -> Tensor:
        """See ``Table.served_rows``."""
        rows = functional.embedding(ids, arrays["rows"]).float()
        return rows @ arrays["projection"].float() if "projection" in arrays else rows
