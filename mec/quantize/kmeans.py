"""Weighted k-means: Lloyd's iterations with bounded memory, on the CPU or a GPU.

Minimises sum_i w_i |x_i - c(i)|^2 over K codewords. Distances are never held for all points and codewords at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mec.quantize.seeding import seed_codewords

_TILE_SCORES = {"cpu": 1 << 20, "cuda": 1 << 26}  # scores held at a time; on the CPU they stay in the cache
_CHUNK_ROWS = 1 << 16


@dataclass(frozen=True)
class KMeans:
    """Fitted codewords.

    Attributes:
        codewords: (K, D) float32.
        distortions: Weighted distortion at the end of each iteration, the points coded as at its start.
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
    """Fit K codewords to weighted points; on the CPU, the same arguments give the same codewords.

    Args:
        points: (N, D) float32, finite, N >= 1.
        weights: (N,) float32, at least 0, not all 0.
        num_codewords: K; more than there are distinct points leaves codewords that code nothing.
        iterations: At most so many.
        tolerance: Stop when an iteration gains less than this part of the distortion; negative: never.
        seed: Of the first codewords.
    """
    assert len(points) == len(weights) >= 1
    center = (weights @ points) / weights.sum()  # (D,)
    points = (points - center).contiguous()
    codewords = seed_codewords(points, weights, num_codewords, torch.Generator().manual_seed(seed))
    variance = float((torch.linalg.vector_norm(points, dim=1).square_() * weights).sum(dtype=torch.float64))
    distortions: list[float] = []
    num_reseeded = 0
    codes: Tensor | None = None
    for _ in range(iterations):
        codes = _assign(points, codewords, codes)
        sums, masses = _sum_by_code(points, weights, codes, num_codewords)
        live = masses > 0
        means = torch.where(live[:, None], sums / masses.clamp(min=1e-300)[:, None], codewords.double())
        # sum_i w |x - mean|^2 = sum_i w |x|^2 - sum_k mass |mean|^2
        distortions.append(max(variance - float((masses * means.square().sum(1)).sum()), 0.0))
        codewords = means.float()
        stalled = len(distortions) > 1 and distortions[-2] - distortions[-1] <= tolerance * distortions[-2]
        if stalled and not num_reseeded:
            break
        num_reseeded = 0 if live.all() else _reseed(codewords, ~live, points, weights, codes)
    return KMeans(codewords + center, tuple(distortions))


def nearest(points: Tensor, codewords: Tensor) -> Tensor:
    """The nearest codeword of each point; the first of equals.

    Args:
        points: (N, D) float32.
        codewords: (K, D) float32.

    Returns:
        (N,) int64.
    """
    center = codewords.mean(0)  # keeps |c|^2 - 2 x c exact enough where all points lie far from the origin
    return _assign(points - center, codewords - center)


def _assign(points: Tensor, codewords: Tensor, before: Tensor | None = None) -> Tensor:
    """(N,) int64 argmax_k of x c_k - |c_k|^2 / 2, which ranks codewords as -|x - c_k|^2 does.

    Codes ``before`` that still are the best are kept: a maximum is found faster than its place.
    """
    num_points, num_codewords = len(points), len(codewords)
    bias = codewords.square().sum(1).div_(-2)  # (K,)
    if num_codewords % 1024 == 0:
        # rows of scores a multiple of 4 KiB apart share cache lines' sets: up to 3 times slower
        bias = torch.cat([bias, bias.new_full((16,), -torch.inf)])
        codewords = torch.cat([codewords, codewords.new_zeros(16, codewords.shape[1])])
    transposed = codewords.T.contiguous()  # (D, K)
    tile_rows = max(16, _TILE_SCORES.get(points.device.type, 1 << 20) // len(codewords))
    scores = points.new_empty(min(tile_rows, num_points), len(codewords))
    codes = torch.empty(num_points, dtype=torch.int64, device=points.device) if before is None else before.clone()
    for start in range(0, num_points, tile_rows):
        part = slice(start, start + tile_rows)
        rows = points[part]
        tile = torch.addmm(bias, rows, transposed, out=scores[: len(rows)])  # (rows, K)
        if before is None:
            codes[part] = _argmax(tile)
        else:
            changed = (tile.gather(1, before[part, None])[:, 0] < tile.amax(1)).nonzero()[:, 0]
            codes[part].index_copy_(0, changed, _argmax(tile.index_select(0, changed)))
    return codes


def _argmax(scores: Tensor) -> Tensor:
    """(N, K) -> (N,) int64; numpy's is vectorised and up to 8 times as fast as torch's on the CPU."""
    if scores.device.type == "cpu":
        return torch.from_numpy(np.argmax(scores.numpy(), axis=1))
    return scores.argmax(1)


def _sum_by_code(points: Tensor, weights: Tensor, codes: Tensor, num_codewords: int) -> tuple[Tensor, Tensor]:
    """(K, D) float64 weighted sums of the points and (K,) float64 sums of the weights, per codeword."""
    sums = torch.zeros(num_codewords, points.shape[1], dtype=torch.float64, device=points.device)
    masses = sums.new_zeros(num_codewords).index_add_(0, codes, weights.double())
    for start in range(0, len(points), _CHUNK_ROWS):
        part = slice(start, start + _CHUNK_ROWS)
        rows, row_weights, row_codes = points[part], weights[part], codes[part]
        if points.device.type == "cpu":  # index_add_ costs 10 times as much here
            from scipy.sparse import csc_array

            columns = np.arange(len(rows) + 1, dtype=np.int64)
            selector = csc_array((row_weights.numpy(), row_codes.numpy(), columns), shape=(num_codewords, len(rows)))
            sums += torch.from_numpy(selector @ rows.numpy())
        else:
            sums.index_add_(0, row_codes, (rows * row_weights[:, None]).double())
    return sums, masses


def _reseed(codewords: Tensor, empty: Tensor, points: Tensor, weights: Tensor, codes: Tensor) -> int:
    """Move codewords that code nothing onto the points of largest weighted error; return how many moved."""
    slots = empty.nonzero()[:, 0]
    parts = zip(*(torch.split(t, _CHUNK_ROWS) for t in (points, weights, codes)), strict=True)
    errors = torch.cat([(rows - codewords[c]).square_().sum(1) * w for rows, w, c in parts])  # (N,)
    worst = torch.topk(errors, min(len(slots), len(errors)))
    found = worst.indices[worst.values > 0]
    codewords[slots[: len(found)]] = points[found]
    return len(found)
