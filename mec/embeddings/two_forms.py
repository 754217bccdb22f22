"""Tables whose form in training is another than the one that is served."""

from __future__ import annotations

import torch
from torch import Tensor

from mec.embeddings.exact_rows import round_floats
from mec.embeddings.export import Array, Part
from mec.embeddings.table_method import Table
from mec.quantize.storage import Floats


class TwoFormTable(Table):
    """Base of tables that are trained in one form and served in another, which takes over when they are finished."""

    def __init__(self) -> None:
        super().__init__()
        self._held: dict[str, Part] | None = None

    def trained_rows(self, ids: Tensor) -> Tensor:
        """``forward`` until ``finish``: (N,) int64 -> (N, D + 1)."""
        raise TypeError(f"{type(self).__name__} defines no trained_rows")

    def build(self) -> dict[str, Array]:
        """What a server would hold of the state of training; no gradients."""
        raise TypeError(f"{type(self).__name__} defines no build")

    def settle(self, floats: Floats) -> None:
        """The last changes before the served form is built, such as rounding what it depends on."""

    def release(self) -> None:
        """Let go of what only training needs."""
        raise TypeError(f"{type(self).__name__} defines no release")

    def forward(self, ids: Tensor) -> Tensor:
        """(N,) int64 ids -> (N, D + 1) rows."""
        if self._held is None:
            return self.trained_rows(ids)
        return self.served_rows({name: array.tensor for name, array in self.arrays().items()}, self.facts(), ids)

    def arrays(self) -> dict[str, Array]:
        """What a server holds."""
        if self._held is None:
            with torch.no_grad():
                return self.build()
        return {name: Array(part, self.get_buffer(f"held_{name}")) for name, part in self._held.items()}

    @torch.no_grad()
    def finish(self, floats: Floats) -> None:
        """See ``Table.finish``."""
        self.settle(floats)
        arrays = self.build()
        for name, array in arrays.items():
            self.register_buffer(f"held_{name}", array.tensor.detach().clone(), persistent=False)
        self._held = {name: array.part for name, array in arrays.items()}
        self.release()
        round_floats(self.arrays(), floats)
