"""What one vocabulary's rows lose, and what they take, under many codebooks, heads and tails.

Codebooks are fitted to the sample only. A residual fit gives all its prefixes; between measured numbers of codewords,
and beyond them, the errors are taken as a power of their number.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mec.quantize.kmeans import kmeans, nearest
from mec.quantize.plan import Structure, VocabularyPlan
from mec.quantize.product import ProductCodebook
from mec.quantize.residual import ResidualCodebook
from mec.quantize.table_sample import TableSample

Shape = tuple[Structure, int, int]  # structure, M, K
NUM_CODEWORDS = tuple(1 << bits for bits in range(2, 13))
SMALLEST: Shape = ("residual", 1, NUM_CODEWORDS[0])
_SPARSE = frozenset(NUM_CODEWORDS[::2])
_ROWS_PER_CODEWORD = 8
_RESIDUAL_CODES = (1, 2, 3, 4, 6, 8)
_PRODUCT_CODES = (2, 4, 8)
_MAX_PRODUCT_CODEWORDS = 1024
_TINY = 1e-30  # stands for no error in logarithms
_LARGEST_LOG = 80.0


@dataclass(frozen=True)
class Limits:
    """How far the search goes.

    Attributes:
        codebook_bytes: Of one codebook at most.
        value_bits: M log2 K at most.
        iterations: Of each k-means at most.
        fit_points: Points that the final codebook is fitted on at most.
    """

    codebook_bytes: int
    value_bits: float
    iterations: int
    fit_points: int


@dataclass(frozen=True)
class RateCurve:
    """Distortion of one codebook shape, by range of ids.

    Attributes:
        plan: Structure, M and K; head and tail left open.
        coded: (R + 1,) weighted distortion of the ids from 1 to each edge where all have codes.
        shared: (R + 1,) weighted distortion of id 0 and all ids from each edge on where they share a code.
    """

    plan: VocabularyPlan
    coded: NDArray[np.float64]
    shared: NDArray[np.float64]


def shapes_within(size: int, width: int, float_bytes: int, limits: Limits) -> list[Shape]:
    """All (structure, M, K) that are worth measuring, residual 1x4, the smallest, always among them.

    Args:
        size: V.
        width: W = D + 1, floats per row.
        float_bytes: Bytes per stored float.
        limits: Of codebooks and codes; a codebook is never more than a quarter of the exact rows either.
    """
    shapes: list[Shape] = []
    for num_codewords in NUM_CODEWORDS:
        candidates: list[Shape] = [("residual", num_codes, num_codewords) for num_codes in _RESIDUAL_CODES]
        if num_codewords <= _MAX_PRODUCT_CODEWORDS:
            candidates += [("product", num_codes, num_codewords) for num_codes in _PRODUCT_CODES if num_codes <= width]
        shapes += [
            s for s in candidates if s == SMALLEST or _within(VocabularyPlan(*s), size, width, float_bytes, limits)
        ]
    return shapes


def measure_curves(
    sample: TableSample, shapes: Sequence[Shape], limits: Limits, seed: int, *, every_shape: bool
) -> list[RateCurve]:
    """Fit codebooks to a sample.

    Args:
        sample: Of one vocabulary; codebooks are fitted on the device of its tensors.
        shapes: What to measure.
        limits: How long a fit may take, and how many points the final one has.
        seed: Of first codewords.
        every_shape: Fit them all; if not, only those of 4, 16, 64, ... codewords, as far as the sample has eight rows
            for each codeword, and take the others from those.

    Returns:
        A curve for every shape.
    """
    measured: dict[tuple[Structure, int], dict[int, _Errors]] = {}
    for structure, codes, num_codewords in _fits(shapes if every_shape else _sparse(shapes, len(sample.rows))):
        fit = _residual_errors if structure == "residual" else _product_errors
        for num_codes, errors, tails in fit(sample, codes, num_codewords, limits, seed):
            found = measured.setdefault((structure, num_codes), {})
            found[num_codewords] = _Errors(_by_range(sample, errors, limits), tails)
    curves = []
    for structure, num_codes, num_codewords in shapes:
        at = _at(measured[structure, num_codes], num_codewords)
        coded = np.concatenate([[0.0], np.cumsum(at.ranges)])
        shared = sample.tail_scatters + sample.tail_weights * at.tails
        curves.append(RateCurve(VocabularyPlan(structure, num_codes, num_codewords), coded, shared))
    return curves


@dataclass(frozen=True)
class _Errors:
    """(R,) weighted distortion by range where all values have codes; (R + 1,) squared errors of the tails' means."""

    ranges: NDArray[np.float64]
    tails: NDArray[np.float64]


def _within(plan: VocabularyPlan, size: int, width: int, float_bytes: int, limits: Limits) -> bool:
    codebook_bytes = plan.serving_bytes(size, width, float_bytes)["codebooks"]
    value_bits = plan.num_codes * plan.bits
    return (
        4 * codebook_bytes <= size * width * float_bytes
        and codebook_bytes <= limits.codebook_bytes
        and value_bits <= min(limits.value_bits, 8 * width * float_bytes - 1)
    )


def _sparse(shapes: Sequence[Shape], num_rows: int) -> list[Shape]:
    return [
        s for s in shapes if s[2] == NUM_CODEWORDS[0] or (s[2] in _SPARSE and _ROWS_PER_CODEWORD * s[2] <= num_rows)
    ]


def _fits(shapes: Sequence[Shape]) -> list[tuple[Structure, list[int], int]]:
    """(structure, Ms, K) of each fit: one of residual codebooks gives all its Ms."""
    fits: list[tuple[Structure, list[int], int]] = [(s, [m], k) for s, m, k in shapes if s == "product"]
    for num_codewords in sorted({k for s, _, k in shapes if s == "residual"}):
        fits.append(("residual", [m for s, m, k in shapes if s == "residual" and k == num_codewords], num_codewords))
    return fits


def _residual_errors(
    sample: TableSample, codes: list[int], num_codewords: int, limits: Limits, seed: int
) -> Iterator[tuple[int, Tensor, NDArray[np.float64]]]:
    """M, (n,) squared errors of the rows, (R + 1,) squared errors of the tails' means, for each M wanted."""
    fitted = _fitted(sample)
    left, codebooks = sample.rows, []
    for m in range(max(codes)):
        codebooks.append(
            kmeans(
                left[fitted], sample.weights[fitted], num_codewords, iterations=limits.iterations, seed=seed + m
            ).codewords
        )
        left = left - codebooks[-1][nearest(left, codebooks[-1])]
        if m + 1 not in codes:
            continue
        book = ResidualCodebook(torch.stack(codebooks))
        errors = (sample.rows - book.decode(book.encode(sample.rows))).square().sum(1)
        yield m + 1, errors, _tail_errors(sample, book)


def _product_errors(
    sample: TableSample, codes: list[int], num_codewords: int, limits: Limits, seed: int
) -> Iterator[tuple[int, Tensor, NDArray[np.float64]]]:
    fitted = _fitted(sample)
    for num_codes in codes:
        book = ProductCodebook.fit(
            sample.rows[fitted],
            sample.weights[fitted],
            num_codes=num_codes,
            num_codewords=num_codewords,
            iterations=limits.iterations,
            seed=seed,
        )
        errors = (sample.rows - book.decode(book.encode(sample.rows))).square().sum(1)
        yield num_codes, errors, _tail_errors(sample, book)


def _fitted(sample: TableSample) -> Tensor:
    return torch.from_numpy(~sample.held_out).to(sample.weights.device) & (sample.weights > 0)


def _tail_errors(sample: TableSample, book: ProductCodebook | ResidualCodebook) -> NDArray[np.float64]:
    means = sample.tail_means
    return (means - book.decode(book.encode(means))).double().square().sum(1).cpu().numpy()


def _by_range(sample: TableSample, errors: Tensor, limits: Limits) -> NDArray[np.float64]:
    """(R,) weighted distortion of each range of ids, as a codebook fitted to the whole table would have it.

    The rows of a fit err too little, held-out ones too much, by about K / n of the distortion each; the final fit, on
    more points, errs by less.
    """
    weights = sample.weights.double().cpu().numpy()
    weighted = weights * errors.double().cpu().numpy()
    drawn, held_out = ~sample.whole, sample.held_out
    fit_weight = float(weights[drawn & ~held_out].sum())
    held_weight = float(weights[held_out].sum())
    factor = np.ones(len(weighted))
    if fit_weight > 0 and held_weight > 0:
        seen = float(weighted[drawn & ~held_out].sum()) / fit_weight
        unseen = float(weighted[held_out].sum()) / held_weight
        if seen > 0 and unseen > 0:
            num_points = min(sample.size, limits.fit_points)
            middle = np.sqrt(seen * unseen)
            left = min(1.0, int((~held_out).sum()) / num_points)  # of the bias of the fit's own rows
            wanted = middle * (seen / middle) ** left if seen < middle else middle
            factor[drawn & ~held_out] = wanted / seen
            factor[held_out] = wanted / unseen
    known = sample.ranges >= 0
    by_range = np.zeros(len(sample.edges) - 1)
    np.add.at(by_range, sample.ranges[known], (weighted * factor)[known])
    return by_range


def _at(measured: Mapping[int, _Errors], num_codewords: int) -> _Errors:
    """The errors at some K: measured, or on a straight line through two measured ones, all in logarithms."""
    if num_codewords in measured:
        return measured[num_codewords]
    known = sorted(measured)
    below = max(k for k in known if k < num_codewords)
    above = min((k for k in known if k > num_codewords), default=None)
    if above is None and below == known[0]:
        return measured[below]
    low, high = (below, above) if above is not None else (known[-2], known[-1])
    steps = math.log2(num_codewords / low) / math.log2(high / low)

    def on_line(few: NDArray[np.float64], many: NDArray[np.float64]) -> NDArray[np.float64]:
        few = np.maximum(few, _TINY)
        slopes = np.log(np.maximum(many, _TINY) / few)
        if above is None:
            slopes = np.minimum(slopes, 0.0)
        values: NDArray[np.float64] = few * np.exp(np.maximum(steps * slopes, -_LARGEST_LOG))
        return values

    few, many = measured[low], measured[high]
    return _Errors(on_line(few.ranges, many.ranges), on_line(few.tails, many.tails))
