"""First codewords of k-means: greedy k-means++ on a sample of the points."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mec.quantize.sampling import draw, sample_points

_SAMPLE_PER_CODEWORD = 16
_MIN_SAMPLE = 8_192
_MAX_ROUNDS = 256


def seed_codewords(points: Tensor, weights: Tensor, num_codewords: int, generator: torch.Generator) -> Tensor:
    """Choose K points far from each other (k-means++, Arthur and Vassilvitskii, 2007).

    Each round tries several draws and keeps the best, as scikit-learn does. For more than 256 codewords several
    are drawn and kept per round, as in k-means|| (Bahmani et al., 2012).

    Args:
        points: (N, D) float32.
        weights: (N,) float32, at least 0, not all 0.
        num_codewords: K.
        generator: Source of all draws.

    Returns:
        (K, D) float32; doubled where there are fewer distinct points than K.
    """
    size = max(_MIN_SAMPLE, _SAMPLE_PER_CODEWORD * num_codewords)
    index, weights = sample_points(points, weights, size, generator)
    points = points[index]
    squared_norms = points.square().sum(1)
    num_rounds = min(num_codewords, _MAX_ROUNDS)
    per_round = math.ceil(num_codewords / num_rounds)
    num_tries = 2 + int(math.log(num_codewords)) if per_round == 1 else per_round
    chosen = [draw(weights, 1, generator)]
    errors = _squared_distances(points, squared_norms, chosen[0])[:, 0]  # (N,) to the nearest chosen point
    num_chosen = 1
    while num_chosen < num_codewords:
        drawn = draw(weights * errors, num_tries, generator)
        distances = _squared_distances(points, squared_norms, drawn)  # (N, tries)
        distances = torch.minimum(distances, errors[:, None], out=distances)
        if per_round == 1:
            best = (weights @ distances).argmin()
            drawn, errors = drawn[best, None], distances[:, best]
        else:
            errors = distances.amin(1)
        chosen.append(drawn)
        num_chosen += len(drawn)
    repeated = torch.cat(chosen)[:num_codewords]
    return points[repeated]


def _squared_distances(points: Tensor, squared_norms: Tensor, chosen: Tensor) -> Tensor:
    """(N, n) from every point to each chosen one."""
    distances = torch.addmm(squared_norms[chosen], points, points[chosen].T, alpha=-2).add_(squared_norms[:, None])
    distances[chosen, torch.arange(len(chosen), device=chosen.device)] = 0  # not by rounding only
    return distances.clamp_(min=0)
