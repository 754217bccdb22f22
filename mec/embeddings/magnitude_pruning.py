"""Magnitude pruning: the floats of least magnitude are 0 and are not stored; with small D, the baseline to beat.

gradual (Zhu and Gupta, "To prune, or not to prune", arXiv 1710.01878, equation 1): the share of floats that are 0
rises from step t0 to step t1 as

    s_t = s (1 - (1 - (t - t0) / (t1 - t0))^3),  s = 1 - keep

and the others are trained on. post: all are trained, and pruned at the end. Either way validation sees the table with
the n floats that would be served.

Bytes per vocabulary: rows n floats, n = ceil(keep V (D + 1)); index: see ``mec.embeddings.sparse_rows``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from mec.embeddings.exact_rows import fill_unseen
from mec.embeddings.export import Array
from mec.embeddings.method import METHODS, MethodInputs, with_settings
from mec.embeddings.row_table import RowTable
from mec.embeddings.sizing import share_of
from mec.embeddings.sparse_rows import index_bytes, look_up, sparse_rows
from mec.embeddings.start import StartSettings, start_rows
from mec.embeddings.table_method import Table, TableMethod


class PruningSettings(StartSettings):
    """Settings of magnitude pruning."""

    keep: float = Field(0.1, gt=0, le=1, description="share of each vocabulary's floats that are kept")
    schedule: Literal["gradual", "post"] = Field("gradual", description="pruned while trained, or afterwards")
    from_step: int = Field(0, ge=0, description="t0, the step after which floats become 0")
    until_step: int = Field(2000, ge=1, description="t1, the step from which only the share kept is left")
    every_steps: int = Field(100, ge=1, description="steps from one pruning to the next; each reads the whole table")

    @model_validator(mode="after")
    def _schedule_fits(self) -> Self:
        if self.schedule == "post":
            self.refuse_without_effect(["from_step", "until_step", "every_steps"], "with schedule=post")
        elif self.until_step <= self.from_step:
            raise ValueError(f"until_step={self.until_step} is not after from_step={self.from_step}; raise it")
        return self

    def kept_at(self, step: int) -> float:
        """Share of floats that are not 0 after a step of a gradual schedule."""
        passed = min(max((step - self.from_step) / (self.until_step - self.from_step), 0.0), 1.0)
        return 1 - (1 - self.keep) * (1 - (1 - passed) ** 3)


class PrunedTable(RowTable):
    """Rows of which few floats are not 0; see ``RowTable`` for what it is built from."""

    name = "magnitude_pruning"
    threshold: Tensor

    def __init__(self, vocabulary: str, inputs: MethodInputs, settings: PruningSettings) -> None:
        super().__init__(vocabulary, inputs, settings)
        self.num_kept = share_of(self.num_values * self.width, settings.keep, 1)
        self.register_buffer("threshold", torch.zeros(()))
        self._served_threshold = torch.zeros(())

    def train(self, mode: bool = True) -> Self:
        """As of any module; eval mode is of the rows as they are now."""
        if not mode and not self.finished:
            rows = self.table.weight.clone()
            fill_unseen(rows, self.seen)
            self._served_threshold = threshold_of(rows, self.num_kept)
        return super().train(mode)

    def trained(self, rows: Tensor) -> Tensor:
        """See ``RowTable.trained``; what is below the threshold has no gradient."""
        threshold = self.threshold if self.training else self._served_threshold
        return torch.where(rows.detach().abs() >= threshold, rows, 0.0)

    def prune(self, kept: float) -> None:
        """Let the share ``kept`` of floats, those of largest magnitude, take part in training from here on."""
        num_kept = share_of(self.num_values * self.width, kept, 1)
        self.threshold.copy_(threshold_of(self.table.weight, num_kept))

    def pack(self, rows: Tensor) -> dict[str, Array]:
        """``values`` (n,) and the index."""
        values, index = sparse_rows(rows, self.num_kept)
        return {"values": Array("rows", values)} | {key: Array("index", part) for key, part in index.items()}

    def facts(self) -> dict[str, Any]:
        """D + 1."""
        return {"width": self.width}

    @staticmethod
    def served_rows(arrays: Mapping[str, Tensor], facts: Mapping[str, Any], ids: Tensor) -> Tensor:
        """See ``Table.served_rows``."""
        return look_up(arrays["values"], arrays, facts["width"], ids)


def threshold_of(rows: Tensor, num_kept: int) -> Tensor:
    """The n-th largest magnitude of (V, W) rows, a scalar."""
    magnitudes = rows.abs().flatten()
    return torch.kthvalue(magnitudes, len(magnitudes) - num_kept + 1).values


@METHODS.register("magnitude_pruning")
class MagnitudePruning(TableMethod[PruningSettings]):
    """One share for all large vocabularies; a size is a number of floats that are kept of them all."""

    name = "magnitude_pruning"
    Settings = PruningSettings
    table_type = PrunedTable
    size_settings = ("keep",)

    @classmethod
    def first_rows(cls, inputs: MethodInputs, settings: PruningSettings) -> Mapping[str, Tensor] | None:
        """See ``TableMethod.first_rows``."""
        return start_rows(inputs, settings, cls.name)

    @classmethod
    def table_bytes(cls, vocabulary: str, inputs: MethodInputs, settings: PruningSettings) -> dict[str, int]:
        """rows: n floats; index: a bitmap's or a list's bytes."""
        size = inputs.layout.size(vocabulary)
        num_kept = share_of(size * inputs.width, settings.keep, 1)
        return {"rows": num_kept * settings.float_bytes, "index": index_bytes(size, inputs.width, num_kept)}

    def make_table(self, vocabulary: str, inputs: MethodInputs, settings: PruningSettings) -> Table:
        """See ``TableMethod.make_table``."""
        return PrunedTable(vocabulary, inputs, settings)

    def after_step(self, step: int) -> None:
        """Prune, where the schedule says so."""
        settings = self.settings
        if settings.schedule == "gradual" and step > settings.from_step and step % settings.every_steps == 0:
            for table in self.tables:
                assert isinstance(table, PrunedTable)
                table.prune(settings.kept_at(step))

    @classmethod
    def num_sizes(cls, inputs: MethodInputs, base: PruningSettings) -> int:
        """Floats of all large vocabularies."""
        return max(1, sum(inputs.layout.size(name) for name in cls.split(inputs, base)[0]) * inputs.width)

    @classmethod
    def at_size(cls, inputs: MethodInputs, base: PruningSettings, size: int) -> PruningSettings:
        """size / floats as the share that is kept."""
        return with_settings(base, keep=size / cls.num_sizes(inputs, base))
