"""How well a codebook codes a vocabulary: codewords used, variance explained by popularity, neighbours kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mec.evaluation.slices import POPULARITY
from mec.quantize.neighbours import compare_neighbours
from mec.quantize.value_probe import ValueProbe

_DECIMALS = 6
_NAME_LENGTH = 60  # characters of a value in tables


@dataclass(frozen=True)
class CodingQuality:
    """What coding one vocabulary did.

    Attributes:
        size: V.
        head: H, values that keep exact rows.
        coded: Values with a code of their own, id 0 included.
        live_codewords: Per codebook, codewords that code at least one value.
        perplexity: Per codebook, exp of the entropy of the code's distribution over values: from 1 to K.
        distortion: Sum over values of weight times squared error.
        variance: Sum over values of weight times squared distance from the weighted mean.
        code_bytes: Packed codes.
        codebook_bytes: Codewords.
        row_bytes: The head's rows.
        fit: What the objective knows of its fit, such as the weighted distortion before and after.
    """

    size: int
    head: int
    coded: int
    live_codewords: tuple[int, ...]
    perplexity: tuple[float, ...]
    distortion: float
    variance: float
    code_bytes: int
    codebook_bytes: int
    row_bytes: int
    fit: Mapping[str, float] = field(default_factory=dict)

    @property
    def explained_variance(self) -> float:
        """1 - distortion / variance; 1 where all rows are equal, 0 where one row for all would distort less."""
        return explained(self.distortion, self.variance)

    def to_json(self) -> dict[str, object]:
        return {
            "size": self.size,
            "head": self.head,
            "coded": self.coded,
            "live_codewords": list(self.live_codewords),
            "perplexity": [round(p, _DECIMALS) for p in self.perplexity],
            "explained_variance": round(self.explained_variance, _DECIMALS),
            "code_bytes": self.code_bytes,
            "codebook_bytes": self.codebook_bytes,
            "row_bytes": self.row_bytes,
            "fit": {name: round(value, _DECIMALS) for name, value in self.fit.items()},
        }


def explained(distortion: float, variance: float) -> float:
    """Share of the variance that the codes keep: none, not less, where they are further off than the mean."""
    return max(1.0 - distortion / variance, 0.0) if variance > 0 else 1.0


def usage(codes: NDArray[np.integer], num_codewords: int) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Live codewords and perplexity of each codebook, from (V, M) codes."""
    live, perplexity = [], []
    for column in codes.T:
        counts = np.bincount(column, minlength=num_codewords)
        shares = counts[counts > 0] / len(column)
        live.append(len(shares))
        perplexity.append(float(np.exp(-np.sum(shares * np.log(shares)))))
    return tuple(live), tuple(perplexity)


def diagnostics_json(
    quality: CodingQuality, probe: ValueProbe, counts: NDArray[np.int64], values: Callable[[], pa.Array]
) -> dict[str, object]:
    """What a codebook bundle keeps for people about one coded vocabulary.

    Args:
        quality: Of its coding.
        probe: Shown all its values.
        counts: (V,) training counts by id.
        values: Gives the (V,) values by id.

    Returns:
        JSON value: the quality's, ``slices`` by popularity and ``neighbours`` (None for fewer than two values seen).
    """
    ids = probe.sample
    column = values().take(pa.array(ids))  # the whole column is held while this line runs, at most
    texts = dict(zip(ids.tolist(), column, strict=True))
    neighbours = compare_neighbours(
        ids,
        counts[ids],
        [POPULARITY[index] for index in probe.slices[ids]],
        probe.exact[:, 1:],  # column 0 is the first-order weight
        probe.decoded[:, 1:],
        lambda chosen: [_text(texts[value].as_py()) for value in chosen.tolist()],
    )
    slices = {name: part.to_json() for name, part in probe.by_popularity().items()}
    return quality.to_json() | {"slices": slices, "neighbours": neighbours}


def _text(value: object) -> str:
    """A value in a table; null is a value like any other."""
    text = "null" if value is None else str(value)
    return text if len(text) <= _NAME_LENGTH else text[: _NAME_LENGTH - 1] + "\N{HORIZONTAL ELLIPSIS}"
