"""The two baselines without tricks: the full table, and a full table of fewer dimensions.

full: one row per value, V (D + 1) floats. It is what ``FullEmbedding`` is, at the width it is stored at; started from
pre-trained rows it is the reference that two-stage methods are to be compared with.

small_dim: one row of D' + 1 floats per value, sum V (D' + 1) floats. The backbone is built for D' dimensions: no
projection, no padding.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, TypeVar

from pydantic import Field
from torch import Tensor, nn

from mec.embeddings.exact_rows import ExactRows, at_stored_width, rows_bytes
from mec.embeddings.export import Export, no_bytes
from mec.embeddings.method import METHODS, Method, MethodInputs, MethodSettings, with_settings
from mec.embeddings.table_method import Served, Table
from mec.errors import ConfigError
from mec.quantize.storage import Floats

SettingsT = TypeVar("SettingsT", bound=MethodSettings)


class FullSettings(MethodSettings):
    """Settings of the full table."""

    floats: Floats = Field("float32", description="how floats are stored and served: float16 or float32")
    start: Literal["random", "pretrained"] = Field("random", description="first rows: drawn, or the pre-trained ones")


class SmallDimSettings(MethodSettings):
    """Settings of the full table of fewer dimensions."""

    dim: int = Field(4, ge=1, description="D', dimensions per value; at most the full table's")


class _RowPerValue(Method[SettingsT]):
    """Exact rows for every vocabulary, of ``inputs.embedding_dim`` dimensions."""

    def __init__(self, inputs: MethodInputs, settings: SettingsT, start: Any = None) -> None:
        super().__init__(inputs, settings)
        self.exact = ExactRows(inputs, [name for name, _ in inputs.layout.vocabularies], settings.init_std, start)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, S) int32 ids -> (B, S, D + 1) rows."""
        rows: Tensor = self.exact(ids)
        return rows

    def finish(self) -> None:
        """See ``Method.finish``."""
        self.exact.finish(self.settings.floats)

    def export(self) -> Export:
        """See ``Method.export``."""
        arrays = at_stored_width(self.exact.arrays(), self.settings.floats)
        return Export(self.name, self.settings.model_dump(mode="json"), self.layout, self.embedding_dim, arrays, {})

    @classmethod
    def serve(cls, export: Export) -> nn.Module:
        """See ``Method.serve``."""
        return Served(export, Table.served_rows)


@METHODS.register("full")
class Full(_RowPerValue[FullSettings]):
    """One row of D + 1 floats per value; its one size is the full table's."""

    name = "full"
    Settings = FullSettings

    def __init__(self, inputs: MethodInputs, settings: FullSettings) -> None:
        start = None
        if settings.start == "pretrained":
            if settings.init_std != FullSettings().init_std:
                raise ConfigError(
                    "init_std has no effect on rows that start from pre-trained ones",
                    found=settings.init_std,
                    fix="remove init_std, or set start to random",
                )
            if inputs.pretrained is None:
                raise ConfigError(
                    "the method 'full' is to start from pre-trained tables",
                    found="none",
                    fix="give it a pretrained bundle, or set start to random",
                )
            start = inputs.pretrained
        super().__init__(inputs, settings, start)

    @classmethod
    def planned_bytes(cls, inputs: MethodInputs, settings: FullSettings) -> dict[str, int]:
        """rows: sum V (D + 1) floats."""
        return no_bytes() | {"rows": rows_bytes(inputs.counts, list(inputs.counts), inputs.width, settings.float_bytes)}

    @classmethod
    def num_sizes(cls, inputs: MethodInputs, base: FullSettings) -> int:
        """One."""
        return 1

    @classmethod
    def at_size(cls, inputs: MethodInputs, base: FullSettings, size: int) -> FullSettings:
        """The settings as they are."""
        return base


@METHODS.register("small_dim")
class SmallDim(_RowPerValue[SmallDimSettings]):
    """One row of D' + 1 floats per value; a size is a dimension.

    Raises:
        ConfigError: D' is more than D.
    """

    name = "small_dim"
    Settings = SmallDimSettings
    size_settings = ("dim",)

    def __init__(self, inputs: MethodInputs, settings: SmallDimSettings) -> None:
        if settings.dim > inputs.embedding_dim:
            raise ConfigError(
                f"small_dim has more dimensions than the full table's {inputs.embedding_dim}",
                found=settings.dim,
                fix=f"set dim to {inputs.embedding_dim} or less",
            )
        # planned_bytes reads the width from the settings, all else from the inputs
        super().__init__(replace(inputs, embedding_dim=settings.dim, pretrained=None), settings)

    @classmethod
    def planned_bytes(cls, inputs: MethodInputs, settings: SmallDimSettings) -> dict[str, int]:
        """rows: sum V (D' + 1) floats."""
        return no_bytes() | {
            "rows": rows_bytes(inputs.counts, list(inputs.counts), settings.dim + 1, settings.float_bytes)
        }

    @classmethod
    def num_sizes(cls, inputs: MethodInputs, base: SmallDimSettings) -> int:
        """D."""
        return inputs.embedding_dim

    @classmethod
    def at_size(cls, inputs: MethodInputs, base: SmallDimSettings, size: int) -> SmallDimSettings:
        """D' = size."""
        return with_settings(base, dim=size)
