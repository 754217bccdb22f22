"""Low rank: every large vocabulary's table is a product P (V, r) Q (r, D + 1), trained as such.

Bytes per vocabulary: r (V + D + 1) floats, or V (D + 1) where that is no more.
"""

from __future__ import annotations

import torch
from pydantic import Field

from mec.embeddings.method import METHODS, MethodInputs, with_settings
from mec.embeddings.projected import ProjectedTable, projected_bytes
from mec.embeddings.table_method import Table, TableMethod, TableSettings


class LowRankSettings(TableSettings):
    """Settings of low rank."""

    rank: int = Field(4, ge=1, description="r, floats per value; D + 1 and more is a full table")


@METHODS.register("low_rank")
class LowRank(TableMethod[LowRankSettings]):
    """One rank for all large vocabularies; a size is a rank."""

    name = "low_rank"
    Settings = LowRankSettings
    table_type = ProjectedTable
    size_settings = ("rank",)

    @classmethod
    def table_bytes(cls, vocabulary: str, inputs: MethodInputs, settings: LowRankSettings) -> dict[str, int]:
        """rows: V r floats, other: r (D + 1) floats."""
        return projected_bytes(inputs.layout.size(vocabulary), inputs.width, settings.rank, settings.float_bytes)

    def make_table(self, vocabulary: str, inputs: MethodInputs, settings: LowRankSettings) -> Table:
        """See ``TableMethod.make_table``."""
        size, seen = inputs.layout.size(vocabulary), torch.from_numpy(inputs.counts[vocabulary] > 0)
        generator = inputs.generator(vocabulary)
        return ProjectedTable(size, inputs.width, settings.rank, seen, settings.init_std, generator)

    @classmethod
    def num_sizes(cls, inputs: MethodInputs, base: LowRankSettings) -> int:
        """D + 1."""
        return inputs.width

    @classmethod
    def at_size(cls, inputs: MethodInputs, base: LowRankSettings, size: int) -> LowRankSettings:
        """r = size."""
        return with_settings(base, rank=size)
