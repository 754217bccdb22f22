"""Platt scaling finds what was planted and stays finite where nothing can be found."""

from __future__ import annotations

import numpy as np
import pytest

from mec.errors import DataError
from mec.evaluation.calibration import MIN_SCALE, fit_calibration
from mec.evaluation.metrics import logloss, sigmoid


def _planted(scale: float, bias: float, num_rows: int = 200_000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, num_rows).astype(np.float32)
    labels = (rng.random(num_rows) < sigmoid(scale * logits + bias)).astype(np.uint8)
    return labels, logits


@pytest.mark.parametrize(("scale", "bias"), [(1.0, 0.0), (0.4, -1.5), (2.5, 1.0)])
def test_recovers_a_planted_scale_and_bias(scale: float, bias: float) -> None:
    labels, logits = _planted(scale, bias)
    found = fit_calibration(labels, logits)
    assert (found.scale, found.bias) == pytest.approx((scale, bias), rel=0.03, abs=0.02)


def test_no_other_scale_or_bias_is_better() -> None:
    labels, logits = _planted(0.6, -0.7, 20_000)
    found = fit_calibration(labels, logits)
    best = logloss(labels, found.apply(logits))
    for scale, bias in ((1.02, 0.0), (0.98, 0.0), (1.0, 0.02), (1.0, -0.02)):
        assert logloss(labels, scale * found.apply(logits) + bias) > best


def test_separable_rows_give_a_finite_fit() -> None:
    logits = np.array([-3.0, -2.0, 2.0, 3.0])
    found = fit_calibration(np.array([0, 0, 1, 1], dtype=np.uint8), logits)
    assert np.isfinite([found.scale, found.bias]).all()
    assert 0 < found.scale < 10


def test_constant_and_huge_logits_give_the_base_rate() -> None:
    labels = np.array([0, 0, 0, 1] * 500, dtype=np.uint8)
    for constant in (0.0, 3.0, 500.0):
        found = fit_calibration(labels, np.full(2000, constant))
        assert sigmoid(found.apply(np.array([constant])))[0] == pytest.approx(0.25, abs=2e-3)
    rng = np.random.default_rng(1)
    found = fit_calibration(labels, 1e4 * rng.normal(size=2000))
    assert np.isfinite([found.scale, found.bias]).all()


def test_order_is_never_reversed() -> None:
    labels, logits = _planted(-1.0, 0.0, 5000)
    found = fit_calibration(labels, logits)
    assert found.scale == MIN_SCALE
    assert sigmoid(found.apply(logits)).mean() == pytest.approx(labels.mean(), abs=2e-3)


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_is_an_error(label: int) -> None:
    with pytest.raises(DataError, match="both labels"):
        fit_calibration(np.full(5, label, dtype=np.uint8), np.zeros(5))
