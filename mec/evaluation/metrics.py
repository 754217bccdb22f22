"""AUC, logloss, reliability and ROC of binary predictions, with intervals for paired comparisons."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mec.errors import DataError

Floats = NDArray[np.floating[Any]]
Labels = NDArray[np.uint8]

LOGIT_CLIP = math.log(1e15)  # probabilities are kept within 1e-15 of 0 and 1
NORMAL_95 = 1.959963984540054  # two-sided 95 % quantile of the normal distribution


@dataclass(frozen=True)
class Interval:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        return {"value": self.value, "low": self.low, "high": self.high}


def sigmoid(logits: Floats) -> NDArray[np.float64]:
    """Probabilities of logits, without overflow."""
    return np.asarray(np.exp(-np.logaddexp(0.0, -logits.astype(np.float64))))


def auc(labels: Labels, scores: Floats) -> float:
    """Area under the ROC curve, exact: the share of (positive, negative) pairs in right order, ties half.

    Args:
        labels: (N,) 0 or 1.
        scores: (N,) finite, higher means more likely 1.

    Raises:
        DataError: The labels hold one class only.
    """
    positives, negatives = _counts_by_score(labels, scores)
    num_positives, num_negatives = int(positives.sum()), int(negatives.sum())
    _require_rows(num_positives, num_negatives)
    below = np.cumsum(negatives) - negatives
    half_wins = int(np.sum(positives * (2 * below + negatives)))  # pairs won count 2, ties 1
    return half_wins / (2 * num_positives * num_negatives)


def logloss(labels: Labels, logits: Floats) -> float:
    """Mean binary cross-entropy in nats.

    Args:
        labels: (N,) 0 or 1.
        logits: (N,) log-odds, clipped to probabilities within 1e-15 of 0 and 1.
    """
    return float(_row_losses(labels, logits).mean())


def logloss_difference(labels: Labels, logits: Floats, other: Floats) -> Interval:
    """Mean difference in logloss, ``logits`` minus ``other``, over the same rows."""
    differences = _row_losses(labels, logits) - _row_losses(labels, other)
    mean = float(differences.mean())
    half = NORMAL_95 * float(differences.std()) / math.sqrt(max(len(differences) - 1, 1))
    return Interval(mean, mean - half, mean + half)


def auc_interval(labels: Labels, scores: Floats) -> Interval:
    """AUC with DeLong's 95 % interval; needs two rows of each class."""
    areas, covariance = delong(labels, [scores])
    half = NORMAL_95 * math.sqrt(max(float(covariance[0, 0]), 0.0))
    value = float(areas[0])
    return Interval(value, max(value - half, 0.0), min(value + half, 1.0))


def auc_difference(labels: Labels, scores: Floats, other: Floats) -> tuple[Interval, float]:
    """Paired difference of two AUCs on the same rows, ``scores`` minus ``other``.

    Returns:
        The difference with DeLong's 95 % interval, and the two-sided p-value of "no difference".
    """
    areas, covariance = delong(labels, [scores, other])
    difference = float(areas[0] - areas[1])
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    error = math.sqrt(max(variance, 0.0))
    if error == 0.0:
        return Interval(difference, difference, difference), 1.0 if difference == 0.0 else 0.0
    p_value = math.erfc(abs(difference) / error / math.sqrt(2.0))
    return Interval(difference, difference - NORMAL_95 * error, difference + NORMAL_95 * error), p_value


def delong(labels: Labels, scores: list[Floats]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """AUCs of R models on the same rows and the covariance of their errors.

    DeLong, DeLong and Clarke-Pearson (1988) in the O(N log N) midrank form of Sun and Xu (2014),
    "Fast implementation of DeLong's algorithm", IEEE Signal Processing Letters 21(11), algorithm 2.

    Args:
        labels: (N,) 0 or 1, at least two of each.
        scores: R arrays (N,).

    Returns:
        (R,) AUCs and (R, R) covariance.

    Raises:
        DataError: Fewer than two rows of a class.
    """
    positive = labels == 1
    num_positives = int(positive.sum())
    num_negatives = len(labels) - num_positives
    _require_rows(num_positives, num_negatives, least=2)
    areas = np.empty(len(scores))
    wins = np.empty((len(scores), num_positives))  # share of negatives below each positive
    losses = np.empty((len(scores), num_negatives))  # share of positives above each negative
    for model, values in enumerate(scores):
        ranks = _midranks(values)
        wins[model] = (ranks[positive] - _midranks(values[positive])) / num_negatives
        losses[model] = 1.0 - (ranks[~positive] - _midranks(values[~positive])) / num_positives
        areas[model] = wins[model].mean()
    covariance = np.atleast_2d(np.cov(wins)) / num_positives + np.atleast_2d(np.cov(losses)) / num_negatives
    return areas, covariance


def roc_points(labels: Labels, scores: Floats, num_points: int = 200) -> list[dict[str, float]]:
    """The ROC curve as at most ``num_points`` finite points, evenly spaced along it, ends included.

    Returns:
        ``fpr``, ``tpr`` and ``threshold`` each, by falling threshold; a row counts as positive when
        its score is at least the threshold.
    """
    fpr, tpr, thresholds = _roc(labels, scores)
    along = (fpr + tpr) / 2  # strictly rising from 0 to 1
    chosen = np.unique(np.searchsorted(along, np.linspace(0.0, 1.0, num_points)).clip(max=len(along) - 1))
    return [{"fpr": float(fpr[i]), "tpr": float(tpr[i]), "threshold": float(thresholds[i])} for i in chosen]


def tpr_at(labels: Labels, scores: Floats, fpr: NDArray[np.float64]) -> NDArray[np.float64]:
    """True positive rate of the unthinned ROC curve at given false positive rates."""
    x, y, _ = _roc(labels, scores)
    last = np.append(x[1:] != x[:-1], True)  # the top of each vertical piece
    return np.asarray(np.interp(fpr, x[last], y[last]), dtype=np.float64)


def reliability_bins(labels: Labels, probabilities: Floats, num_bins: int = 20) -> list[dict[str, float]]:
    """Mean prediction against mean label in bins of about equal row counts.

    Equal predictions share a bin. ``label_low`` and ``label_high`` are Wilson's 95 % interval.
    """
    edges = np.unique(np.quantile(probabilities, np.linspace(0.0, 1.0, num_bins + 1)[1:-1]))
    bins = np.searchsorted(edges, probabilities, side="left")
    rows = np.bincount(bins, minlength=len(edges) + 1)
    predicted = np.bincount(bins, weights=probabilities, minlength=len(edges) + 1)
    positives = np.bincount(bins, weights=labels, minlength=len(edges) + 1)
    result = []
    for n, prediction_sum, positive_sum in zip(rows, predicted, positives, strict=True):
        if n:
            low, high = wilson_interval(float(positive_sum), int(n))
            result.append(
                {
                    "rows": int(n),
                    "prediction_mean": float(prediction_sum / n),
                    "label_mean": float(positive_sum / n),
                    "label_low": low,
                    "label_high": high,
                }
            )
    return result


def calibration_error(bins: list[dict[str, float]]) -> float:
    """Expected calibration error: mean over rows of the bins' |mean prediction - mean label|."""
    rows = sum(b["rows"] for b in bins)
    return sum(b["rows"] * abs(b["prediction_mean"] - b["label_mean"]) for b in bins) / rows


def score_histogram(labels: Labels, probabilities: Floats, num_bins: int = 40) -> dict[str, list[float]]:
    """Row counts by label over predictions, in equal bins from 0 to the greatest prediction."""
    edges = np.linspace(0.0, max(float(probabilities.max()), 1e-12), num_bins + 1)
    positive = labels == 1
    return {
        "edges": edges.tolist(),
        "negatives": np.histogram(probabilities[~positive], edges)[0].tolist(),
        "positives": np.histogram(probabilities[positive], edges)[0].tolist(),
    }


def wilson_interval(num_positives: float, num_rows: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share; rounding puts neither end past the share itself."""
    share, z2 = num_positives / num_rows, NORMAL_95**2
    centre = (share + z2 / (2 * num_rows)) / (1 + z2 / num_rows)
    half = NORMAL_95 / (1 + z2 / num_rows) * math.sqrt(share * (1 - share) / num_rows + z2 / (4 * num_rows**2))
    return min(max(centre - half, 0.0), share), max(min(centre + half, 1.0), share)


def _row_losses(labels: Labels, logits: Floats) -> NDArray[np.float64]:
    clipped = np.clip(logits.astype(np.float64), -LOGIT_CLIP, LOGIT_CLIP)
    return np.asarray(np.logaddexp(0.0, clipped) - labels * clipped)


def _counts_by_score(labels: Labels, scores: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    order, starts = _tie_groups(scores)
    if not len(order):
        empty = np.zeros(0, dtype=np.int64)
        return empty, empty
    positives = np.add.reduceat(labels[order].astype(np.int64), starts)
    rows = np.diff(np.append(starts, len(order)))
    return positives, rows - positives


def _roc(labels: Labels, scores: Floats) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    positives, negatives = _counts_by_score(labels, scores)
    num_positives, num_negatives = int(positives.sum()), int(negatives.sum())
    _require_rows(num_positives, num_negatives)
    tpr = np.append(0.0, np.cumsum(positives[::-1]) / num_positives)
    fpr = np.append(0.0, np.cumsum(negatives[::-1]) / num_negatives)
    distinct = np.unique(scores.astype(np.float64))[::-1]
    # No row reaches the first threshold, yet it is finite: the Kubeflow ROC artifact takes no inf.
    return fpr, tpr, np.append(np.nextafter(distinct[0], np.inf), distinct)


def _tie_groups(values: Floats) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    order = np.argsort(values)
    ordered = values[order]
    return order, np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)])


def _midranks(values: Floats) -> NDArray[np.float64]:
    order, starts = _tie_groups(values)
    ends = np.append(starts[1:], len(order))
    ranks = np.empty(len(order))
    ranks[order] = np.repeat((starts + 1 + ends) / 2, ends - starts)  # ranks from 1
    return ranks


def _require_rows(num_positives: int, num_negatives: int, least: int = 1) -> None:
    if min(num_positives, num_negatives) < least:
        raise DataError(
            f"too few rows of a label for an AUC{' with an interval' if least > 1 else ''}: it needs {least} of each",
            found=f"{num_positives} with label 1, {num_negatives} with label 0",
            fix="evaluate on more rows, or split the data so that the test split holds both labels",
        )
