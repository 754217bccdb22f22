"""Product codes: the vector cut into M sub-vectors, each coded by a codebook of its own (Jégou et al., 2011)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from mec.lookup import gather_trains, rows_at
from mec.quantize.kmeans import kmeans, nearest
from mec.quantize.residual import sum_codewords

_FEW_CODES = 4  # up to which a look-up for each is faster than one gather of all columns


class ProductCodebook:
    """M codebooks side by side.

    Args:
        codewords: (K, W) float32, W = D + 1; codebook m takes the columns that ``numpy.array_split`` gives part m.
        num_codes: M, at most W.
    """

    def __init__(self, codewords: Tensor, num_codes: int) -> None:
        self.codewords = codewords
        self.num_codes = num_codes
        self.num_codewords = codewords.shape[0]
        self.width = codewords.shape[1]

    @classmethod
    def fit(
        cls, points: Tensor, weights: Tensor, *, num_codes: int, num_codewords: int, iterations: int, seed: int
    ) -> ProductCodebook:
        """k-means of each part of the (N, W) points under (N,) weights."""
        parts = [
            kmeans(points[:, part], weights, num_codewords, iterations=iterations, seed=seed + m).codewords
            for m, part in enumerate(column_parts(points.shape[1], num_codes))
        ]
        return cls(torch.cat(parts, dim=1), num_codes)

    def to(self, device: torch.device | str) -> ProductCodebook:
        """The same codebook, its codewords on a device."""
        return ProductCodebook(self.codewords.to(device), self.num_codes)

    def encode(self, vectors: Tensor) -> Tensor:
        """(N, W) float32 -> (N, M) int64: the nearest codeword of each sub-vector."""
        parts = column_parts(self.width, self.num_codes)
        return torch.stack([nearest(vectors[:, p], self.codewords[:, p]) for p in parts], dim=1)

    def decode(self, codes: Tensor) -> Tensor:
        """(N, M) integers -> (N, W) float32."""
        gradient = torch.is_grad_enabled() and self.codewords.requires_grad
        if gradient or len(codes) < self.num_codewords:
            return join_parts(self.codewords, codes)
        # adding codewords that are 0 outside their columns takes half as long as joining narrow ones
        return sum_codewords(self.full_width(), codes)

    def full_width(self) -> Tensor:
        """(M, K, W) codewords that add up to a row, each 0 outside its columns."""
        padded = self.codewords.new_zeros(self.num_codes, self.num_codewords, self.width)
        for m, part in enumerate(column_parts(self.width, self.num_codes)):
            padded[m, :, part] = self.codewords[:, part]
        return padded


def join_parts(codewords: Tensor, codes: Tensor) -> Tensor:
    """Part m of a row is part m of its m'th codeword.

    Args:
        codewords: (K, W) floats.
        codes: (N, M) integers in [0, K).

    Returns:
        (N, W), of the codewords' type, with a gradient to them.
    """
    width, num_codes = codewords.shape[1], codes.shape[1]
    if num_codes > _FEW_CODES and gather_trains(codewords):
        return codewords.gather(0, codes.long().index_select(1, part_of(width, num_codes)))
    parts = enumerate(column_parts(width, num_codes))
    return torch.cat([rows_at(codewords[:, part], codes[:, m]) for m, part in parts], dim=1)


def part_of(width: int, num_codes: int) -> Tensor:
    """(W,) int64: which of the M sub-vectors each column is in."""
    return torch.tensor([m for m, p in enumerate(column_parts(width, num_codes)) for _ in range(p.stop - p.start)])


def column_parts(width: int, num_codes: int) -> list[slice]:
    """The columns of each of M sub-vectors: near-equal parts, the longer ones first, as ``numpy.array_split`` cuts."""
    length, longer = divmod(width, num_codes)
    edges = [m * length + min(m, longer) for m in range(num_codes + 1)]
    return [slice(start, stop) for start, stop in pairwise(edges)]
