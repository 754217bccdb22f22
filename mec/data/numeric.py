"""Numbers as categorical values (the buckets of the Criteo 2014 winner), or as weights of one direction."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

LARGEST = float(2**62)  # beyond it a bucket would not fit int64


def log2_buckets(x: NDArray[np.float64]) -> NDArray[np.int64]:
    """floor(log(x)^2) + 3 for x > 2, else floor(x).

    The natural log, squared ("3 idiots", Criteo display advertising challenge 2014). They keep numbers up to 2
    as tokens of their own; adding 3 does that here, as log(x)^2 alone would put 1 and 3 into one bucket.

    Args:
        x: (N,) finite, |x| at most 2^62.

    Returns:
        (N,) buckets.
    """
    assert np.all(np.abs(x) <= LARGEST)
    large = x > 2
    logs = np.log(np.where(large, x, 1.0))
    return np.floor(np.where(large, logs * logs + 3.0, x)).astype(np.int64)


def linear_weights(numbers: pa.Array, mean: float, std: float) -> NDArray[np.float32]:
    """(N,) standardised float64 numbers of a linear field, 1 where null, in training and in serving."""
    standardised = pc.divide(pc.subtract(numbers, mean), std)
    return np.asarray(pc.fill_null(standardised, 1.0), dtype=np.float32)
