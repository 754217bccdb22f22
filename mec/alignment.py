"""One rotation that brings newly trained vectors into the space of older ones.

A factorization machine sees its vectors only through inner products, so a rotation of all of them, reflections
included, changes nothing that it was trained for: two trainings end in spaces that differ by one. The rotation must be
the same for all vocabularies, for products are taken across fields. The first-order weight, column 0 of a row, is a
number of its own and is not rotated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mec.errors import DataError, TrainingError
from mec.evaluation.slices import POPULARITY, value_slices
from mec.quantize.weights import Weighting, popularity_weights

CHUNK_ROWS = 65_536  # rows held as float64 at a time


@dataclass(frozen=True)
class Fit:
    """How far vectors of two periods agree, over some values.

    Attributes:
        num_values: Values of a weight above 0.
        explained_before: Share of the old vectors' weighted variance that the new ones explain as they are; below 0
            where they are further off than the mean.
        explained_after: The same once they are rotated.
    """

    num_values: int
    explained_before: float
    explained_after: float

    def to_json(self) -> dict[str, float]:
        return {
            "num_values": self.num_values,
            "explained_before": self.explained_before,
            "explained_after": self.explained_after,
        }


@dataclass(frozen=True)
class Alignment:
    """A rotation, and what it does to the values that it was fitted on.

    Attributes:
        rotation: (D, D) float64, orthogonal; new vectors times it lie in the old space.
        rank: Directions that vectors of both periods use; beyond them any rotation is as good as another.
        overall: Fit over all values.
        by_popularity: The same for head, torso, tail and unseen values, as far as there are any of a weight above 0.
    """

    rotation: Tensor
    rank: int
    overall: Fit
    by_popularity: Mapping[str, Fit]

    def to_json(self) -> dict[str, object]:
        return {
            "rank": self.rank,
            "overall": self.overall.to_json(),
            "by_popularity": {name: fit.to_json() for name, fit in self.by_popularity.items()},
        }


class _Sums:
    """Weighted sums over pairs of vectors: all that the rotation and its residuals depend on."""

    def __init__(self, dim: int) -> None:
        self.num_values = 0
        self.weight = 0.0
        self.products = torch.zeros(dim, dim, dtype=torch.float64)  # new^T w old
        self.old_sum = torch.zeros(dim, dtype=torch.float64)
        self.old_squares = 0.0
        self.new_squares = 0.0

    def add(self, old: Tensor, new: Tensor, weights: Tensor) -> None:
        """Add (N, D) float64 pairs under (N,) float64 weights."""
        weighted = old * weights[:, None]
        self.num_values += int((weights > 0).sum())
        self.weight += float(weights.sum())
        self.products += new.T @ weighted
        self.old_sum += weighted.sum(0)
        self.old_squares += float((weighted * old).sum())
        self.new_squares += float((new.square() * weights[:, None]).sum())

    def merge(self, other: _Sums) -> None:
        self.num_values += other.num_values
        self.weight += other.weight
        self.products += other.products
        self.old_sum += other.old_sum
        self.old_squares += other.old_squares
        self.new_squares += other.new_squares

    def fit(self, rotation: Tensor) -> Fit:
        """|old - new R|^2 is |old|^2 + |new|^2 - 2 <new^T old, R>, for an orthogonal R."""
        variance = self.old_squares - float(self.old_sum.square().sum()) / self.weight
        both = self.old_squares + self.new_squares

        def explained(overlap: float) -> float:
            return 1.0 - max(both - 2.0 * overlap, 0.0) / variance if variance > 0 else 0.0

        return Fit(
            self.num_values,
            explained(float(self.products.trace())),
            explained(float((self.products * rotation).sum())),
        )


def procrustes(old: Tensor, new: Tensor, weights: Tensor) -> Tensor:
    """The rotation R that minimises sum_i w_i |old_i - new_i R|^2 over orthogonal R.

    Schönemann (1966), "A generalized solution of the orthogonal Procrustes problem", Psychometrika 31(1), equation
    1.7 onwards, with weights: U S V^T = new^T diag(w) old, R = U V^T. Vectors are not centred, for inner products do
    not survive a shift, and R may be a reflection.

    Args:
        old: (N, D) float32, the space to be in.
        new: (N, D) float32, the same values' new vectors.
        weights: (N,) at least 0; 0 leaves a value out.

    Returns:
        (D, D) float64 on the CPU.

    Raises:
        DataError: Fewer than D values of a weight above 0.
        TrainingError: Vectors or weights that are not finite, or weights below 0.
    """
    sums = _sums("vectors", old, new, weights)
    _require_values(sums)
    return _rotation(sums.products)


def align(
    old: Mapping[str, Tensor],
    new: Mapping[str, Tensor],
    weights: Mapping[str, NDArray[np.float32]],
    counts: Mapping[str, NDArray[np.int64]],
) -> Alignment:
    """Fit one rotation jointly over all vocabularies' tables, in chunks.

    Ids are append-only, so a table's first rows belong to the same values in both periods. For tables trained on
    folds of the same rows, call it once per fold, with one of them as ``old``.

    Args:
        old: Vocabulary -> (V_old, D + 1) float32 rows of the space.
        new: Vocabulary -> (V_new, D + 1) float32 rows, V_new >= V_old.
        weights: Vocabulary -> (V_old,) at least 0, such as ``shared_weights``; 0 leaves a value out.
        counts: Vocabulary -> (V_old,) counts that cut the values into head, torso and tail.

    Raises:
        DataError: Fewer than D values of a weight above 0, or tables that do not belong together.
        TrainingError: Rows of a weight above 0, or weights, that are not finite.
    """
    _require_same(old, new, weights)
    dim = next(iter(old.values())).shape[1] - 1
    groups = [_Sums(dim) for _ in POPULARITY]
    for name, table in old.items():
        size = len(table)
        slices = torch.from_numpy(value_slices(counts[name][:size]))
        chosen_weights = torch.from_numpy(weights[name])
        for index, group in enumerate(groups):
            rows = torch.nonzero((slices == index) & (chosen_weights != 0))[:, 0]
            for chunk in torch.split(rows, CHUNK_ROWS):
                group.merge(_sums(name, table[chunk, 1:], new[name][chunk, 1:], chosen_weights[chunk]))
    total = _Sums(dim)
    for group in groups:
        total.merge(group)
    _require_values(total)
    rotation = _rotation(total.products)
    return Alignment(
        rotation,
        int(torch.linalg.matrix_rank(total.products)),
        total.fit(rotation),
        {name: g.fit(rotation) for name, g in zip(POPULARITY, groups, strict=True) if g.num_values},
    )


def align_rows(rows: Tensor, rotation: Tensor) -> Tensor:
    """Rows in the space that ``rotation`` leads to; the first-order weight stays.

    Args:
        rows: (V, D + 1) float32.
        rotation: (D, D) float64.

    Returns:
        (V, D + 1) float32.
    """
    result = torch.empty_like(rows)
    for start in range(0, len(rows), CHUNK_ROWS):
        part = slice(start, start + CHUNK_ROWS)
        result[part, 0] = rows[part, 0]
        result[part, 1:] = (rows[part, 1:].double() @ rotation).to(rows.dtype)
    return result


def shared_weights(
    old: NDArray[np.int64], new: NDArray[np.int64], weighting: Weighting = "sqrt"
) -> NDArray[np.float32]:
    """Weights of values present in both periods: a pair is known only as well as the lesser known of its vectors.

    Args:
        old: (V_old,) counts of the rows that the old vectors were trained on.
        new: (V_new,) counts of the rows that the new ones were trained on, V_new >= V_old.
        weighting: Of the smaller count; see ``mec.quantize.weights``.

    Returns:
        (V_old,) float32, 0 where one of the counts is.
    """
    return popularity_weights(np.minimum(old, new[: len(old)]), weighting)


def _sums(name: str, old: Tensor, new: Tensor, weights: Tensor) -> _Sums:
    assert old.shape == new.shape
    result = _Sums(old.shape[1])
    for start in range(0, len(old), CHUNK_ROWS):
        part = slice(start, start + CHUNK_ROWS)
        w = weights[part].double()
        kept = w != 0
        pairs = (old[part][kept].double(), new[part][kept].double(), w[kept])
        for what, tensor in zip(("old vectors", "new vectors", "weights"), pairs, strict=True):
            if not bool(torch.isfinite(tensor).all()):
                raise TrainingError(
                    f"cannot align {name!r}: its {what} are not finite",
                    found=f"{int((~torch.isfinite(tensor)).sum())} NaN or infinite numbers",
                    fix="train them again with a smaller pretrain.learning_rate",
                )
        if bool((pairs[2] < 0).any()):
            raise TrainingError(
                f"cannot align {name!r}: weights below 0", found=float(pairs[2].min()), fix="give weights of at least 0"
            )
        result.add(*pairs)
    return result


def _rotation(products: Tensor) -> Tensor:
    left, _, right = torch.linalg.svd(products)
    rotation: Tensor = left @ right
    return rotation


def _require_values(sums: _Sums) -> None:
    dim = len(sums.products)
    if sums.num_values < dim:
        raise DataError(
            f"too few values to fit a rotation of {dim} dimensions: it needs {dim} with a weight above 0",
            found=f"{sums.num_values} present in both periods",
            fix="refresh on more rows, or train a new space with the train pipeline",
        )


def _require_same(
    old: Mapping[str, Tensor], new: Mapping[str, Tensor], weights: Mapping[str, NDArray[np.float32]]
) -> None:
    shapes = {name: tuple(table.shape) for name, table in old.items()}
    found = {name: tuple(table.shape) for name, table in new.items()}
    fits = shapes.keys() == found.keys() and all(
        len(table) >= len(old[name]) and table.shape[1] == old[name].shape[1] for name, table in new.items()
    )
    if not fits or len({width for _, width in shapes.values()}) != 1:
        raise DataError(
            f"the new tables are not those of the same vocabularies, extended: the old ones are {shapes}",
            found=found,
            fix="train them with the extended vocabulary and the embedding_dim of the space",
        )
    lengths = {name: len(w) for name, w in weights.items()}
    if lengths != {name: len(table) for name, table in old.items()}:
        raise DataError("there must be one weight per value of the old tables", found=lengths, fix="use shared_weights")
