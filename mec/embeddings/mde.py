"""Mixed dimensions: Ginart et al., "Mixed dimension embeddings with application to memory-efficient recommendation
systems", arXiv 1909.11810, popularity-based dimension sizing.

    e(x) = P_f[x] Q_f,  P_f (V_f, d_f), Q_f (d_f, D + 1),  d_f = base_dim (p_f / max p)^temperature

p_f is a row's popularity: the training count of the vocabulary over its values. Where each vocabulary has one field
that is the paper's 1 / V_f but for a constant. d_f is rounded to the nearest integer, from 1 to D + 1, and counts the
first-order weight's column. Small vocabularies keep exact rows and take no part in max p.

Bytes per vocabulary: d_f (V_f + D + 1) floats, or V_f (D + 1) where that is no more.
"""

from __future__ import annotations

import math

import torch
from pydantic import Field

from mec.embeddings.method import METHODS, MethodInputs, with_settings
from mec.embeddings.projected import ProjectedTable, projected_bytes
from mec.embeddings.table_method import Table, TableMethod, TableSettings

_STEPS = 16  # sizes per dimension of the most popular vocabulary: others' dimensions change at fractions


class MDESettings(TableSettings):
    """Settings of mixed dimensions."""

    base_dim: float = Field(4.0, gt=0, description="dimensions of the most popular large vocabulary, before rounding")
    temperature: float = Field(0.3, ge=0, le=1, description="how fast dimensions fall with popularity; 0: not at all")


@METHODS.register("mde")
class MDE(TableMethod[MDESettings]):
    """Dimensions by popularity; a size is a base dimension."""

    name = "mde"
    Settings = MDESettings
    table_type = ProjectedTable
    size_settings = ("base_dim",)

    @classmethod
    def table_bytes(cls, vocabulary: str, inputs: MethodInputs, settings: MDESettings) -> dict[str, int]:
        """rows: V d floats, other: d (D + 1) floats."""
        dim = cls._dim(vocabulary, inputs, settings)
        return projected_bytes(inputs.layout.size(vocabulary), inputs.width, dim, settings.float_bytes)

    def make_table(self, vocabulary: str, inputs: MethodInputs, settings: MDESettings) -> Table:
        """See ``TableMethod.make_table``."""
        size, seen = inputs.layout.size(vocabulary), torch.from_numpy(inputs.counts[vocabulary] > 0)
        dim, generator = self._dim(vocabulary, inputs, settings), inputs.generator(vocabulary)
        return ProjectedTable(size, inputs.width, dim, seen, settings.init_std, generator)

    @classmethod
    def num_sizes(cls, inputs: MethodInputs, base: MDESettings) -> int:
        """Steps of 1/16 of a dimension, until every vocabulary that training has seen is full."""
        large = cls.split(inputs, base)[0]
        scales = [scale for name in large if (scale := cls._scale(name, inputs, base)) > 0]
        return math.ceil(_STEPS * inputs.width / min(scales, default=1.0))

    @classmethod
    def at_size(cls, inputs: MethodInputs, base: MDESettings, size: int) -> MDESettings:
        """base_dim = size / 16."""
        return with_settings(base, base_dim=size / _STEPS)

    @classmethod
    def _scale(cls, vocabulary: str, inputs: MethodInputs, settings: MDESettings) -> float:
        """(p_f / max p)^temperature, from 0 to 1."""
        large = cls.split(inputs, settings)[0]
        highest = max(float(inputs.counts[name].mean()) for name in large)
        popularity = float(inputs.counts[vocabulary].mean())
        return (popularity / highest) ** settings.temperature if popularity > 0 else 0.0

    @classmethod
    def _dim(cls, vocabulary: str, inputs: MethodInputs, settings: MDESettings) -> int:
        dim = math.floor(settings.base_dim * cls._scale(vocabulary, inputs, settings) + 0.5)
        return max(1, min(inputs.width, dim))
