"""Tables that train one row per value and pack it afterwards: scalar and binary quantization, pruning.

Training holds all V (D + 1) floats; a server holds what ``pack`` makes of them. Eval mode gives rows as they will be
served, so that validation chooses the epoch by what is served.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor

from mec.embeddings.exact_rows import at_stored_width, draw, fill_unseen
from mec.embeddings.export import Array
from mec.embeddings.full import RowSparseTable
from mec.embeddings.method import MethodInputs
from mec.embeddings.start import StartSettings, start_rows
from mec.embeddings.table_method import Table
from mec.quantize.packing import pack
from mec.quantize.storage import DTYPES, Floats

_CHUNK_ROWS = 1 << 16  # a multiple of 8, so that each chunk's codes end on a byte

SettingsT = TypeVar("SettingsT", bound=StartSettings)


class RowTable(Table):
    """One trained row per value until ``finish``, packed arrays from then on.

    Attributes:
        name: Of the method, for errors.

    Args:
        vocabulary: Its name.
        inputs: Layout, D, counts, pre-trained rows, seed.
        settings: Where rows start, and how floats are stored.

    Raises:
        ConfigError: Rows are to start from pre-trained ones, and there are none.
    """

    name: ClassVar[str]
    seen: Tensor

    def __init__(self, vocabulary: str, inputs: MethodInputs, settings: StartSettings) -> None:
        super().__init__()
        self.width = inputs.width
        self.floats: Floats = settings.floats
        self.num_values = inputs.layout.size(vocabulary)
        self.table = RowSparseTable(self.num_values, inputs.width)
        start = start_rows(inputs, settings, self.name)
        if start is None:
            draw(self.table.weight, settings.init_std, inputs.generator(vocabulary))
        else:
            self.table.weight.copy_(start[vocabulary])
        self.register_buffer("seen", torch.from_numpy(inputs.counts[vocabulary] > 0), persistent=False)
        self._packed: dict[str, Array] = {}

    def forward(self, ids: Tensor) -> Tensor:
        """(N,) -> (N, D + 1)."""
        if not self.finished:
            return self.trained(self.table(ids))
        return self.served_rows({key: array.tensor for key, array in self.arrays().items()}, self.facts(), ids)

    @property
    def finished(self) -> bool:
        """Whether packed arrays have taken the place of the trained rows."""
        return bool(self._packed)

    def trained(self, rows: Tensor) -> Tensor:
        """(N, D + 1) rows as they are trained -> as the backbone sees them: in eval mode, as they will be served."""
        raise TypeError(f"{type(self).__name__} defines no trained")

    def pack(self, rows: Tensor) -> dict[str, Array]:
        """(V, D + 1) float32 rows on the CPU -> what a server holds.

        Raises:
            ConfigError: A float is beyond float16's range.
        """
        raise TypeError(f"{type(self).__name__} defines no pack")

    def arrays(self) -> dict[str, Array]:
        """Packed rows: of the training so far, or for good."""
        if not self.finished:
            return self.pack(self.table.weight.cpu())
        return {key: Array(array.part, self.get_buffer(f"packed_{key}")) for key, array in self._packed.items()}

    def finish(self, floats: Floats) -> None:
        """Fill rows of values that are not in training, pack, and let the trained rows go."""
        fill_unseen(self.table.weight, self.seen)
        self._packed = at_stored_width(self.pack(self.table.weight.cpu()), floats)
        for key, array in self._packed.items():
            self.register_buffer(f"packed_{key}", array.tensor.to(self.seen.device))
        del self.table


def straight_through(rows: Tensor, served: Tensor) -> Tensor:
    """The served rows' values with the gradient of the rows: Bengio et al., arXiv 1308.3432, section 4."""
    return served.detach() + (rows - rows.detach())


def rounded(values: Tensor, floats: Floats) -> Tensor:
    """float32 values as they are stored; beyond float16's range, infinite."""
    return values.to(DTYPES[floats]).float()


def packed_codes(rows: Tensor, encode: Callable[[Tensor], Tensor], bits: int) -> Tensor:
    """Code rows chunk by chunk into one bit stream.

    Args:
        rows: (V, W).
        encode: (n, W) rows -> (n, M) integers in [0, 2^bits).
        bits: b, from 1 to 16.

    Returns:
        (ceil(V M b / 8),) uint8.
    """
    parts = [pack(encode(chunk).numpy(), bits) for chunk in torch.split(rows, _CHUNK_ROWS)]
    return torch.from_numpy(np.concatenate(parts))
