"""Weighted k-means: Lloyd's iterations with bounded memory, on the CPU or a GPU.

Minimises sum_i w_i |x_i - c(i)|^2 over K codewords. Distances are never held for all points and codewords at
once; the same points, weights and seed give the same codewords.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csc_array
from torch import Tensor

from mec.quantize.seeding import seed_codewords

_TILE_SCORES = {"cpu": 1 << 18, "cuda": 1 << 26}  # scores held at a time; on the CPU they stay in the L2 cache
_SUM_ROWS = 1 << 16


@dataclass(frozen=True)
class KMeans:
    """Fitted codewords.

    Attributes:
        codewords: (K, D) float32.
        distortions: Weighted distortion found by the assignment of each iteration; the last codewords are at
            least as good as the last entry.
    """

    codewords: Tensor
    distortions: tuple[float, ...]


def kmeans(
    points: Tensor,
    weights: Tensor,
    num_codewords: int,
    *,
    iterations: int = 25,
    tolerance: float = 1e-4,
    seed: int = 0,
) -> KMeans:
    """Fit K codewords to weighted points.

    Args:
        points: (N, D) float32, finite, N >= 1.
        weights: (N,) float32, at least 0, not all 0.
        num_codewords: K; more than there are distinct points leaves codewords that code nothing.
        iterations: At most so many.
        tolerance: Stop when an iteration gains less than this part of the distortion.
        seed: Of the first codewords.
    """
    assert len(points) == len(weights) >= 1
    center = (weights.double() @ points.double() / weights.double().sum()).float()  # (D,)
    points = (points - center).contiguous()
    generator = torch.Generator().manual_seed(seed)
    codewords = seed_codewords(points, weights, num_codewords, generator)
    squared_norms = points.square().sum(1)
    distortions: list[float] = []
    for _ in range(iterations):
        codes, scores = _best_scores(points, codewords)
        errors = (squared_norms - 2 * scores).clamp_(min=0).mul_(weights)
        distortions.append(float(errors.sum(dtype=torch.float64)))
        sums, masses = _sum_by_code(points, weights, codes, num_codewords)
        live = masses > 0
        codewords = torch.where(live[:, None], sums / masses.clamp(min=1e-300)[:, None], codewords.double()).float()
        num_moved = _reseed(codewords, ~live, points, errors)
        if len(distortions) > 1 and not num_moved:
            before, now = distortions[-2:]
            if before - now <= tolerance * before:
                break
    return KMeans(codewords + center, tuple(distortions))


def nearest(points: Tensor, codewords: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest codeword of each point; the first of equals.

    Args:
        points: (N, D) float32.
        codewords: (K, D) float32.

    Returns:
        (N,) int64 codes, and (N,) float32 squared distances.
    """
    center = codewords.mean(0)  # keeps |c|^2 - 2 x c exact enough where all points lie far from the origin
    points, codewords = points - center, codewords - center
    codes, scores = _best_scores(points, codewords)
    return codes, (points.square().sum(1) - 2 * scores).clamp_(min=0)


def _best_scores(points: Tensor, codewords: Tensor) -> tuple[Tensor, Tensor]:
    """(N,) int64 argmax_k and (N,) max_k of x c_k - |c_k|^2 / 2, which ranks codewords as -|x - c_k|^2 does."""
    num_points, num_codewords = len(points), len(codewords)
    transposed = codewords.T.contiguous()  # (D, K)
    bias = codewords.square().sum(1).div_(-2)  # (K,)
    tile_rows = max(16, _TILE_SCORES.get(points.device.type, 1 << 18) // num_codewords)
    scores = points.new_empty(min(tile_rows, num_points), num_codewords)
    codes = torch.empty(num_points, dtype=torch.int64, device=points.device)
    best = points.new_empty(num_points)
    for start in range(0, num_points, tile_rows):
        rows = points[start : start + tile_rows]
        tile = torch.addmm(bias, rows, transposed, out=scores[: len(rows)])  # (rows, K)
        codes_of_rows = _argmax(tile)
        codes[start : start + tile_rows] = codes_of_rows
        torch.gather(tile, 1, codes_of_rows[:, None], out=best[start : start + tile_rows, None])
    return codes, best


def _argmax(scores: Tensor) -> Tensor:
    """(N, K) -> (N,) int64; numpy's is vectorised and 8 times as fast as torch's on the CPU."""
    if scores.device.type == "cpu":
        return torch.from_numpy(np.argmax(scores.numpy(), axis=1))
    return scores.argmax(1)


def _sum_by_code(points: Tensor, weights: Tensor, codes: Tensor, num_codewords: int) -> tuple[Tensor, Tensor]:
    """(K, D) float64 weighted sums of the points and (K,) float64 sums of the weights, per codeword."""
    sums = torch.zeros(num_codewords, points.shape[1], dtype=torch.float64, device=points.device)
    masses = sums.new_zeros(num_codewords).index_add_(0, codes, weights.double())
    for start in range(0, len(points), _SUM_ROWS):
        part = slice(start, start + _SUM_ROWS)
        rows, row_weights, row_codes = points[part], weights[part], codes[part]
        if points.device.type == "cpu":  # index_add_ costs 10 times as much here
            columns = np.arange(len(rows) + 1, dtype=np.int64)
            selector = csc_array((row_weights.numpy(), row_codes.numpy(), columns), shape=(num_codewords, len(rows)))
            sums += torch.from_numpy(selector @ rows.numpy())
        else:
            sums.index_add_(0, row_codes, (rows * row_weights[:, None]).double())
    return sums, masses


def _reseed(codewords: Tensor, empty: Tensor, points: Tensor, errors: Tensor) -> int:
    """Move codewords that code nothing onto the points of largest weighted error; return how many moved."""
    slots = empty.nonzero()[:, 0]
    if len(slots) == 0:
        return 0
    worst = torch.topk(errors, min(len(slots), len(errors)))
    found = worst.indices[worst.values > 0]
    codewords[slots[: len(found)]] = points[found]
    return len(found)
