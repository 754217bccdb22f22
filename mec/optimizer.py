"""Adam over a model: dense parameters by torch, embedding tables row by row."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mec.distributed.processes import current
from mec.embeddings.full import RowSparseTable


class CtrOptimizer:
    """One step for every part of a CTR model.

    Args:
        model: Its dense parameters and its ``RowSparseTable`` modules are trained.
        learning_rate: Adam step size, the same for both.
    """

    def __init__(self, model: nn.Module, learning_rate: float) -> None:
        self.learning_rate = learning_rate
        self.num_steps = 0
        self._dense = [p for p in model.parameters() if p.requires_grad]
        current().start_alike(self._dense)
        self.dense = torch.optim.Adam(self._dense, lr=learning_rate)
        self.tables = [m for m in model.modules() if isinstance(m, RowSparseTable)]
        for table in self.tables:
            table.start_training()

    def zero_grad(self) -> None:
        """Forget the dense gradients; rows carry theirs with them."""
        self.dense.zero_grad(set_to_none=True)

    def step(self) -> None:
        """Apply the gradients of the last ``backward``, those of all processes that train together."""
        self.num_steps += 1
        current().sum_gradients(self._dense)
        self.dense.step()
        for table in self.tables:
            table.step_rows(self.num_steps, self.learning_rate)

    def end(self) -> None:
        """Free the state of the tables' rows; no step can follow."""
        for table in self.tables:
            table.end_training()

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on: step count, dense state, row moments."""
        return {
            "num_steps": self.num_steps,
            "dense": self.dense.state_dict(),
            "moments": [t.moments for t in self.tables],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` gave."""
        self.num_steps = int(state["num_steps"])
        self.dense.load_state_dict(state["dense"])
        for table, moments in zip(self.tables, state["moments"], strict=True):
            table.moments.copy_(moments)
