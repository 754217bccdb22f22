"""Optimized product quantization: Ge et al., "Optimized product quantization", TPAMI 2014, the non-parametric solution.

Rows X are multiplied by an orthogonal R before they are cut into parts, so that the parts need fewer codewords. From
R = I, two steps in turn, neither of which can raise the weighted distortion (section 4.1):

    R = argmin |X R - Y|^2, Y the decoded rows   (orthogonal Procrustes)
    codewords = means of the rows of X R with their code; then codes = nearest codewords

A server multiplies a decoded row by the transpose of R.

Bytes per vocabulary: those of ``mec.embeddings.pq``, and other (D + 1)^2 floats.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from mec.embeddings.method import METHODS, MethodInputs
from mec.embeddings.pq import PQSettings, WeightedProduct
from mec.quantize.product import ProductCodebook, column_parts
from mec.quantize.sampling import sample_points
from mec.quantize.storage import stored


class OPQSettings(PQSettings):
    """Settings of optimized product quantization."""

    rotations: int = Field(10, ge=1, le=1000, description="times that rotation, codewords and codes are fitted in turn")
    rotation_points: int = Field(65_536, ge=256, description="values drawn to fit the rotation")


@METHODS.register("opq")
class OPQ(WeightedProduct[OPQSettings]):
    """Product codes of rotated pre-trained rows; a rotation per vocabulary, which training leaves as it is."""

    name = "opq"
    Settings = OPQSettings

    @classmethod
    def rotation(cls, rows: Tensor, weights: Tensor, settings: OPQSettings, seed: int) -> Tensor | None:
        """See ``ProductMethod.rotation``."""
        generator = torch.Generator().manual_seed(seed)
        index, own_weights = sample_points(rows, weights, settings.rotation_points, generator)
        known = own_weights > 0
        points, own_weights = rows[index[known]], own_weights[known]
        book = ProductCodebook.fit(
            points,
            own_weights,
            num_codes=settings.num_codes,
            num_codewords=min(settings.num_codewords, len(rows)),
            iterations=settings.iterations,
            seed=seed,
        )
        rotation = learn_rotation(points, own_weights, book, settings.rotations)[0]
        return stored(rotation, settings.floats, "the rotation").float()

    @classmethod
    def table_bytes(cls, vocabulary: str, inputs: MethodInputs, settings: OPQSettings) -> dict[str, int]:
        """As of ``pq``; other: (D + 1)^2 floats."""
        return super().table_bytes(vocabulary, inputs, settings) | {"other": inputs.width**2 * settings.float_bytes}


def learn_rotation(points: Tensor, weights: Tensor, book: ProductCodebook, rounds: int) -> tuple[Tensor, list[float]]:
    """Fit rotation and codewords in turn.

    Args:
        points: (N, W) float32.
        weights: (N,) float32, not all 0.
        book: Codewords of the points as they are.
        rounds: How often.

    Returns:
        (W, W) float32 orthogonal, and the weighted distortion before the first round and after each.
    """
    width, num_codes = book.width, book.num_codes
    rotation = torch.eye(width)
    rotated, codes = points, book.encode(points)
    distortions = [_distortion(rotated, book.decode(codes), weights)]
    for _ in range(rounds):
        decoded = book.decode(codes)
        left, _singular, right = torch.linalg.svd((points * weights[:, None]).T.double() @ decoded.double())
        rotation = (left @ right).float()
        rotated = points @ rotation
        codewords = book.codewords.clone()
        for m, part in enumerate(column_parts(width, num_codes)):
            codewords[:, part] = _means(rotated[:, part], weights, codes[:, m], book.codewords[:, part])
        book = ProductCodebook(codewords, num_codes)
        codes = book.encode(rotated)
        distortions.append(_distortion(rotated, book.decode(codes), weights))
    return rotation, distortions


def _means(points: Tensor, weights: Tensor, codes: Tensor, codewords: Tensor) -> Tensor:
    """(K, w) weighted means of the points of each code; codewords without any as they are."""
    sums = torch.zeros(codewords.shape, dtype=torch.float64).index_add_(0, codes, (points * weights[:, None]).double())
    masses = torch.zeros(len(codewords), dtype=torch.float64).index_add_(0, codes, weights.double())
    return torch.where(masses[:, None] > 0, sums / masses.clamp(min=1e-300)[:, None], codewords.double()).float()


def _distortion(points: Tensor, decoded: Tensor, weights: Tensor) -> float:
    return float(((points - decoded).square().sum(1) * weights).sum(dtype=torch.float64))
