"""From one vocabulary's vectors to its codebook: the place where a training objective stands.

``fit_codebook`` is all that the quantize step knows of how codebooks come about; another objective takes the same
vectors, weights and settings and returns the same kind of codebook.
"""

from __future__ import annotations

from typing import Protocol, Self

import torch
from torch import Tensor

from mec.config import QuantizeConfig
from mec.devices import find_device
from mec.errors import ConfigError
from mec.quantize.fit_watch import FitWatch
from mec.quantize.mec_fitting import fit_mec
from mec.quantize.plan import VocabularyPlan
from mec.quantize.product import ProductCodebook
from mec.quantize.residual import ResidualCodebook
from mec.quantize.sampling import sample_points


class Codebook(Protocol):
    """Codes one vocabulary's vectors; W = D + 1 floats each, the first-order weight and the vector."""

    codewords: Tensor
    num_codes: int
    num_codewords: int
    width: int

    def to(self, device: torch.device | str) -> Self:
        """The same codebook, its codewords on a device."""
        ...

    def encode(self, vectors: Tensor) -> Tensor:
        """(N, W) float32 -> (N, M) int64 codes."""
        ...

    def decode(self, codes: Tensor) -> Tensor:
        """(N, M) codes -> (N, W) float32 vectors."""
        ...

    def full_width(self) -> Tensor:
        """(M, K, W) codewords that ``decode`` adds up."""
        ...


def fit_codebook(
    vectors: Tensor,
    weights: Tensor,
    plan: VocabularyPlan,
    settings: QuantizeConfig,
    *,
    seed: int,
    watch: FitWatch | None = None,
) -> Codebook:
    """Fit one vocabulary's codebook by weighted k-means, and by the MEC objective from there on where it is chosen.

    Args:
        vectors: (V, W) float32, finite, on the CPU.
        weights: (V,) float32, at least 0, not all 0, on the CPU.
        plan: Structure, M and K.
        settings: Objective, iterations, ``max_points``, how many vectors to fit on, and the device that these are
            moved to.
        seed: Of all random draws.
        watch: Told of progress, and given the facts that the objective knows of its fit.

    Returns:
        A codebook on the CPU; there, the same arguments give the same codewords.

    Raises:
        ConfigError: More codes than floats in a vector, or no such device.
        TrainingError: A loss term is not finite.
    """
    check_shape(plan.structure, plan.num_codes, vectors.shape[1])
    device = find_device(settings.device, "quantize.device")
    generator = torch.Generator().manual_seed(seed)
    index, sample_weights = sample_points(vectors, weights, settings.max_points, generator)
    known = sample_weights > 0
    points, point_weights = vectors[index[known]].to(device), sample_weights[known].to(device)
    fit = ProductCodebook.fit if plan.structure == "product" else ResidualCodebook.fit
    book = fit(
        points,
        point_weights,
        num_codes=plan.num_codes,
        num_codewords=plan.num_codewords,
        iterations=settings.iterations,
        seed=seed,
    )
    if settings.mec is not None:
        book = fit_mec(points, point_weights, book, settings.mec, seed=seed, watch=watch or FitWatch())
    return book.to("cpu")


def check_shape(structure: str, num_codes: int, width: int) -> None:
    """Refuse a shape that no codebook of W floats can have.

    Raises:
        ConfigError: More codes than floats in a vector.
    """
    if structure == "product" and num_codes > width:
        raise ConfigError(
            f"quantize.num_codes sub-vectors do not fit a vector of {width} floats",
            found=num_codes,
            fix=f"set quantize.num_codes to {width} at most, raise pretrain.embedding_dim or choose residual",
        )
