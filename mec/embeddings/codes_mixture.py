"""Several DPQ-VQ quantizers of the same rows, mixed on one scale: what AutoDPQ's search looks up.

    e(x) = sum_c w_c BN(q_c(x)),  q_c = ``mec.embeddings.quantizers.VectorQuantizer``

BN is batch normalisation (Ioffe and Szegedy, ICML 2015) without scale and shift. Without BN a candidate could win by
the size of its rows alone. A candidate's mean and variance follow from how often each codeword is chosen, and a
normalised candidate is normalised codewords side by side. So the rows of a single candidate are never held, forward or
backward: what is held is the mixture, and about ten tables of codewords, each W floats wide, 0 outside its part.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mec.embeddings.code_plan import Coding
from mec.embeddings.quantizers import TILE_SCORES, largest
from mec.quantize.product import column_parts

_EPS = 1e-5  # of torch.nn.BatchNorm1d


class CodesMixture(nn.Module):
    """The quantizers and their mixture.

    Args:
        codings: M and K of each of C candidates.
        width: W = D + 1.
        init_std: Standard deviation of first codewords.
        batch_norm: Whether responses are normalised over the batch before the largest is taken.
        generator: Of first values.
        codebook: Weight of what moves codewords to rows.
        commitment: Weight of what moves rows to codewords.
    """

    inside: Tensor
    firsts: Tensor
    owner: Tensor

    def __init__(
        self,
        codings: Sequence[Coding],
        width: int,
        init_std: float,
        batch_norm: bool,
        generator: torch.Generator,
        *,
        codebook: float,
        commitment: float,
    ) -> None:
        super().__init__()
        self.codings = tuple(codings)
        self.batch_norm = batch_norm
        self.term_weights = (codebook, commitment)
        codewords, inside = list[Tensor](), list[Tensor]()
        for coding in codings:
            parts = column_parts(width, coding.num_codes)
            drawn = init_std * torch.randn(coding.num_codewords, width, generator=generator)
            of_parts = torch.zeros(coding.num_codes, 1, width)
            for m, part in enumerate(parts):
                of_parts[m, :, part] = 1
            codewords.append((of_parts * drawn).flatten(0, 1))
            inside.append(of_parts.expand(-1, coding.num_codewords, -1).flatten(0, 1))
            self.register_buffer(f"columns_{coding.num_codes}", _columns(parts, width), persistent=False)
        sizes = torch.tensor([len(own) for own in codewords])
        # T codewords: candidate by candidate, part by part; 0 outside the columns of their part
        self.codewords = nn.Parameter(torch.cat(codewords))  # (T, W)
        self.register_buffer("inside", torch.cat(inside), persistent=False)  # (T, W), 1 in those columns
        scores = [coding.num_codewords for coding in codings for _ in range(coding.num_codes)]
        self.register_buffer("firsts", torch.tensor([0, *scores]).cumsum(0)[:-1, None], persistent=False)  # (B, 1)
        owner = torch.eye(len(codings)).repeat_interleave(sizes, dim=1)
        self.register_buffer("owner", owner, persistent=False)  # (C, T), 1 where a codeword is a candidate's

    def forward(self, rows: Tensor, share: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Quantize and mix.

        Args:
            rows: (U, W).
            share: (U,) of the batch that each row is, 1 in all; means and variances are over the batch.
            weights: (C,).

        Returns:
            (U, W), with a gradient to ``weights`` and, as if a quantizer gave back what it got, to ``rows``; and the
            quantizers' terms, summed.
        """
        fixed = rows.detach()
        codes = self.codes(fixed, share)
        groups = Groups(codes, len(self.codewords))
        found = groups.sums(torch.cat([fixed, torch.ones_like(fixed[:, :1])], dim=1) * share[:, None])
        sums, chosen = found[:, :-1] * self.inside, found[:, -1:]  # (T, W) of a codeword's rows, (T, 1) of their shares
        with torch.no_grad():
            means = self.owner @ (chosen * self.codewords)  # (C, W)
            centred = (self.codewords - self.owner.T @ means) * self.inside
            scales = (self.owner @ (chosen * centred.square()) + _EPS).rsqrt()  # (C, W)
            normalised = centred * (self.owner.T @ scales)
        return (
            _mix(rows, weights, normalised, scales, codes, groups, share, self.owner),
            self._term(rows, share, codes, chosen, sums),
        )

    @torch.no_grad()
    def codes(self, rows: Tensor, share: Tensor) -> Tensor:
        """Choose codewords.

        Args:
            rows: (U, W).
            share: See ``forward``.

        Returns:
            (B, U) int64 in [0, T), one for each of B parts of candidates.
        """
        one, zero = torch.ones_like(rows[:, :1]), torch.zeros_like(rows[:, :1])
        extended = torch.cat([rows, one, zero], dim=1)  # (U, W + 2)
        halves = self.codewords.square().sum(dim=1, keepdim=True) / -2
        codewords = torch.cat([self.codewords, halves, torch.zeros_like(halves)], dim=1)  # (T, W + 2)
        space, points = rows.new_empty(_most_scores(self.codings, len(rows))), dict[int, Tensor]()
        chosen, first = list[Tensor](), 0
        for coding in self.codings:
            num_codes, num_codewords = coding.num_codes, coding.num_codewords
            columns = self.get_buffer(f"columns_{num_codes}")  # (M, w)
            if num_codes not in points:
                own_columns = extended.index_select(1, columns.flatten()).view(len(rows), *columns.shape)
                points[num_codes] = own_columns.transpose(0, 1).contiguous()  # (M, U, w)
            last = first + num_codes * num_codewords
            own = codewords[first:last].view(num_codes, num_codewords, -1)
            own = own.gather(2, columns[:, None].expand(-1, num_codewords, -1))  # (M, K, w)
            own = own.transpose(1, 2)
            if self.batch_norm:
                floats = points[num_codes] * (columns < rows.shape[1])[:, None]
                chosen.append(_best_normalised(points[num_codes], own, floats.square().sum(2), share))
            else:
                chosen.append(_nearest(points[num_codes], own, space))
            first = last
        return torch.cat(chosen) + self.firsts

    def _term(self, rows: Tensor, share: Tensor, codes: Tensor, chosen: Tensor, sums: Tensor) -> Tensor:
        """codebook mean |q - sg(row)|^2 + commitment mean |sg(q) - row|^2 over the batch and columns, all candidates'.

        |q - row|^2 is multiplied out, and added up by codeword; where all are 0, rounding may leave it below 0.
        """
        codebook, commitment = self.term_weights
        of_rows = len(self.codings) * (share @ rows.detach().square()).sum()
        of_codewords = (chosen * self.codewords.square()).sum()
        term = codebook * (of_rows + of_codewords - 2 * (sums * self.codewords).sum())
        if commitment:
            of_rows = len(self.codings) * (share @ rows.square()).sum()
            products = (share @ (summed(self.codewords.detach(), codes) * rows)).sum()
            term = term + commitment * (of_rows + of_codewords.detach() - 2 * products)
        return term / rows.shape[1]


class _Mix(torch.autograd.Function):
    """Weighs normalised candidates and adds them up; backward as batch normalisation's, for all candidates at once.

        dL/drow = sum_c w_c s_c (g - share (sum g + x_c sum g x_c)),  dL/dw_c = sum g x_c

    g is the gradient of the mixture, x_c a normalised candidate, s_c one over its standard deviation.
    """

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        weights: Tensor,
        normalised: Tensor,
        scales: Tensor,
        codes: Tensor,
        groups: Groups,
        share: Tensor,
        owner: Tensor,
    ) -> Tensor:
        ctx.groups = groups
        ctx.save_for_backward(weights, normalised, scales, codes, share, owner)
        return summed(normalised * (weights @ owner)[:, None], codes)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weights, normalised, scales, codes, share, owner = ctx.saved_tensors
        products = owner @ (ctx.groups.sums(gradient) * normalised)  # (C, W), sum g x_c
        factors = weights[:, None] * scales
        total = factors.sum(0)  # (W,)
        centre = summed(normalised * (owner.T @ (factors * products)), codes)
        of_rows = gradient * total - share[:, None] * (gradient.sum(0) * total + centre)
        return of_rows, products.sum(1), None, None, None, None, None, None


def _mix(*arguments: Tensor | Groups) -> Tensor:
    """What ``_Mix.forward`` takes -> (U, W)."""
    mixed: Tensor = _Mix.apply(*arguments)  # type: ignore[no-untyped-call]
    return mixed


class Groups:
    """Which rows chose each codeword.

    Args:
        codes: (B, U) int64 in [0, T).
        num_codewords: T.
    """

    def __init__(self, codes: Tensor, num_codewords: int) -> None:
        flat = codes.flatten()
        if flat.device.type == "cpu" and num_codewords <= np.iinfo(np.int16).max:  # numpy sorts 16 bits by radix
            order = torch.from_numpy(np.argsort(flat.numpy().astype(np.int16), kind="stable"))
        else:
            order = torch.argsort(flat, stable=True)
        counts = torch.bincount(flat, minlength=num_codewords)
        self.rows = order % codes.shape[1]  # (B U,), codeword by codeword
        self.starts = counts.cumsum(0) - counts  # (T,)

    def sums(self, values: Tensor) -> Tensor:
        """(U, w) -> (T, w), those of the rows that chose a codeword added up, in the order of rows."""
        return functional.embedding_bag(self.rows, values, self.starts, mode="sum")


def summed(codewords: Tensor, codes: Tensor) -> Tensor:
    """(T, W) codewords, (B, U) codes -> (U, W), the B codewords of each row added up."""
    return functional.embedding_bag(codes.T.contiguous(), codewords, mode="sum")


def _nearest(points: Tensor, codewords: Tensor, space: Tensor) -> Tensor:
    """The nearest codeword of each part.

    Args:
        points: (M, U, w), a one among the floats of each.
        codewords: (M, w, K), -|codeword|^2 / 2 in its place.
        space: Of ``_most_scores`` floats.

    Returns:
        (M, U) int64 in [0, K).
    """
    num_codes, num_rows, _ = points.shape
    num_codewords = codewords.shape[2]
    tile_rows = _tile_rows(num_codes * num_codewords)
    codes = torch.empty(num_codes, num_rows, dtype=torch.int64, device=points.device)
    for start in range(0, num_rows, tile_rows):
        tile = points[:, start : start + tile_rows]
        shape = (num_codes, tile.shape[1], num_codewords)
        scores = torch.bmm(tile, codewords, out=space[: math.prod(shape)].view(shape))
        codes[:, start : start + tile_rows] = largest(scores.flatten(0, 1)).view(shape[:2])
    return codes


def _best_normalised(points: Tensor, codewords: Tensor, squares: Tensor, share: Tensor) -> Tensor:
    """The codeword of the largest response after batch normalisation; all (M, U, K) responses are held.

    Args:
        points: See ``_nearest``.
        codewords: See ``_nearest``.
        squares: (M, U) |part of the row|^2.
        share: (U,) of the batch that each row is.

    Returns:
        (M, U) int64 in [0, K).
    """
    responses = 2 * points @ codewords - squares[:, :, None]
    centred = responses - (share @ responses)[:, None]
    normalised = centred * ((share @ centred.square())[:, None] + _EPS).rsqrt()
    return largest(normalised.flatten(0, 1)).view(squares.shape)


def _tile_rows(scores_of_row: int) -> int:
    return max(16, TILE_SCORES // scores_of_row)


def _most_scores(codings: Sequence[Coding], num_rows: int) -> int:
    """Of a tile, for any candidate."""
    scores = [coding.num_codes * coding.num_codewords for coding in codings]
    return max(min(_tile_rows(of_row), num_rows) * of_row for of_row in scores)


def _columns(parts: Sequence[slice], width: int) -> Tensor:
    """(M, w): columns of rows to which two were added.

    Those of the part, W (a one; of codewords -|codeword|^2 / 2), and then W + 1 (0), up to equal length.
    """
    longest = max(part.stop - part.start for part in parts) + 1
    found = torch.full((len(parts), longest), width + 1)
    for own, part in zip(found, parts, strict=True):
        length = part.stop - part.start
        own[:length] = torch.arange(part.start, part.stop)
        own[length] = width
    return found
