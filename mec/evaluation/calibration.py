"""Platt scaling: one scale and one bias that turn a model's logits into calibrated log-odds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mec.errors import DataError
from mec.evaluation.metrics import Floats, Labels, sigmoid

MIN_SCALE = 1e-3  # a calibration may flatten scores, never reverse their order
_MAX_ITERATIONS = 100


@dataclass(frozen=True)
class Calibration:
    """Calibrated logit = scale x logit + bias."""

    scale: float
    bias: float

    def apply(self, logits: Floats) -> NDArray[np.float64]:
        """Calibrated logits (N,), float64."""
        return np.asarray(self.scale * logits.astype(np.float64) + self.bias)

    def to_json(self) -> dict[str, float]:
        return {"scale": self.scale, "bias": self.bias}


def fit_calibration(labels: Labels, logits: Floats) -> Calibration:
    """Fit scale and bias by logloss on validation rows; never on the rows they are judged on.

    Platt (1999), "Probabilistic outputs for support vector machines", with his smoothed targets,
    which keep the fit finite on separable rows; Newton steps with backtracking as in Lin, Lin and
    Weng (2007), "A note on Platt's probabilistic outputs for support vector machines".

    Args:
        labels: (N,) 0 or 1, both present.
        logits: (N,) finite.

    Raises:
        DataError: The labels hold one class only.
    """
    num_positives = int(labels.sum())
    num_negatives = len(labels) - num_positives
    if not num_positives or not num_negatives:
        raise DataError(
            "calibration needs validation rows of both labels",
            found=f"{num_positives} with label 1, {num_negatives} with label 0",
            fix="give the validation split more rows",
        )
    targets = np.where(labels == 1, (num_positives + 1) / (num_positives + 2), 1 / (num_negatives + 2))
    z = logits.astype(np.float64)
    ones = np.ones_like(z)
    # Newton starts from standardised logits: on raw ones the curvature can be zero at the start.
    centre, spread = float(z.mean()), float(z.std()) or 1.0
    weight, bias = _newton(np.stack([(z - centre) / spread, ones]), np.zeros_like(z), targets)
    scale, bias = weight / spread, bias - weight * centre / spread
    if scale < MIN_SCALE:
        scale = MIN_SCALE
        (bias,) = _newton(ones[None], scale * z, targets)
    return Calibration(float(scale), float(bias))


def _newton(
    features: NDArray[np.float64], offset: NDArray[np.float64], targets: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Minimise the convex mean logloss of offset + weights @ features, features (k, N)."""
    num_rows = features.shape[1]

    def loss(weights: NDArray[np.float64]) -> Any:
        z = offset + weights @ features
        return np.mean(np.logaddexp(0.0, z) - targets * z)

    weights = np.zeros(len(features))
    current = loss(weights)
    for _ in range(_MAX_ITERATIONS):
        p = sigmoid(offset + weights @ features)
        gradient = features @ (p - targets) / num_rows
        if np.abs(gradient).max() < 1e-10:
            break
        hessian = (features * (p * (1 - p))) @ features.T / num_rows
        step = np.linalg.solve(hessian + 1e-12 * np.eye(len(weights)), gradient)
        size = 1.0
        while size > 1e-10 and not loss(weights - size * step) <= current - 1e-4 * size * (gradient @ step):
            size /= 2
        if size <= 1e-10:
            break  # as low as the floats go
        weights = weights - size * step
        current = loss(weights)
    return weights
