"""Others bucket: values counted less often than a threshold share one row, the usual preprocessing of CTR data.

    e(x) = E[rank(x)] where n(x) >= min_count, else E[0]

Bytes: (1 + k) (D + 1) floats per vocabulary, k the values at or above the threshold. Id 0 shares the others' row. Ids
are in order of count, so rank(x) = x; where they are not, the kept ids are an index of 4 k bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from mec.embeddings.exact_rows import draw, fill_unseen
from mec.embeddings.export import Array
from mec.embeddings.full import RowSparseTable
from mec.embeddings.head import head_ids, index_bytes, places
from mec.embeddings.method import METHODS, MethodInputs, with_settings
from mec.embeddings.table_method import Table, TableMethod, TableSettings
from mec.quantize.storage import Floats


class OthersSettings(TableSettings):
    """Settings of the others bucket."""

    min_count: int = Field(10, ge=1, description="training rows that a value must be in to have a row of its own")


class OthersTable(Table):
    """Row 0 is shared, then one row per kept value.

    Args:
        counts: (V,) training counts.
        width: D + 1.
        kept: k.
        init_std: Of the first vectors.
        generator: Of the first vectors.
    """

    index: Tensor | None
    seen: Tensor

    def __init__(
        self, counts: NDArray[np.int64], width: int, kept: int, init_std: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.kept = kept
        self.table = RowSparseTable(1 + kept, width)
        draw(self.table.weight, init_std, generator)
        self.register_buffer("index", head_ids(counts, kept), persistent=False)
        seen = torch.ones(1 + kept, dtype=torch.bool)
        seen[0] = int((counts > 0).sum()) > kept
        self.register_buffer("seen", seen, persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """(N,) -> (N, D + 1)."""
        rows: Tensor = self.table(1 + places(ids, self.kept, self.index))
        return rows

    def arrays(self) -> dict[str, Array]:
        """``rows`` (1 + k, D + 1), and ``index`` (k,) where ids are in no order."""
        index = {} if self.index is None else {"index": Array("index", self.index)}
        return {"rows": Array("rows", self.table.weight), **index}

    def finish(self, floats: Floats) -> None:
        """Where no value in training shares row 0, it is filled with the mean of the others; see ``Table.finish``."""
        fill_unseen(self.table.weight, self.seen)
        super().finish(floats)

    @staticmethod
    def served_rows(arrays: Mapping[str, Tensor], facts: Mapping[str, Any], ids: Tensor) -> Tensor:
        """See ``Table.served_rows``."""
        rows = arrays["rows"]
        return functional.embedding(1 + places(ids, len(rows) - 1, arrays.get("index")), rows).float()


@METHODS.register("others")
class Others(TableMethod[OthersSettings]):
    """Own rows for values at or above a count, one row for all others; a size is a threshold."""

    name = "others"
    Settings = OthersSettings
    table_type = OthersTable
    size_settings = ("min_count",)

    @classmethod
    def table_bytes(cls, vocabulary: str, inputs: MethodInputs, settings: OthersSettings) -> dict[str, int]:
        """rows: (1 + k) (D + 1) floats; index: 4 k where ids are in no order."""
        counts = inputs.counts[vocabulary]
        kept = _num_kept(inputs, vocabulary, settings)
        return {"rows": (1 + kept) * inputs.width * settings.float_bytes, "index": index_bytes(counts, kept)}

    def make_table(self, vocabulary: str, inputs: MethodInputs, settings: OthersSettings) -> Table:
        """See ``TableMethod.make_table``."""
        kept = _num_kept(inputs, vocabulary, settings)
        counts, generator = inputs.counts[vocabulary], inputs.generator(vocabulary)
        return OthersTable(counts, inputs.width, kept, settings.init_std, generator)

    @classmethod
    def num_sizes(cls, inputs: MethodInputs, base: OthersSettings) -> int:
        """As many as there are counts to tell apart, and one that keeps nothing."""
        return len(_thresholds(inputs, cls.split(inputs, base)[0]))

    @classmethod
    def at_size(cls, inputs: MethodInputs, base: OthersSettings, size: int) -> OthersSettings:
        """The size'th largest threshold."""
        return with_settings(base, min_count=_thresholds(inputs, cls.split(inputs, base)[0])[size - 1])


def _num_kept(inputs: MethodInputs, vocabulary: str, settings: OthersSettings) -> int:
    return int((inputs.counts[vocabulary][1:] >= settings.min_count).sum())


def _thresholds(inputs: MethodInputs, names: list[str]) -> list[int]:
    """Thresholds that differ in what they keep, falling; the first keeps nothing."""
    counts = np.unique(np.concatenate([np.zeros(1, np.int64), *(inputs.counts[name][1:] for name in names)]))
    return [int(counts[-1]) + 1, *(int(count) for count in counts[::-1] if count > 0)]
