"""What coding did to single values: errors by popularity, and a few values' vectors before and after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mec.evaluation.slices import POPULARITY, value_slices

_ROUNDING = 1e-3  # of the variance: below 0 by less than this is how floats are stored, not bad codes


@dataclass(frozen=True)
class SliceQuality:
    """Values of one popularity slice.

    Attributes:
        values: How many.
        impressions: Their training count.
        distortion: Sum over them of weight times squared error.
        variance: Sum over them of weight times squared distance from the weighted mean of all values.
    """

    values: int
    impressions: int
    distortion: float
    variance: float

    def to_json(self) -> dict[str, object]:
        """The sums, and the share of variance explained: None where the slice has no weight or no variance.

        Below 0 where the slice's values are further from their codewords than from the mean of all values.
        """
        share = 1 - self.distortion / self.variance if self.variance > 0 else None
        if share is not None and -_ROUNDING < share < 0:
            share = 0.0
        return {
            "values": self.values,
            "impressions": self.impressions,
            "distortion": self.distortion,
            "variance": self.variance,
            "explained_variance": share,
        }


class ValueProbe:
    """Shown every value of a vocabulary while it is coded; keeps sums by slice and the sample's vectors.

    Args:
        counts: (V,) training counts by id.
        sample: (N,) ids in rising order whose vectors are kept.
        width: W = D + 1, floats per row.
    """

    def __init__(self, counts: NDArray[np.int64], sample: NDArray[np.int64], width: int) -> None:
        self.sample = sample
        self.slices = value_slices(counts)
        self.exact = torch.zeros(len(sample), width)  # (N, W) rows as they were trained
        self.decoded = torch.zeros(len(sample), width)  # (N, W) rows as they are served
        self._counts = counts
        self._values, self._impressions, self._variance, self._distortion = np.zeros((4, len(POPULARITY)))

    def see_spreads(self, first: int, spreads: Tensor) -> None:
        """Take in (n,) weighted squared distances from the weighted mean, of ids ``first``, ``first`` + 1 and so on."""
        slices = self.slices[first : first + len(spreads)]
        self._values += np.bincount(slices, minlength=len(POPULARITY))
        self._impressions += _sums(slices, self._counts[first : first + len(spreads)])
        self._variance += _sums(slices, spreads.numpy())

    def see_coded(self, first: int, rows: Tensor, decoded: Tensor, errors: Tensor) -> None:
        """Take in what coding did to ids ``first``, ``first`` + 1 and so on.

        Args:
            first: Id.
            rows: (n, W) as they were trained.
            decoded: (n, W) or (1, W) as they are served.
            errors: (n,) weighted squared errors.
        """
        slices = self.slices[first : first + len(rows)]
        self._distortion += _sums(slices, errors.numpy())
        start, end = np.searchsorted(self.sample, [first, first + len(rows)])
        if start < end:
            places = torch.from_numpy(self.sample[start:end] - first)
            self.exact[start:end] = rows[places]
            self.decoded[start:end] = decoded.expand_as(rows)[places]

    def by_popularity(self) -> dict[str, SliceQuality]:
        """Quality of each slice that has values, the most popular first."""
        return {
            POPULARITY[index]: SliceQuality(
                int(self._values[index]),
                int(self._impressions[index]),  # exact up to 2^53
                float(self._distortion[index]),
                float(self._variance[index]),
            )
            for index in reversed(range(len(POPULARITY)))
            if self._values[index]
        }


def _sums(slices: NDArray[np.uint8], addends: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(np.bincount(slices, addends, minlength=len(POPULARITY)), dtype=np.float64)
