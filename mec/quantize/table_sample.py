"""A small sample of one vocabulary's rows, by popularity, from which many codebooks can be judged.

Ids are cut into ranges that grow by a quarter; id 0 stands alone. From each range rows are drawn, more where there is
more weight or variance, and all of them where there are few: the head, which exact rows are thought of for, is whole.
What a shared row for the tail costs needs no sample: weights, weighted sums and squares per range are exact.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_GROWTH = 1.25
_LEAST_SHARE = 128  # of the sample, from each range
_HELD_OUT_STRIDE = 4
_BISECTIONS = 100
_CHUNK_ROWS = 1 << 16


@dataclass(frozen=True)
class TableSample:
    """One vocabulary's sample, R ranges of ids, n rows of W floats.

    Attributes:
        size: V.
        edges: (R + 1,) int64; range r holds the ids [edges[r], edges[r + 1]), from 1 to V.
        rows: (n, W) float32.
        weights: (n,) float32; those of a range add up to the weights of its values.
        ranges: (n,) int64 range of each row; -1 for id 0.
        whole: (n,) bool, rows of ranges that were taken whole.
        held_out: (n,) bool, rows to keep out of fits; none of them is ``whole``.
        tail_means: (R + 1, W) float32 weighted means of id 0 and the ids from edges[r] on.
        tail_weights: (R + 1,) float64 their weights.
        tail_scatters: (R + 1,) float64 weighted squared distances from those means.
    """

    size: int
    edges: NDArray[np.int64]
    rows: Tensor
    weights: Tensor
    ranges: NDArray[np.int64]
    whole: NDArray[np.bool_]
    held_out: NDArray[np.bool_]
    tail_means: Tensor
    tail_weights: NDArray[np.float64]
    tail_scatters: NDArray[np.float64]

    def to(self, device: torch.device) -> TableSample:
        """The same sample, its tensors on a device."""
        rows, weights, means = (t.to(device) for t in (self.rows, self.weights, self.tail_means))
        return replace(self, rows=rows, weights=weights, tail_means=means)

    @property
    def num_heads(self) -> int:
        """Edges that a head may end at: some value with a weight is left for the codebook to be fitted on."""
        return int(np.count_nonzero(self.tail_weights > 0))


def sample_table(rows: Tensor, weights: Tensor, num_rows: int, generator: torch.Generator) -> TableSample:
    """Draw a sample.

    Args:
        rows: (V, W) float32, finite, V >= 2.
        weights: (V,) float32, at least 0.
        num_rows: About how many rows; all where there are no more, and some more where there are many ranges.
        generator: Source of the draw.
    """
    size = len(rows)
    edges = id_edges(size)
    starts = np.concatenate([[0], edges])  # id 0 is a range of its own here
    masses, sums, squares = _moments(rows, weights, starts)
    wanted = _wanted_rows(masses, sums, squares, np.diff(starts), num_rows)
    kept_ids, kept_weights, whole, held_out = [], [], [], []
    for number, (start, stop) in enumerate(pairwise(starts)):
        ids = _every_nth(int(start), int(stop), int(wanted[number]), generator)
        drawn = weights[torch.from_numpy(ids)].double()
        total = float(drawn.sum())
        kept_ids.append(ids)
        kept_weights.append(drawn * (masses[number] / total if total > 0 else 0.0))
        is_whole = len(ids) == stop - start
        whole.append(np.full(len(ids), is_whole))
        held_out.append((np.arange(len(ids)) % _HELD_OUT_STRIDE == _HELD_OUT_STRIDE - 1) & (not is_whole))
    means, tail_weights, scatters = _tails(masses, sums, squares)
    return TableSample(
        size=size,
        edges=edges,
        rows=rows[torch.from_numpy(np.concatenate(kept_ids))],
        weights=torch.cat(kept_weights).float(),
        ranges=np.repeat(np.arange(len(kept_ids)) - 1, [len(ids) for ids in kept_ids]),
        whole=np.concatenate(whole),
        held_out=np.concatenate(held_out),
        tail_means=torch.from_numpy(means).float(),
        tail_weights=tail_weights,
        tail_scatters=scatters,
    )


def id_edges(size: int) -> NDArray[np.int64]:
    """(R + 1,) first ids of the ranges, from 1, then V; each range about a quarter of all ids before it."""
    edges = [1]
    while edges[-1] < size:
        edges.append(min(size, max(edges[-1] + 1, int(edges[-1] * _GROWTH))))
    return np.array(edges, dtype=np.int64)


def _moments(
    rows: Tensor, weights: Tensor, starts: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Per range: weights (R + 1,), weighted sums of rows (R + 1, W), weighted sums of squares (R + 1,)."""
    num_ranges, width = len(starts) - 1, rows.shape[1]
    masses, squares = np.zeros(num_ranges), np.zeros(num_ranges)
    sums = np.zeros((num_ranges, width))
    for number, (start, stop) in enumerate(pairwise(starts)):
        for first in range(int(start), int(stop), _CHUNK_ROWS):
            part = slice(first, min(first + _CHUNK_ROWS, int(stop)))
            chunk, chunk_weights = rows[part].double(), weights[part].double()
            masses[number] += float(chunk_weights.sum())
            sums[number] += (chunk_weights @ chunk).numpy()
            squares[number] += float(chunk_weights @ chunk.square().sum(1))
    return masses, sums, squares


def _wanted_rows(
    masses: NDArray[np.float64],
    sums: NDArray[np.float64],
    squares: NDArray[np.float64],
    sizes: NDArray[np.int64],
    num_rows: int,
) -> NDArray[np.int64]:
    """(R + 1,) rows to draw from each range: by its weight and by its variance, halves each."""
    if int(sizes.sum()) <= num_rows:
        return sizes
    center = sums.sum(0) / masses.sum()
    spread = np.maximum(squares - 2 * sums @ center + masses * (center @ center), 0.0)
    shares = (masses / masses.sum() + spread / max(float(spread.sum()), 1e-300)) / 2
    least = np.minimum(sizes, num_rows // _LEAST_SHARE + 1)
    low, high = 0.0, float((sizes / np.maximum(shares, 1e-9)).max())
    for _ in range(_BISECTIONS):  # what small ranges cannot give, the others do
        middle = (low + high) / 2
        taken = np.clip(middle * shares, least, sizes).sum()
        low, high = (middle, high) if taken <= num_rows else (low, middle)
    wanted: NDArray[np.int64] = np.clip(low * shares, least, sizes).astype(np.int64)
    return wanted


def _every_nth(start: int, stop: int, wanted: int, generator: torch.Generator) -> NDArray[np.int64]:
    """Different ids of [start, stop), evenly spaced from a random place on."""
    offset = float(torch.rand(1, dtype=torch.float64, generator=generator))
    places = (np.arange(wanted) + offset) * ((stop - start) / wanted)
    return np.minimum(start + places.astype(np.int64), stop - 1)


def _tails(
    masses: NDArray[np.float64], sums: NDArray[np.float64], squares: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Means, weights and scatters of id 0 with everything from each edge on; the last edge leaves id 0 alone."""

    def with_oov(values: NDArray[np.float64]) -> NDArray[np.float64]:
        suffix = np.concatenate([np.cumsum(values[1:][::-1], axis=0)[::-1], np.zeros_like(values[:1])])
        total: NDArray[np.float64] = suffix + values[0]
        return total

    weights, totals, norms = with_oov(masses), with_oov(sums), with_oov(squares)
    means = totals / np.maximum(weights, 1e-300)[:, None]
    return means, weights, np.maximum(norms - weights * np.square(means).sum(1), 0.0)
