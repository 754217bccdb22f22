"""Weighted draws of points, and small samples that stand for all points.

All random numbers come from a CPU generator, so a seed means the same on any device.
"""

from __future__ import annotations

import torch
from torch import Tensor

_CHUNK_ROWS = 1 << 13


def draw(weights: Tensor, num_points: int, generator: torch.Generator) -> Tensor:
    """Draw points with chances proportional to their weights, one from each of n equal parts of the total.

    Args:
        weights: (N,) at least 0.
        num_points: n, how many to draw; a point that is more than a part may come more than once.
        generator: Source of the draw.

    Returns:
        (n,) int64 indices, ascending; the last point's where all weights are 0.
    """
    sums = weights.cumsum(0, dtype=torch.float64)
    uniform = torch.rand(num_points, dtype=torch.float64, generator=generator)
    places = (torch.arange(num_points, dtype=torch.float64) + uniform) / num_points
    found = torch.searchsorted(sums, places.to(sums.device) * sums[-1], right=True)
    return found.clamp_(max=len(weights) - 1)


def sample_points(
    points: Tensor, weights: Tensor, num_points: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Choose a lightweight coreset (Bachem, Lucic and Krause, 2018).

    A point's chance grows with its share of the weight and with its share of the weighted variance; its new weight
    makes every weighted sum over the sample an unbiased estimate of the sum over all points. Where few points hold
    most of the variance, codebooks fitted to such a sample have less distortion than with a uniform sample.

    Args:
        points: (N, D) float32.
        weights: (N,) float32, at least 0, not all 0.
        num_points: How many to draw; all come back, unchanged, where there are no more.
        generator: Source of the draw.

    Returns:
        (n,) int64 indices, ascending, different, at most ``num_points``; and (n,) float32 new weights.
    """
    if num_points >= len(points):
        return torch.arange(len(points), device=points.device), weights
    shares = weights.double() / weights.sum(dtype=torch.float64)
    center = shares.float() @ points  # (D,)
    squared = torch.cat([(rows - center).square_().sum(1) for rows in torch.split(points, _CHUNK_ROWS)])
    errors = shares * squared
    chances = (shares + errors / errors.sum().clamp(min=1e-300)) / 2  # (N,)
    index, times = torch.unique_consecutive(draw(chances, num_points, generator), return_counts=True)
    return index, (weights[index] * times / (num_points * chances[index].clamp(min=1e-300))).float()
