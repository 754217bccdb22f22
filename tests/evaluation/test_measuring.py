"""The numbers of an evaluation: complete, finite, and of the right model on the right split."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from mec.errors import DataError, TrainingError
from mec.evaluation import metrics
from mec.evaluation.calibration import fit_calibration
from mec.evaluation.measuring import Logits, evaluate_predictions
from tests.evaluation.made_up import make_evaluation


def _rows(num_rows: int = 400) -> tuple[np.ndarray, Logits]:
    rng = np.random.default_rng(3)
    logits = rng.normal(size=2 * num_rows).astype(np.float32)
    labels = (rng.random(2 * num_rows) < metrics.sigmoid(0.5 * logits - 1)).astype(np.uint8)
    return labels, Logits(logits[:num_rows], logits[num_rows:])


def _numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [n for v in value.values() for n in _numbers(v)]
    if isinstance(value, list):
        return [n for v in value for n in _numbers(v)]
    return [float(value)] if isinstance(value, (int, float)) else []


def test_calibrated_on_validation_and_judged_on_test() -> None:
    labels, logits = _rows()
    valid, test = labels[:400], labels[400:]
    found = evaluate_predictions(valid_labels=valid, test_labels=test, compressed=logits)
    calibration = fit_calibration(valid, logits.valid)
    assert found["calibration"] == calibration.to_json()
    assert found["logloss"] == metrics.logloss(test, calibration.apply(logits.test))
    assert found["logloss_uncalibrated"] == metrics.logloss(test, logits.test)
    assert found["logloss"] < found["logloss_uncalibrated"]
    assert found["auc"] == metrics.auc(test, logits.test)
    assert found["auc_low"] < found["auc"] < found["auc_high"]
    assert (found["num_valid_rows"], found["num_test_rows"]) == (400, 400)


def test_test_labels_do_not_reach_the_calibration() -> None:
    labels, logits = _rows()
    flipped = evaluate_predictions(valid_labels=labels[:400], test_labels=1 - labels[400:], compressed=logits)
    straight = evaluate_predictions(valid_labels=labels[:400], test_labels=labels[400:], compressed=logits)
    assert flipped["calibration"] == straight["calibration"]


def test_each_model_has_its_own_calibration() -> None:
    labels, logits = _rows()
    other = Logits(3 * logits.valid + 1, 3 * logits.test + 1)
    found = evaluate_predictions(valid_labels=labels[:400], test_labels=labels[400:], compressed=logits, full=other)
    assert found["calibration"]["scale"] == pytest.approx(3 * found["full_calibration"]["scale"], rel=1e-4)
    assert found["logloss"] == pytest.approx(found["full_logloss"], rel=1e-6)
    assert found["auc_difference"]["value"] == pytest.approx(0, abs=1e-9)
    assert np.abs(found["roc_difference"]["tpr_difference"]).max() < 1e-9


@pytest.mark.parametrize("one_class", [False, True])
@pytest.mark.parametrize("reference", [False, True])
def test_json_is_strict_and_finite(reference: bool, one_class: bool) -> None:
    evaluation = make_evaluation(reference=reference, one_class=one_class)
    again = json.loads(json.dumps(evaluation, allow_nan=False))
    assert np.isfinite(_numbers(again)).all()
    assert ("full_auc" in again) is reference
    unseen = again["slices"][0]
    assert (unseen["auc"] is None) is one_class


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(
    ("place", "named"), [("valid", "model's predictions on the validation"), ("test", "test split")]
)
def test_predictions_that_are_not_finite_are_an_error(place: str, named: str, value: float) -> None:
    labels, logits = _rows()
    getattr(logits, place)[7] = value
    with pytest.raises(TrainingError, match=f"{named}.*at row 7, 1 of 400"):
        evaluate_predictions(valid_labels=labels[:400], test_labels=labels[400:], compressed=logits)


def test_the_reference_is_named_where_it_fails() -> None:
    labels, logits = _rows()
    broken = Logits(logits.valid, np.full_like(logits.test, np.nan))
    with pytest.raises(TrainingError, match="full-table reference"):
        evaluate_predictions(valid_labels=labels[:400], test_labels=labels[400:], compressed=logits, full=broken)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_split_of_one_class_is_an_error(split: str) -> None:
    labels, logits = _rows()
    valid, test = labels[:400].copy(), labels[400:].copy()
    (valid if split == "validation" else test)[:] = 1
    with pytest.raises(DataError, match=f"the {split} split cannot be evaluated"):
        evaluate_predictions(valid_labels=valid, test_labels=test, compressed=logits)
