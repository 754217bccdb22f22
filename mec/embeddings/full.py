"""Full tables with row-sparse training: a step costs the batch, never the vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import DTypeLike
from torch import Tensor, nn
from torch.nn import functional

from mec.data.layout import FieldLayout
from mec.distributed.processes import current
from mec.distributed.sharded_table import ShardedTable, num_local_rows
from mec.lookup import rows_at

CHUNK_ROWS = 65_536  # drawn, or gathered from several processes, at a time


class RowSparseTable(nn.Module):
    """All vocabularies' rows stacked into one table, trained by row-sparse, row-wise Adam.

    Adam (Kingma & Ba, ICLR 2015) on the rows of the batch alone, with one second moment per row, the mean of the
    squared gradients, as FBGEMM's partial row-wise Adam has it: state takes 1 float per weight, not 2.

    ``weight`` is a buffer: autograd sees only the rows that a batch touches, once each. After
    ``backward`` the optimizer calls ``step_rows``; state and update touch those rows alone.

    Args:
        num_rows: Rows, over all vocabularies.
        width: Floats per row: the first-order weight and D dimensions.
    """

    weight: Tensor
    moments: Tensor
    scratch: Tensor

    def __init__(self, num_rows: int, width: int) -> None:
        super().__init__()
        self.register_buffer("weight", _zeros(num_rows, width))
        # the row's second moment beside its first ones: one cache miss per row, not two
        self.register_buffer("moments", torch.zeros(0, width + 1), persistent=False)
        self.register_buffer("scratch", torch.zeros(0, dtype=torch.int32), persistent=False)
        self._pending: tuple[Tensor, Tensor] | None = None

    def start_training(self) -> None:
        """Allocate the optimizer's state: one float per weight, one float and one int32 per row."""
        num_rows, width = self.weight.shape
        self.moments = _zeros(num_rows, width + 1).to(self.weight.device)
        self.scratch = _zeros(num_rows, dtype=np.int32).to(self.weight.device)

    def end_training(self) -> None:
        """Free the optimizer's state."""
        self._pending = None
        self.moments = self.moments.new_zeros(0, self.moments.shape[1])
        self.scratch = self.scratch.new_zeros(0)

    def forward(self, index: Tensor) -> Tensor:
        """(N,) row numbers -> (N, width) rows."""
        if not (self.training and torch.is_grad_enabled()):
            return functional.embedding(index, self.weight)
        _, rows, inverse = self.distinct(index)
        return rows_at(rows, inverse)

    def distinct(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Look rows up that the next step trains, each once; after ``start_training``.

        Args:
            index: (N,) row numbers.

        Returns:
            Distinct row numbers (U,), their rows (U, width), and (N,) the place of each index among them.
        """
        unique, inverse = self._unique(index)
        rows = functional.embedding(unique, self.weight).requires_grad_()
        self._pending = (unique, rows)
        return unique, rows, inverse

    def _unique(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Distinct rows (U,) and the place of each index among them (N,); linear time, no sort.

        Each row's last position wins, in any number of threads, so that rows come in one order.
        """
        place = torch.arange(index.numel(), dtype=torch.int32, device=index.device)
        self.scratch.index_fill_(0, index, -1).scatter_reduce_(0, index.long(), place, "amax")
        winner = self.scratch[index]  # (N,) one position per distinct row
        chosen = winner == place
        rank = torch.cumsum(chosen, 0, dtype=torch.int32) - 1
        return index[chosen], rank[winner]

    @torch.no_grad()
    def write_rows(self, first: int, rows: Tensor) -> None:
        """Put (n, width) rows at row ``first`` and the ones after it."""
        self.weight[first : first + len(rows)] = rows.to(self.weight.device)

    @torch.no_grad()
    def step_rows(
        self, step: int, learning_rate: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> None:
        """Row-wise Adam on the rows of the last batch; ``step`` counts from 1."""
        if self._pending is None:
            return
        unique, rows = self._pending
        self._pending = None
        if rows.grad is None:
            return
        grad, width = rows.grad, self.weight.shape[1]
        moments = functional.embedding(unique, self.moments)  # (U, width + 1)
        first, second = moments[:, :width], moments[:, width]  # (U, width), (U,)
        first.lerp_(grad, 1 - betas[0])
        squares = torch.linalg.vector_norm(grad, dim=1).square_()
        second.mul_(betas[1]).add_(squares, alpha=(1 - betas[1]) / width)
        self.moments.index_copy_(0, unique, moments)
        correction = (1 - betas[1] ** step) ** 0.5
        sizes = (learning_rate * correction / (1 - betas[0] ** step)) / second.sqrt().add_(eps * correction)  # (U,)
        self.weight.index_copy_(0, unique, rows.detach().addcmul_(first, sizes.unsqueeze(1), value=-1))


def _zeros(*shape: int, dtype: DTypeLike = np.float32) -> Tensor:
    """Zeros in numpy's memory: it asks for huge pages, which makes random rows of a large table 5 times faster."""
    return torch.from_numpy(np.zeros(shape, dtype=dtype))


class FullEmbedding(nn.Module):
    """One float32 row per value: the uncompressed reference, and what pre-training learns.

    Where several processes train together, each holds its share of the rows; see ``mec.distributed``.

    Args:
        layout: Fields and vocabularies.
        embedding_dim: D; rows are D + 1 wide, column 0 is the first-order weight.
        rows: (num_values, D + 1) rows of all vocabularies, to be held by this process; None: zeros.
    """

    offsets: Tensor
    table: RowSparseTable | ShardedTable

    def __init__(self, layout: FieldLayout, embedding_dim: int, rows: Tensor | None = None) -> None:
        super().__init__()
        self.layout = layout
        self.embedding_dim = embedding_dim
        processes, width = current(), embedding_dim + 1
        if rows is not None:
            self.table = RowSparseTable(0, width)
            self.table.weight = rows
        elif processes.num > 1:
            local = RowSparseTable(num_local_rows(layout.num_values, processes), width)
            self.table = ShardedTable(local, processes)
        else:
            self.table = RowSparseTable(layout.num_values, width)
        self.register_buffer("offsets", torch.from_numpy(layout.slot_offsets()), persistent=False)

    def initialise(self, generator: torch.Generator, std: float) -> None:
        """Vectors from N(0, std^2), first-order weights 0; the same for any number of processes."""
        num_rows = self.layout.num_values
        num_chunks = max(1, num_rows // CHUNK_ROWS)
        cuts = [num_rows * i // num_chunks for i in range(num_chunks + 1)]
        for start, stop in pairwise(cuts):
            rows = torch.zeros(stop - start, self.embedding_dim + 1)
            rows[:, 1:].normal_(0.0, std, generator=generator)
            self.table.write_rows(start, rows)

    def load(self, tables: Mapping[str, Tensor]) -> None:
        """Take (V, D + 1) rows of vocabularies; any others stay as they are."""
        starts = self.layout.offsets()
        for name, rows in tables.items():
            self.table.write_rows(starts[name], rows)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, S) int32 ids -> (B, S, D + 1) rows."""
        index = (ids + self.offsets).flatten()
        rows: Tensor = self.table(index)
        return rows.view(*ids.shape, self.embedding_dim + 1)

    def tables(self) -> dict[str, Tensor]:
        """Views (V, D + 1) of each vocabulary's rows, where this process holds them all."""
        assert isinstance(self.table, RowSparseTable)
        views, offset = {}, 0
        for name, size in self.layout.vocabularies:
            views[name] = self.table.weight[offset : offset + size]
            offset += size
        return views

    def serving_bytes(self) -> dict[str, int]:
        """Bytes that a server must hold, by part."""
        rows = self.layout.num_values * (self.embedding_dim + 1) * 4
        return {"codes": 0, "codebooks": 0, "rows": rows, "index": 0, "other": 0}
