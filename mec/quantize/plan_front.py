"""All plans of one vocabulary that no other plan of it beats in both bytes and distortion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mec.quantize.packing import packed_bytes
from mec.quantize.plan import VocabularyPlan
from mec.quantize.rate_curves import RateCurve


@dataclass(frozen=True)
class Choice:
    """One plan of a vocabulary.

    Attributes:
        plan: None: all rows exact.
        num_bytes: Codes, codebooks and rows.
        distortion: Weighted squared error of all its values, as measured on the sample.
        curve: Place of the plan's curve; -1 without a plan.
        head: Place among the edges of the first id after the head.
        tail: Place among the edges of the tail's first id.
    """

    plan: VocabularyPlan | None
    num_bytes: int
    distortion: float
    curve: int = -1
    head: int = -1
    tail: int = -1


class PlanFront:
    """The plans of one vocabulary, heads and tails beginning at the edges of its ranges of ids.

    Args:
        size: V.
        width: W = D + 1, floats per row.
        float_bytes: Bytes per stored float.
        edges: (R + 1,) ids, from 1 to V; empty without curves.
        curves: Distortions, by codebook shape.
        num_heads: Edges, the first ones, that a head may end at; at least 1 where there are curves.

    Attributes:
        curves: As given.
        num_bytes: (P,) int64, ascending.
        distortions: (P,) float64, descending.
    """

    def __init__(
        self,
        size: int,
        width: int,
        float_bytes: int,
        edges: NDArray[np.int64],
        curves: Sequence[RateCurve],
        num_heads: int,
    ) -> None:
        self._size, self._width, self._float_bytes = size, width, float_bytes
        self._edges, self.curves, self._num_heads = edges, curves, num_heads
        found = [(np.array([size * width * float_bytes]), np.zeros(1), np.full((3, 1), -1))]
        found += [self._points(place) for place in range(len(curves))]
        all_bytes = np.concatenate([f[0] for f in found])
        all_distortions = np.concatenate([f[1] for f in found])
        order = np.lexsort((all_distortions, all_bytes))
        sorted_distortions = all_distortions[order]
        best_before = np.concatenate([[np.inf], np.minimum.accumulate(sorted_distortions)[:-1]])
        kept = order[sorted_distortions < best_before]
        self.num_bytes: NDArray[np.int64] = all_bytes[kept]
        self.distortions: NDArray[np.float64] = all_distortions[kept]
        self._places = np.concatenate([f[2] for f in found], axis=1)[:, kept]

    def __len__(self) -> int:
        return len(self.num_bytes)

    def choice(self, point: int) -> Choice:
        """The plan at one place of ``num_bytes``."""
        curve, head, tail = (int(place) for place in self._places[:, point])
        if curve < 0:
            return Choice(None, int(self.num_bytes[point]), float(self.distortions[point]))
        return self._at(curve, head, tail, int(self._edges[head]), int(self._edges[tail]))

    def steepest(self, choice: Choice, below: int) -> Choice | None:
        """The larger plan of most gain per byte; of equals the largest.

        Args:
            choice: Where from.
            below: Bytes that it stays under.

        Returns:
            None where no such plan has less distortion.
        """
        first = int(np.searchsorted(self.num_bytes, choice.num_bytes, side="right"))
        last = int(np.searchsorted(self.num_bytes, below, side="left"))
        if first >= last or self.distortions[last - 1] >= choice.distortion:
            return None
        slopes = (choice.distortion - self.distortions[first:last]) / (self.num_bytes[first:last] - choice.num_bytes)
        return self.choice(last - 1 - int(np.argmax(slopes[::-1])))

    def cheapest_cut(self, choice: Choice) -> Choice | None:
        """The smaller plan of least loss per byte; None where there is none."""
        last = int(np.searchsorted(self.num_bytes, choice.num_bytes, side="left"))
        if not last:
            return None
        slopes = (self.distortions[:last] - choice.distortion) / (choice.num_bytes - self.num_bytes[:last])
        return self.choice(int(np.argmin(slopes)))

    def neighbours(self, choice: Choice) -> list[Choice]:
        """The same codebook with the head, or the codes, reaching one edge further."""
        if choice.curve < 0:
            return []
        curve, head, tail = choice.curve, choice.head, choice.tail
        last = len(self._edges) - 1
        moves = [(head + 1, tail)] if head < min(tail, self._num_heads - 1) else []
        moves += [(head, tail + 1)] if tail < last else []
        return [self._at(curve, h, t, int(self._edges[h]), int(self._edges[t])) for h, t in moves]

    def part_way(self, choice: Choice, neighbour: Choice, num_bytes: int) -> Choice:
        """The furthest plan from one choice towards a neighbour that takes no more than some bytes."""
        low, high = 0, int(self._ids(neighbour).sum() - self._ids(choice).sum())
        while low < high:
            middle = (low + high + 1) // 2
            if self._moved(choice, neighbour, middle).num_bytes <= num_bytes:
                low = middle
            else:
                high = middle - 1
        return self._moved(choice, neighbour, low)

    def costs(self, price: float) -> NDArray[np.float64]:
        """(curves,) least distortion plus price times bytes, over the heads and tails of each curve."""
        points = (self._points(place) for place in range(len(self.curves)))
        return np.array([float((distortions + price * num_bytes).min()) for num_bytes, distortions, _ in points])

    def _points(self, place: int) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
        """(Q,) bytes, (Q,) distortions and (3, Q) curve, head and tail of one curve's plans."""
        curve, edges = self.curves[place], self._edges
        head, tail = np.triu_indices(self._num_heads, m=len(edges))
        parts = curve.plan.serving_bytes(self._size, self._width, self._float_bytes)
        bits = (edges[tail] - edges[head] + 1) * (curve.plan.num_codes * curve.plan.bits)
        rows = (edges[head] - 1) * (self._width * self._float_bytes)
        distortions = curve.coded[tail] - curve.coded[head] + curve.shared[tail]
        return (
            (bits + 7) // 8 + parts["codebooks"] + rows,
            distortions,
            np.stack([np.full_like(head, place), head, tail]),
        )

    def _moved(self, choice: Choice, neighbour: Choice, num_ids: int) -> Choice:
        toward = self._ids(neighbour) - self._ids(choice)
        share = num_ids / int(toward.sum())
        head_id, tail_id = self._ids(choice) + np.where(toward > 0, num_ids, 0)
        moved = self._at(choice.curve, choice.head, choice.tail, int(head_id), int(tail_id))
        distortion = choice.distortion + share * (neighbour.distortion - choice.distortion)
        return replace(moved, distortion=distortion)

    def _ids(self, choice: Choice) -> NDArray[np.int64]:
        return self._edges[[choice.head, choice.tail]]

    def _at(self, curve: int, head: int, tail: int, head_id: int, tail_id: int) -> Choice:
        found = self.curves[curve]
        plan = replace(found.plan, head=head_id - 1, tail_start=tail_id)
        parts = plan.serving_bytes(self._size, self._width, self._float_bytes)
        assert parts["codes"] == packed_bytes(tail_id - head_id + 1, plan.num_codes, plan.bits)
        distortion = float(found.coded[tail] - found.coded[head] + found.shared[tail])
        return Choice(plan, sum(parts.values()), distortion, curve, head, tail)
