"""Bias and scale of the output, refitted on recent rows: the base rate moves faster than a backbone ages."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mec.errors import ConfigError, TrainingError
from mec.evaluation.calibration import Calibration, fit_calibration
from mec.evaluation.metrics import Floats, Interval, Labels, logloss_difference


@dataclass(frozen=True)
class Recalibration:
    """What a refit came to.

    Attributes:
        calibration: To serve from now on: the refitted one, or the one in service.
        is_refitted: Which of the two it is.
        change: Logloss of refitted minus current, in nats, on rows that each refit did not see; None without a refit.
        reason: Why, for people.
    """

    calibration: Calibration
    is_refitted: bool
    change: Interval | None
    reason: str

    def to_json(self) -> dict[str, object]:
        return {
            "calibration": self.calibration.to_json(),
            "is_refitted": self.is_refitted,
            "change": None if self.change is None else self.change.to_json(),
            "reason": self.reason,
        }


def recalibrate(
    labels: Labels, logits: Floats, current: Calibration, *, min_rows_per_label: int = 100
) -> Recalibration:
    """Refit Platt's scale and bias on recent rows, unless that is shown to do harm.

    Harm is judged by two-fold cross-fitting: a calibration fitted on every other row of each label is judged on the
    rest, and the other way round. What is served is fitted on all rows.

    Args:
        labels: (N,) 0 or 1, recent rows that the final evaluation does not use.
        logits: (N,) uncalibrated logits of the untouched backbone on the codes to be served.
        current: The calibration in service.
        min_rows_per_label: With fewer rows of either label the current one stays.

    Raises:
        ConfigError: ``min_rows_per_label`` is below 2.
        TrainingError: A logit is not finite.
    """
    if min_rows_per_label < 2:
        raise ConfigError("a refit needs two rows of each label", found=min_rows_per_label, fix="set it to 2 or more")
    if not np.isfinite(logits).all():
        raise TrainingError(
            "cannot calibrate predictions that are not finite",
            found=f"{int((~np.isfinite(logits)).sum())} of {len(logits)} logits",
            fix="look at the refreshed vectors: they hold NaN or infinity",
        )
    positives = int(np.count_nonzero(labels))
    if min(positives, len(labels) - positives) < min_rows_per_label:
        reason = (
            f"{positives} rows of label 1 and {len(labels) - positives} of label 0, {min_rows_per_label} of each "
            "needed to refit"
        )
        return Recalibration(current, False, None, reason)
    change = logloss_difference(labels, _cross_fitted(labels, logits), current.apply(logits))
    shown = f"{change.value:+.6f} ({change.low:+.6f} to {change.high:+.6f}) in logloss on rows not fitted on"
    if change.low > 0:
        return Recalibration(current, False, change, f"a refit is worse by {shown}")
    return Recalibration(fit_calibration(labels, logits), True, change, f"refitted, {shown}")


def _cross_fitted(labels: Labels, logits: Floats) -> NDArray[np.float64]:
    """(N,) calibrated logits, each by the half of the rows that it is not in."""
    half = np.empty(len(labels), dtype=np.int64)
    for label in (0, 1):
        rows = np.flatnonzero(labels == label)
        half[rows] = np.arange(len(rows)) % 2
    result = np.empty(len(labels), dtype=np.float64)
    for fold in (0, 1):
        mine = half == fold
        result[mine] = fit_calibration(labels[~mine], logits[~mine]).apply(logits[mine])
    return result
