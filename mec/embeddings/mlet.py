"""MLET: Deng et al., "Multi-layer embedding training", arXiv 2006.05623.

    E = P Q,  P (V, k), Q (k, D' + 1), k = factor (D' + 1),  trained as a product, served as E (V, D' + 1)

A table of few dimensions that is trained in many: the gradient of one value's row moves Q, and so those of others.
Backbones see D' dimensions.

Bytes per vocabulary: V (D' + 1) floats; small vocabularies keep exact rows of as many.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from mec.embeddings.exact_rows import fill_unseen
from mec.embeddings.export import Array
from mec.embeddings.full import RowSparseTable
from mec.embeddings.method import METHODS, MethodInputs, with_settings
from mec.embeddings.table_method import Table, TableMethod, TableSettings
from mec.embeddings.two_forms import TwoFormTable
from mec.errors import ConfigError
from mec.quantize.storage import Floats

_CHUNK_ROWS = 1 << 16


class MLETSettings(TableSettings):
    """Settings of MLET."""

    dim: int = Field(4, ge=1, description="D', dimensions per value; at most the full table's")
    factor: int = Field(4, ge=1, le=64, description="k / (D' + 1), how many times wider the table is in training")


class MLETTable(TwoFormTable):
    """P and Q of one vocabulary, and their product once finished.

    Args:
        width: D' + 1.
        inner: k.
        seen: (V,) bool, values that are in training.
        init_std: Of the first vectors; first-order weights start at 0.
        generator: Of first values.
    """

    seen: Tensor

    def __init__(self, width: int, inner: int, seen: Tensor, init_std: float, generator: torch.Generator) -> None:
        super().__init__()
        self.register_buffer("seen", seen, persistent=False)
        self.table = RowSparseTable(len(seen), inner)
        orthonormal = torch.linalg.qr(torch.randn(inner, width, generator=generator))[0]  # (k, D' + 1)
        orthonormal[:, 0] = 0.0
        self.projection = nn.Parameter(orthonormal)
        with torch.no_grad():
            self.table.weight.normal_(0.0, init_std, generator=generator)

    def trained_rows(self, ids: Tensor) -> Tensor:
        """(N,) -> (N, D' + 1)."""
        rows: Tensor = self.table(ids)
        return rows @ self.projection

    def settle(self, floats: Floats) -> None:
        """Fill rows of values that are not in training: the mean of products is the product of the mean."""
        fill_unseen(self.table.weight, self.seen)

    def build(self) -> dict[str, Array]:
        """``rows`` (V, D' + 1)."""
        parts = [part @ self.projection for part in torch.split(self.table.weight, _CHUNK_ROWS)]
        return {"rows": Array("rows", torch.cat(parts))}

    def release(self) -> None:
        """P and Q."""
        del self.table, self.projection

    @staticmethod
    def served_rows(arrays: Mapping[str, Tensor], facts: Mapping[str, Any], ids: Tensor) -> Tensor:
        """See ``Table.served_rows``."""
        return functional.embedding(ids, arrays["rows"]).float()


@METHODS.register("mlet")
class MLET(TableMethod[MLETSettings]):
    """A narrow table, trained wide; a size is a dimension.

    Raises:
        ConfigError: D' is more than D.
    """

    name = "mlet"
    Settings = MLETSettings
    table_type = MLETTable
    size_settings = ("dim",)

    def __init__(self, inputs: MethodInputs, settings: MLETSettings) -> None:
        if settings.dim > inputs.embedding_dim:
            raise ConfigError(
                f"mlet has more dimensions than the full table's {inputs.embedding_dim}",
                found=settings.dim,
                fix=f"set dim to {inputs.embedding_dim} or less",
            )
        super().__init__(replace(inputs, embedding_dim=settings.dim, pretrained=None), settings)

    @classmethod
    def planned_bytes(cls, inputs: MethodInputs, settings: MLETSettings) -> dict[str, int]:
        """rows: V (D' + 1) floats."""
        return super().planned_bytes(replace(inputs, embedding_dim=settings.dim, pretrained=None), settings)

    @classmethod
    def table_bytes(cls, vocabulary: str, inputs: MethodInputs, settings: MLETSettings) -> dict[str, int]:
        """rows: V (D' + 1) floats."""
        return {"rows": inputs.layout.size(vocabulary) * (settings.dim + 1) * settings.float_bytes}

    def make_table(self, vocabulary: str, inputs: MethodInputs, settings: MLETSettings) -> Table:
        """See ``TableMethod.make_table``."""
        seen, width = torch.from_numpy(inputs.counts[vocabulary] > 0), settings.dim + 1
        return MLETTable(width, settings.factor * width, seen, settings.init_std, inputs.generator(vocabulary))

    @classmethod
    def num_sizes(cls, inputs: MethodInputs, base: MLETSettings) -> int:
        """D."""
        return inputs.embedding_dim

    @classmethod
    def at_size(cls, inputs: MethodInputs, base: MLETSettings, size: int) -> MLETSettings:
        """D' = size."""
        return with_settings(base, dim=size)
