"""Numbers as categorical values: the buckets of the Criteo 2014 winner."""

from __future__ import annotations

import numpy as np
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
