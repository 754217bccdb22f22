"""A moved base rate is followed, noise is not, and what cannot be fitted stays as it was."""

from __future__ import annotations

import numpy as np
import pytest

from mec.errors import ConfigError, TrainingError
from mec.evaluation.calibration import Calibration, fit_calibration
from mec.evaluation.metrics import logloss, sigmoid
from mec.refresh import recalibration
from mec.refresh.recalibration import recalibrate


def _rows(scale: float, bias: float, num_rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, num_rows).astype(np.float32)
    return (rng.random(num_rows) < sigmoid(scale * logits + bias)).astype(np.uint8), logits


def test_a_moved_base_rate_is_followed() -> None:
    labels, logits = _rows(0.7, -1.5, 40_000)
    current = Calibration(1.0, 0.0)
    found = recalibrate(labels, logits, current)
    assert found.is_refitted
    assert found.calibration == fit_calibration(labels, logits)
    assert (found.calibration.scale, found.calibration.bias) == pytest.approx((0.7, -1.5), abs=0.05)
    fresh_labels, fresh = _rows(0.7, -1.5, 40_000, seed=1)
    gained = logloss(fresh_labels, found.calibration.apply(fresh)) - logloss(fresh_labels, current.apply(fresh))
    assert found.change is not None
    assert found.change.low < gained < found.change.high


def test_the_change_is_measured_on_rows_not_fitted_on() -> None:
    labels, logits = _rows(1.0, 0.0, 300)
    current = Calibration(1.0, 0.0)
    found = recalibrate(labels, logits, current, min_rows_per_label=2)
    # by hand: rows of each label are dealt out in turn
    half = np.zeros(300, dtype=int)
    seen = [0, 0]
    for row, label in enumerate(labels.tolist()):
        half[row] = seen[label] % 2
        seen[label] += 1
    losses = [
        logloss(labels[row : row + 1], fit_calibration(labels[half != half[row]], logits[half != half[row]]).apply(z))
        - logloss(labels[row : row + 1], current.apply(z))
        for row, z in enumerate(np.split(logits, 300))
    ]
    assert found.change is not None
    assert found.change.value == pytest.approx(np.mean(losses))


def test_a_refit_that_does_harm_is_not_served(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, logits = _rows(1.0, 0.0, 5_000)
    monkeypatch.setattr(recalibration, "fit_calibration", lambda labels, logits: Calibration(0.2, 2.0))
    current = Calibration(1.0, 0.0)
    found = recalibrate(labels, logits, current)
    assert not found.is_refitted
    assert found.calibration == current
    assert "worse by +" in found.reason
    assert found.change is not None
    assert found.change.low > 0


@pytest.mark.parametrize("label", [0, 1])
def test_too_few_rows_of_a_label_keep_the_current_one(label: int) -> None:
    labels = np.full(1000, 1 - label, dtype=np.uint8)
    labels[:99] = label
    logits = np.linspace(-2, 2, 1000)
    found = recalibrate(labels, logits, Calibration(0.9, 0.1))
    assert (found.calibration, found.is_refitted, found.change) == (Calibration(0.9, 0.1), False, None)
    assert f"99 rows of label {label}" in found.reason or f"and 99 of label {label}" in found.reason
    labels[99] = label
    assert recalibrate(labels, logits, Calibration(0.9, 0.1)).change is not None


def test_the_least_number_of_rows_can_be_fitted_on() -> None:
    labels = np.array([0, 1, 0, 1], dtype=np.uint8)
    assert recalibrate(labels, np.array([-1.0, 1.0, 0.5, 0.0]), Calibration(1, 0), min_rows_per_label=2).change
    with pytest.raises(ConfigError, match="two rows of each label; found: 1"):
        recalibrate(labels, np.zeros(4), Calibration(1, 0), min_rows_per_label=1)


def test_predictions_that_are_not_finite_are_refused() -> None:
    labels, logits = _rows(1.0, 0.0, 500)
    logits[3] = np.nan
    with pytest.raises(TrainingError, match="1 of 500 logits"):
        recalibrate(labels, logits, Calibration(1.0, 0.0))


def test_json_has_the_interval_or_none() -> None:
    labels, logits = _rows(0.7, -1.5, 2_000)
    value = recalibrate(labels, logits, Calibration(1.0, 0.0)).to_json()
    assert set(value["change"]) == {"value", "low", "high"}  # type: ignore[call-overload]
    assert recalibrate(labels[:5], logits[:5], Calibration(1.0, 0.0)).to_json()["change"] is None
