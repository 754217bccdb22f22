"""AUC, intervals, ROC and reliability against known cases, scikit-learn and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from mec.errors import DataError
from mec.evaluation import metrics


def _data(seed: int, num_rows: int, *, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=num_rows).astype(np.float32)
    labels = (rng.random(num_rows) < metrics.sigmoid(logits)).astype(np.uint8)
    return labels, np.round(logits, 1) if ties else logits


def _labels(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.uint8)


@pytest.mark.parametrize(
    ("labels", "scores", "expected"),
    [
        ((0, 1), (0.1, 0.9), 1.0),
        ((1, 0), (0.1, 0.9), 0.0),
        ((0, 1, 0, 1), (5.0, 5.0, 5.0, 5.0), 0.5),
        ((0, 0, 1, 1), (0.1, 0.4, 0.35, 0.8), 0.75),
        ((0, 1, 1), (0.2, 0.2, 0.7), 0.75),
    ],
)
def test_auc_of_known_cases(labels: tuple[int, ...], scores: tuple[float, ...], expected: float) -> None:
    assert metrics.auc(_labels(*labels), np.array(scores)) == expected


@pytest.mark.parametrize("ties", [False, True])
def test_auc_equals_scikit_learn(ties: bool) -> None:
    labels, scores = _data(1, 3000, ties=ties)
    assert metrics.auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


@pytest.mark.parametrize("labels", [(), (1, 1, 1), (0, 0)])
def test_auc_of_one_class_is_an_error(labels: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="too few rows of a label"):
        metrics.auc(_labels(*labels), np.zeros(len(labels)))


def test_logloss_equals_scikit_learn_and_stays_finite() -> None:
    labels, logits = _data(2, 2000)
    assert metrics.logloss(labels, logits) == pytest.approx(log_loss(labels, metrics.sigmoid(logits)), rel=1e-9)
    extreme = metrics.logloss(_labels(0, 1), np.array([1e9, 1e9]))
    assert extreme == pytest.approx(metrics.LOGIT_CLIP / 2, rel=1e-6)


@pytest.mark.parametrize("ties", [False, True])
def test_delong_areas_and_errors_agree_with_the_bootstrap(ties: bool) -> None:
    labels, first = _data(3, 400, ties=ties)
    second = first + np.random.default_rng(4).normal(size=400).astype(np.float32)
    second = np.round(second, 1) if ties else second
    areas, covariance = metrics.delong(labels, [first, second])
    assert areas == pytest.approx([roc_auc_score(labels, first), roc_auc_score(labels, second)])
    rng = np.random.default_rng(5)
    draws = []
    for _ in range(1500):
        rows = rng.integers(0, 400, 400)
        draws.append([metrics.auc(labels[rows], first[rows]), metrics.auc(labels[rows], second[rows])])
    expected = np.cov(np.array(draws).T)
    assert np.sqrt(np.diag(covariance)) == pytest.approx(np.sqrt(np.diag(expected)), rel=0.1)
    assert covariance[0, 1] == pytest.approx(expected[0, 1], rel=0.2)


def test_delong_midranks_equal_the_quadratic_definition() -> None:
    labels, scores = _data(6, 80, ties=True)
    positives, negatives = scores[labels == 1], scores[labels == 0]
    wins = (positives[:, None] > negatives) + 0.5 * (positives[:, None] == negatives)
    expected = wins.mean(axis=1).var(ddof=1) / len(positives) + wins.mean(axis=0).var(ddof=1) / len(negatives)
    _, covariance = metrics.delong(labels, [scores])
    assert covariance[0, 0] == pytest.approx(expected, rel=1e-9)


def test_paired_difference_of_equal_scores_is_nothing() -> None:
    labels, scores = _data(7, 500)
    difference, p_value = metrics.auc_difference(labels, scores, 2 * scores + 1)
    assert difference == metrics.Interval(0.0, 0.0, 0.0)
    assert p_value == 1.0


def test_paired_interval_covers_and_is_narrower_than_an_unpaired_one() -> None:
    covered = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        truth = rng.normal(size=300)
        labels = (rng.random(300) < metrics.sigmoid(truth)).astype(np.uint8)
        first, second = (truth + 0.7 * rng.normal(size=300) for _ in range(2))  # equally good
        difference, p_value = metrics.auc_difference(labels, first, second)
        inside = difference.low <= 0 <= difference.high
        assert inside == (p_value >= 0.05)
        covered += inside
    assert 180 <= covered <= 199  # 95 % of 200, three standard errors either way
    single = metrics.auc_interval(labels, first)
    assert difference.high - difference.low < math.sqrt(2) * (single.high - single.low)


def test_intervals_need_two_rows_of_each_label() -> None:
    with pytest.raises(DataError, match="needs 2 of each"):
        metrics.auc_interval(_labels(0, 0, 1), np.arange(3.0))


@pytest.mark.parametrize("ties", [False, True])
def test_roc_points_are_few_finite_and_hold_the_area(ties: bool) -> None:
    labels, logits = _data(8, 20_000, ties=ties)
    points = metrics.roc_points(labels, metrics.sigmoid(logits))
    fpr, tpr, thresholds = (np.array([p[name] for p in points]) for name in ("fpr", "tpr", "threshold"))
    assert len(points) <= 200
    assert np.isfinite([fpr, tpr, thresholds]).all()
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
    assert (np.diff(fpr) >= 0).all()
    assert (np.diff(thresholds) < 0).all()
    assert np.trapezoid(tpr, fpr) == pytest.approx(metrics.auc(labels, logits), abs=5e-4)
    middle = len(points) // 2
    flagged = metrics.sigmoid(logits) >= thresholds[middle]
    assert flagged[labels == 1].mean() == pytest.approx(tpr[middle])


def test_tpr_at_reads_the_whole_curve() -> None:
    labels, scores = _labels(0, 1, 0, 1), np.array([0.1, 0.35, 0.4, 0.8])
    assert metrics.tpr_at(labels, scores, np.array([0.0, 0.25, 0.5, 1.0])).tolist() == [0.5, 0.75, 1.0, 1.0]


def test_reliability_bins_hold_every_row_once() -> None:
    labels, logits = _data(9, 10_000)
    probabilities = metrics.sigmoid(logits)
    bins = metrics.reliability_bins(labels, probabilities)
    assert len(bins) == 20
    assert sum(b["rows"] for b in bins) == 10_000
    assert max(b["rows"] for b in bins) <= 501
    assert sum(b["rows"] * b["label_mean"] for b in bins) == pytest.approx(labels.sum())
    inside = [b["label_low"] <= b["prediction_mean"] <= b["label_high"] for b in bins]
    assert sum(inside) >= 17  # these predictions are the true probabilities
    assert metrics.calibration_error(bins) < 0.02
    assert metrics.calibration_error(metrics.reliability_bins(labels, probabilities / 2)) > 0.2


def test_reliability_of_one_prediction_is_one_bin() -> None:
    bins = metrics.reliability_bins(_labels(0, 1, 0, 0), np.full(4, 0.5))
    assert [(b["rows"], b["prediction_mean"], b["label_mean"]) for b in bins] == [(4, 0.5, 0.25)]
    assert metrics.calibration_error(bins) == 0.25


def test_wilson_interval_of_a_published_case() -> None:
    assert metrics.wilson_interval(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert metrics.wilson_interval(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)


def test_histogram_counts_every_row_by_label() -> None:
    labels, logits = _data(10, 1000)
    histogram = metrics.score_histogram(labels, metrics.sigmoid(logits))
    assert sum(histogram["positives"]) == labels.sum()
    assert sum(histogram["negatives"]) == 1000 - labels.sum()
    assert len(histogram["edges"]) == 41


def test_logloss_difference_is_the_difference() -> None:
    labels, logits = _data(11, 2000)
    difference = metrics.logloss_difference(labels, logits, 2 * logits)
    assert difference.value == pytest.approx(metrics.logloss(labels, logits) - metrics.logloss(labels, 2 * logits))
    assert difference.low < difference.value < difference.high < 0


@pytest.mark.parametrize("num_rows", range(1, 60))
def test_wilson_interval_holds_the_share_whatever_the_rounding(num_rows: int) -> None:
    for num_positives in (0, num_rows // 3, num_rows):
        low, high = metrics.wilson_interval(num_positives, num_rows)
        assert 0 <= low <= num_positives / num_rows <= high <= 1
