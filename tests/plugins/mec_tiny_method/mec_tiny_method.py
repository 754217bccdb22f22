"""A compression method of another package: values share the row of their id's remainder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field
from torch import Tensor
from torch.nn import functional

from mec.embeddings.exact_rows import draw
from mec.embeddings.export import Array
from mec.embeddings.full import RowSparseTable
from mec.embeddings.method import MethodInputs, with_settings
from mec.embeddings.table_method import Table, TableMethod, TableSettings


class ModuloSettings(TableSettings):
    """Settings of Modulo."""

    num_rows: int = Field(64, ge=1, description="rows per vocabulary")


class ModuloTable(Table):
    """e(x) = E[x mod R]."""

    def __init__(self, vocabulary: str, inputs: MethodInputs, settings: ModuloSettings) -> None:
        super().__init__()
        self.table = RowSparseTable(settings.num_rows, inputs.width)
        draw(self.table.weight, settings.init_std, inputs.generator(vocabulary))

    def forward(self, ids: Tensor) -> Tensor:
        """(N,) -> (N, D + 1)."""
        rows: Tensor = self.table(ids % len(self.table.weight))
        return rows

    def arrays(self) -> dict[str, Array]:
        """``rows`` (R, D + 1)."""
        return {"rows": Array("rows", self.table.weight)}

    @staticmethod
    def served_rows(arrays: Mapping[str, Tensor], facts: Mapping[str, Any], ids: Tensor) -> Tensor:
        """See ``Table.served_rows``."""
        return functional.embedding(ids % len(arrays["rows"]), arrays["rows"]).float()


class Modulo(TableMethod[ModuloSettings]):
    """R rows for every large vocabulary; a size is R."""

    name = "modulo"
    Settings = ModuloSettings
    table_type = ModuloTable

    @classmethod
    def table_bytes(cls, vocabulary: str, inputs: MethodInputs, settings: ModuloSettings) -> dict[str, int]:
        """rows: R (D + 1) floats."""
        return {"rows": settings.num_rows * inputs.width * settings.float_bytes}

    def make_table(self, vocabulary: str, inputs: MethodInputs, settings: ModuloSettings) -> Table:
        """See ``TableMethod.make_table``."""
        return ModuloTable(vocabulary, inputs, settings)

    @classmethod
    def num_sizes(cls, inputs: MethodInputs, base: ModuloSettings) -> int:
        """Values of the largest vocabulary."""
        return max(size for _, size in inputs.layout.vocabularies)

    @classmethod
    def at_size(cls, inputs: MethodInputs, base: ModuloSettings, size: int) -> ModuloSettings:
        """R = size."""
        return with_settings(base, num_rows=size)
