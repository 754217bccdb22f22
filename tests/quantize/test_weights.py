"""Popularity weights from training counts."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from mec.quantize.weights import Weighting, popularity_weights

COUNTS = np.array([0, 1, 2, 3, 4, 7, 8, 1023, 1024, 2**40], dtype=np.int64)


@pytest.mark.parametrize(
    ("weighting", "expected"),
    [
        ("none", [0, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
        ("sqrt", np.sqrt(COUNTS)),
        ("log2", [0, 1, 1, 1, 2, 2, 3, 9, 10, 40]),
        ("raw", COUNTS),
    ],
)
def test_weights(weighting: Weighting, expected: list[float]) -> None:
    weights = popularity_weights(COUNTS, weighting)
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights, np.asarray(expected, dtype=np.float32))


@pytest.mark.parametrize("weighting", get_args(Weighting))
def test_unseen_values_weigh_nothing(weighting: Weighting) -> None:
    assert popularity_weights(np.zeros(3, dtype=np.int64), weighting).tolist() == [0, 0, 0]
