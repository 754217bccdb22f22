"""From one vocabulary's vectors to its codebook: the place where a training objective stands.

``fit_codebook`` is all that the quantize step knows of how codebooks come about; another objective takes the same
vectors, weights and settings and returns the same kind of codebook.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from mec.config import QuantizeConfig
from mec.errors import ConfigError
from mec.quantize.product import ProductCodebook
from mec.quantize.residual import ResidualCodebook
from mec.quantize.sampling import sample_points


class Codebook(Protocol):
    """Codes one vocabulary's vectors; W = D + 1 floats each, the first-order weight and the vector."""

    codewords: Tensor
    num_codes: int
    num_codewords: int
    width: int

    def encode(self, vectors: Tensor) -> Tensor:
        """(N, W) float32 -> (N, M) int64 codes."""
        ...

    def decode(self, codes: Tensor) -> Tensor:
        """(N, M) codes -> (N, W) float32 vectors."""
        ...


def fit_codebook(vectors: Tensor, weights: Tensor, settings: QuantizeConfig, *, seed: int) -> Codebook:
    """Fit one vocabulary's codebook by weighted k-means.

    Args:
        vectors: (V, W) float32, finite.
        weights: (V,) float32, at least 0, not all 0.
        settings: Structure, M, K, iterations, and ``max_points``, how many vectors to fit on.
        seed: Of sample and first codewords.

    Raises:
        ConfigError: More codes than floats in a vector, or more codewords than points to fit on.
    """
    check_settings(settings, vectors.shape[1])
    generator = torch.Generator().manual_seed(seed)
    index, sample_weights = sample_points(vectors, weights, settings.max_points, generator)
    known = sample_weights > 0
    fit = ProductCodebook.fit if settings.structure == "product" else ResidualCodebook.fit
    return fit(
        vectors[index[known]],
        sample_weights[known],
        num_codes=settings.num_codes,
        num_codewords=settings.num_codewords,
        iterations=settings.iterations,
        seed=seed,
    )


def check_settings(settings: QuantizeConfig, width: int) -> None:
    """Refuse settings that no codebook of W floats can have.

    Raises:
        ConfigError: More codes than floats in a vector, or more codewords than points to fit on.
    """
    if settings.structure == "product" and settings.num_codes > width:
        raise ConfigError(
            f"quantize.num_codes sub-vectors do not fit a vector of {width} floats",
            found=settings.num_codes,
            fix=f"set quantize.num_codes to {width} at most, raise pretrain.embedding_dim or choose residual",
        )
    if settings.num_codewords > settings.max_points:
        raise ConfigError(
            f"quantize.max_points={settings.max_points} values are too few to fit quantize.num_codewords codewords",
            found=settings.num_codewords,
            fix="raise quantize.max_points or lower quantize.num_codewords",
        )
