"""The supernet of AutoDim and AutoEmb: candidates are prefixes of one row, each with a projection, mixed on one scale.

    e(x) = s * sum_d w_d BN(E[x, :d] Q_d) + t

BN is batch normalisation (Ioffe and Szegedy, ICML 2015) without scale and shift. Candidates are linear in the row, so
that their means and variances follow from those of the rows, and no candidate is looked at by itself:

    BN(y Q) = (y - mean y) Q / sqrt(diag(Q' Cov(y) Q) + eps)

Then what is left of all candidates is one product of rows and a matrix.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mec.embeddings.full import RowSparseTable
from mec.embeddings.searched import FIRST_SCALE, GumbelSupernet
from mec.lookup import rows_at

_EPS = 1e-5  # of torch.nn.BatchNorm1d


class PrefixSupernet(GumbelSupernet):
    """Prefixes of one row, each with a projection.

    Rows are normalised by their own batch, whichever split it is of: a search looks up nothing but batches. Where all
    values of a batch are one, that leaves the shift alone.

    Args:
        num_values: V.
        width: D + 1.
        dims: Candidates, rising.
        init_std: Of the first vectors.
        generator: Of the first vectors.
    """

    def __init__(
        self, num_values: int, width: int, dims: list[int], init_std: float, generator: torch.Generator
    ) -> None:
        super().__init__(len(dims))
        self.table = RowSparseTable(num_values, max(dims))
        with torch.no_grad():
            self.table.weight.normal_(0.0, init_std, generator=generator)
        self.projections = nn.ParameterList(
            torch.linalg.qr(torch.randn(width, dim, generator=generator))[0].T.contiguous() for dim in dims
        )
        self.scale = nn.Parameter(torch.full((width,), FIRST_SCALE))
        self.shift = nn.Parameter(torch.zeros(width))

    def weights_of(self, ids: Tensor) -> Tensor:
        """(U,) ids -> weights of candidates, (C,) for all values or (U, C) for each."""
        return self.weights()

    def forward(self, ids: Tensor) -> Tensor:
        """(N,) -> (N, D + 1), in training."""
        distinct, rows, inverse = self.table.distinct(ids)
        times = torch.bincount(inverse, minlength=len(distinct))
        return rows_at(self.mixed(rows, times, self.weights_of(distinct)), inverse)

    def mixed(self, rows: Tensor, times: Tensor, weights: Tensor) -> Tensor:
        """Mix the candidates of a batch's values.

        Args:
            rows: (U, d), d of the longest candidate.
            times: (U,), how often each is in the batch; means and variances are over the batch.
            weights: See ``weights_of``.

        Returns:
            (U, D + 1).
        """
        share = times.to(rows.dtype) / times.sum()  # (U,)
        centred = rows - share @ rows
        covariance = centred.T @ (centred * share[:, None])
        matrices = [_normalised(projection, covariance) for projection in self.projections]
        if weights.dim() == 1:
            whole = [functional.pad(matrix, (0, 0, 0, rows.shape[1] - len(matrix))) for matrix in matrices]
            combined = (weights[:, None, None] * torch.stack(whole)).sum(dim=0)  # (d, D + 1)
        else:
            centred = torch.cat([centred[:, : len(m)] * weights[:, i, None] for i, m in enumerate(matrices)], dim=1)
            combined = torch.cat(matrices)  # (sum of the candidates' lengths, D + 1)
        return torch.addmm(self.shift, centred, combined * self.scale)


def _normalised(projection: Tensor, covariance: Tensor) -> Tensor:
    """(d, D + 1), and the rows' covariance -> the projection of centred rows to columns of variance 1."""
    dim = len(projection)
    variance = (covariance[:dim, :dim] @ projection * projection).sum(dim=0)  # (D + 1,)
    return projection * (variance.clamp(min=0) + _EPS).rsqrt()  # rounding may leave it below 0
