"""The search for one vocabulary's plans in two rounds: all shapes on a small sample, the promising on a larger one."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from mec.quantize.plan_front import Choice, PlanFront
from mec.quantize.rate_curves import SMALLEST, Limits, RateCurve, Shape, measure_curves, shapes_within
from mec.quantize.spending import gain_per_byte
from mec.quantize.table_sample import TableSample, sample_table

_COARSE_ROWS = 1_024
_COARSE_ITERATIONS = 4
_FINE_ROWS = (4_096, 16_384)
_FINE_SHARE = 8  # an eighth of the rows, between the two
_FINE_ITERATIONS = 8
_NEAR = 1.15  # times the least cost
_MOST_SHAPES = 5
_PRICES = (1.0, 4.0, 16.0)  # times the price of a byte; smaller plans must be there where a larger does not fit


class PlanSearch:
    """One vocabulary; keeps samples of its table, not the table.

    Args:
        rows: (V, W) float32, finite.
        weights: (V,) float32, at least 0, not all 0.
        limits: Of shapes and fits.
        float_bytes: Bytes per stored float.
        seed: Of samples and first codewords.
        device: Codebooks are fitted there, to one sample at a time.
    """

    def __init__(
        self, rows: Tensor, weights: Tensor, limits: Limits, float_bytes: int, seed: int, device: torch.device
    ) -> None:
        self._size, self._width = rows.shape
        self._limits, self._float_bytes, self._seed, self._device = limits, float_bytes, seed, device
        if self._size < 2:
            return
        fine_rows = max(_FINE_ROWS[0], min(_FINE_ROWS[1], self._size // _FINE_SHARE))
        self._coarse, self._fine = (
            sample_table(rows, weights, min(num_rows, limits.fit_points), torch.Generator().manual_seed(seed))
            for num_rows in (_COARSE_ROWS, fine_rows)
        )

    def coarse_front(self) -> PlanFront:
        """Plans of all shapes within the limits."""
        if self._size < 2:
            return exact_front(self._size, self._width, self._float_bytes)
        shapes = shapes_within(self._size, self._width, self._float_bytes, self._limits)
        return self._front(self._coarse, shapes, _COARSE_ITERATIONS, every_shape=False)

    def fine_front(self, coarse: PlanFront, choice: Choice) -> PlanFront:
        """Plans of the shapes that are best, or nearly so, at and around the price of a byte where the budget ended.

        Args:
            coarse: Of ``coarse_front``.
            choice: What the coarse round chose.
        """
        price = _price(coarse, choice)
        if not price or not coarse.curves:
            return coarse
        shapes = {SMALLEST}
        for factor in _PRICES:
            costs = coarse.costs(factor * price)
            best = [place for place in np.argsort(costs, kind="stable") if costs[place] <= _NEAR * costs.min()]
            shapes |= {_shape(coarse.curves[place]) for place in best[:_MOST_SHAPES]}
        return self._front(self._fine, sorted(shapes), _FINE_ITERATIONS, every_shape=True)

    def _front(self, sample: TableSample, shapes: list[Shape], most_iterations: int, *, every_shape: bool) -> PlanFront:
        limits = replace(self._limits, iterations=min(most_iterations, self._limits.iterations))
        curves = measure_curves(sample.to(self._device), shapes, limits, self._seed, every_shape=every_shape)
        return PlanFront(self._size, self._width, self._float_bytes, sample.edges, curves, sample.num_heads)


def exact_front(size: int, width: int, float_bytes: int) -> PlanFront:
    """The front of a vocabulary that can only keep its rows exact."""
    return PlanFront(size, width, float_bytes, np.empty(0, dtype=np.int64), [], 0)


def _price(front: PlanFront, choice: Choice) -> float:
    """Distortion per byte between what the last bytes gained and what the next ones would; 0 where neither is known."""
    smaller, larger = front.cheapest_cut(choice), front.steepest(choice, int(front.num_bytes[-1]) + 1)
    gains = [gain_per_byte(smaller, choice)] if smaller is not None else []
    gains += [gain_per_byte(choice, larger)] if larger is not None else []
    known = [gain for gain in gains if 0 < gain < math.inf]
    return math.exp(sum(map(math.log, known)) / len(known)) if known else 0.0


def _shape(curve: RateCurve) -> Shape:
    return curve.plan.structure, curve.plan.num_codes, curve.plan.num_codewords
