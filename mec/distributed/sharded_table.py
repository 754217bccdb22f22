"""A table whose rows lie in several processes: row r in process r modulo their number.

Ids are in order of popularity, so that every process gets its share of the popular rows and of the work. One look-up
is two exchanges: distinct ids to the processes that hold them, rows back; gradients of rows go the way of the ids.
The optimizer's state lies beside the rows, and a step touches the batch's rows alone, as in one process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mec.distributed.processes import Processes
from mec.lookup import rows_at

if TYPE_CHECKING:
    from mec.embeddings.full import RowSparseTable


class ShardedTable(nn.Module):
    """One process's share of a table, and the look-up of any row of it.

    Every process calls ``forward`` and ``read_rows`` the same number of times, with ids of its own.

    Args:
        local: This process's rows, ``num_local_rows`` of them, trained by row-sparse Adam.
        processes: Those that share the table.
    """

    def __init__(self, local: RowSparseTable, processes: Processes) -> None:
        super().__init__()
        self.local = local
        self._processes = processes

    def forward(self, index: Tensor) -> Tensor:
        """(N,) row numbers -> (N, width) rows."""
        num = self._processes.num
        distinct, inverse = torch.unique(index, return_inverse=True)  # (U,), (N,)
        by_owner = torch.argsort(distinct % num, stable=True)
        wanted = distinct[by_owner].long()  # (U,) those that process 0 holds first
        sent = torch.bincount(wanted % num, minlength=num)
        ones = [1] * num
        received = self._processes.exchange(sent, ones, ones).tolist()
        asked_for = self._processes.exchange(wanted, sent.tolist(), received)
        rows = self._processes.exchange(self.local(asked_for // num), received, sent.tolist())  # (U, width)
        place = torch.empty_like(by_owner)
        place[by_owner] = torch.arange(len(by_owner), device=place.device)
        return rows_at(rows, place[inverse])

    @torch.no_grad()
    def write_rows(self, first: int, rows: Tensor) -> None:
        """Keep this process's rows of (n, width), which begin at row ``first`` of the table."""
        own = _own(self._processes, first, first + len(rows))
        self.local.weight[own.start // own.step :][: len(own)] = rows[own.start - first :: own.step].to(
            self.local.weight.device
        )

    @torch.no_grad()
    def read_rows(self, first: int, stop: int) -> Tensor:
        """(stop - first, width) rows on the CPU, in every process."""
        rows = torch.zeros(stop - first, self.local.weight.shape[1])
        own = _own(self._processes, first, stop)
        rows[own.start - first :: own.step] = self.local.weight[own.start // own.step :][: len(own)].cpu()
        return self._processes.sum(rows)


def num_local_rows(num_rows: int, processes: Processes) -> int:
    """How many of a table's rows lie in this process."""
    return len(_own(processes, 0, num_rows))


def _own(processes: Processes, first: int, stop: int) -> range:
    """This process's rows among rows ``first`` to ``stop`` of a table."""
    return range(first + (processes.rank - first) % processes.num, stop, processes.num)
