"""How much a value counts in fitting, from how often it occurs in training."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Weighting = Literal["none", "sqrt", "log2", "raw"]


def popularity_weights(counts: NDArray[np.int64], weighting: Weighting) -> NDArray[np.float32]:
    """Weights of a vocabulary's values; 0 for values that never occur.

    Args:
        counts: (V,) int64 training counts n.
        weighting: none: 1; sqrt: n^0.5; log2: max(1, floor(log2 n)), as r_j in MEC (arXiv 2502.15355); raw: n.

    Returns:
        (V,) float32.
    """
    assert (counts >= 0).all()
    if weighting == "none":
        return (counts > 0).astype(np.float32)
    if weighting == "sqrt":
        return np.sqrt(counts, dtype=np.float64).astype(np.float32)
    if weighting == "log2":
        exponents = np.frexp(counts.astype(np.float64))[1] - 1  # floor(log2 n), exactly
        return np.where(counts > 0, np.maximum(exponents, 1), 0).astype(np.float32)
    return counts.astype(np.float32)
