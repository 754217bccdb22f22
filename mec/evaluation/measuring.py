"""From predictions to the numbers of an evaluation: one pure function over arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mec.errors import DataError, TrainingError
from mec.evaluation import metrics
from mec.evaluation.calibration import Calibration, fit_calibration
from mec.evaluation.metrics import Floats, Labels
from mec.evaluation.slices import Slicing, slice_metrics

ROC_GRID = np.linspace(0.0, 1.0, 101)


class Logits(NamedTuple):
    """One model's logits on the validation and the test split, in file order."""

    valid: Floats
    test: Floats


def evaluate_predictions(
    *,
    valid_labels: Labels,
    test_labels: Labels,
    compressed: Logits,
    full: Logits | None = None,
    slicings: Sequence[Slicing] = (),
) -> dict[str, Any]:
    """Measure a model, and beside it the full-table reference on the same rows.

    Both models are calibrated on the validation split, each by its own scale and bias; ``logloss`` is
    that of the calibrated predictions, as they are served. Whole splits are measured, without a row cap.

    Args:
        valid_labels: (N_valid,) uint8.
        test_labels: (N_test,) uint8.
        compressed: Logits of the model on codes.
        full: Logits of the reference; None leaves every ``full_…`` and difference out.
        slicings: Ways to cut the test rows.

    Returns:
        JSON values, all finite: ``auc``, ``logloss``, ``calibration``, ``reliability``, ``roc``, ``slices``, …

    Raises:
        DataError: A split lacks rows of a label.
        TrainingError: A prediction is not finite.
    """
    _check_labels("validation", valid_labels)
    _check_labels("test", test_labels)
    result: dict[str, Any] = {
        "num_valid_rows": len(valid_labels),
        "num_test_rows": len(test_labels),
        "label_mean": float(test_labels.mean()),
    }
    measured, served = _measure_model("", compressed, valid_labels, test_labels)
    result |= measured
    full_served: Floats | None = None
    if full is not None:
        measured, full_served = _measure_model("full_", full, valid_labels, test_labels)
        result |= measured
        result |= _compare(test_labels, served, full_served)
    result["slices"] = [row for cut in slicings for row in slice_metrics(cut, test_labels, served, full_served)]
    return result


def _measure_model(prefix: str, logits: Logits, valid: Labels, test: Labels) -> tuple[dict[str, Any], Floats]:
    """Numbers of one model, keys prefixed, and its calibrated test logits."""
    name = "full-table reference" if prefix else "model"
    _check_finite(name, "validation", logits.valid)
    _check_finite(name, "test", logits.test)
    calibration: Calibration = fit_calibration(valid, logits.valid)
    served = calibration.apply(logits.test)
    probabilities = metrics.sigmoid(served)
    area = metrics.auc_interval(test, logits.test)
    bins = metrics.reliability_bins(test, probabilities)
    raw_bins = metrics.reliability_bins(test, metrics.sigmoid(logits.test))
    result = {
        "auc": metrics.auc(test, logits.test),
        "auc_low": area.low,
        "auc_high": area.high,
        "logloss": metrics.logloss(test, served),
        "logloss_uncalibrated": metrics.logloss(test, logits.test),
        "calibration": calibration.to_json(),
        "calibration_error": metrics.calibration_error(bins),
        "calibration_error_uncalibrated": metrics.calibration_error(raw_bins),
        "prediction_mean": float(probabilities.mean()),
        "reliability": bins,
        "roc": metrics.roc_points(test, probabilities),
        "score_histogram": metrics.score_histogram(test, probabilities),
    }
    return {prefix + key: value for key, value in result.items()}, served


def _compare(test: Labels, served: Floats, full_served: Floats) -> dict[str, Any]:
    area, p_value = metrics.auc_difference(test, served, full_served)
    tpr_difference = metrics.tpr_at(test, served, ROC_GRID) - metrics.tpr_at(test, full_served, ROC_GRID)
    return {
        "auc_difference": area.to_json() | {"p_value": p_value},
        "logloss_difference": metrics.logloss_difference(test, served, full_served).to_json(),
        "roc_difference": {"fpr": ROC_GRID.tolist(), "tpr_difference": tpr_difference.tolist()},
    }


def _check_labels(split: str, labels: Labels) -> None:
    num_positives = int(np.count_nonzero(labels))
    num_negatives = len(labels) - num_positives
    if min(num_positives, num_negatives) < 2:
        raise DataError(
            f"the {split} split cannot be evaluated on: it needs two rows of each label",
            found=f"{num_positives} with label 1, {num_negatives} with label 0",
            fix=f"give the {split} split more rows",
        )


def _check_finite(model: str, split: str, logits: Floats) -> None:
    bad = np.flatnonzero(~np.isfinite(logits))
    if len(bad):
        raise TrainingError(
            f"the {model}'s predictions on the {split} split are not finite",
            found=f"{logits[bad[0]]} at row {bad[0]}, {len(bad)} of {len(logits)} rows in all",
            fix="train again with a lower learning rate, and check the bundle's tables for NaN",
        )
