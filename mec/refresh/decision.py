"""What becomes of a refresh: one pure function, no input or output.

Promote the new codes, keep the old ones, or keep them and escalate to the train pipeline, because the backbone itself
is no longer good enough.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from mec.errors import ConfigError

if TYPE_CHECKING:
    from mec.evaluation.metrics import Interval

Action = Literal["promote", "keep", "escalate"]


@dataclass(frozen=True)
class Measured:
    """The untouched backbone on held-out new rows.

    Attributes:
        num_positives: Rows of label 1.
        num_negatives: Rows of label 0.
        auc_stale: On the codes in service, with its 95 % interval.
        auc_refreshed: On the new codes, same rows.
        auc_difference: Refreshed minus stale, paired.
        logloss_difference: Refreshed minus stale, paired, in nats, each calibrated as it is, or would be, served.
        auc_at_training: Of the backbone when it was trained, on the test rows of then.
    """

    num_positives: int
    num_negatives: int
    auc_stale: Interval
    auc_refreshed: Interval
    auc_difference: Interval
    logloss_difference: Interval
    auc_at_training: Interval


@dataclass(frozen=True)
class Bounds:
    """How good a refresh must be.

    Attributes:
        min_auc: Absolute bound: an AUC in service that is not above it escalates.
        max_auc_decline: Change bound: so far below its AUC at training the backbone may fall in service; a decline
            beyond it that is larger than the 95 % interval of both AUCs explains escalates. In AUC.
        max_auc_drop: The new codes must be shown to lose no more than this against the stale ones: the low end of the
            paired interval must lie above -max_auc_drop. 0: they must be shown to be better.
        max_logloss_rise: New codes that are shown to raise the logloss by more than this are kept back. In nats.
        min_rows_per_label: With fewer rows of either label nothing is decided.
    """

    min_auc: float = 0.5
    max_auc_decline: float = 0.1
    max_auc_drop: float = 0.0
    max_logloss_rise: float = 0.0
    min_rows_per_label: int = 100

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"the bound {name} must be a number of at least 0", found=value, fix="correct it")


@dataclass(frozen=True)
class Decision:
    """What to do, every reason that counted, and the numbers they rest on (None: not finite)."""

    action: Action
    reasons: tuple[str, ...]
    numbers: dict[str, float | None]

    def to_json(self) -> dict[str, object]:
        return {"action": self.action, "reasons": list(self.reasons), "numbers": self.numbers}


def decide(measured: Measured | None, bounds: Bounds) -> Decision:
    """Decide on a refresh.

    Too few rows, or numbers that are not finite, keep the codes in service. Else new codes are good enough if they are
    shown to be no worse than allowed; equal predictions keep the old ones, for nothing is gained by the switch. Of
    the codes that would then be in service, the AUC must be above the absolute bound and within the change bound, or
    the refresh escalates, and the codes in service stay until a new space is trained.

    Args:
        measured: Stale and refreshed codes on the same rows; None if there is no champion whose codes to refresh.
        bounds: The bounds.
    """
    numbers = _numbers(measured, bounds)
    if measured is None:
        return Decision("escalate", ("there is no champion to refresh: the train pipeline makes the first",), numbers)
    if undecided := _why_undecided(measured, bounds):
        return Decision("keep", undecided, numbers)
    against = _against_refreshed(measured, bounds)
    serving = measured.auc_stale if against else measured.auc_refreshed
    too_low = _why_escalate(serving, "stale" if against else "refreshed", measured, bounds)
    if too_low:
        return Decision("escalate", (*too_low, *against), numbers)
    if against:
        return Decision("keep", against, numbers)
    auc, logloss = measured.auc_difference, measured.logloss_difference
    reasons = (
        f"AUC {measured.auc_refreshed.value:.6f} refreshed, {measured.auc_stale.value:.6f} stale: the change, "
        f"{_shown(auc)}, lies above {-bounds.max_auc_drop or 0:.6f}",
        f"the logloss changes by {_shown(logloss)}, a rise of {bounds.max_logloss_rise:.6f} allowed",
    )
    return Decision("promote", reasons, numbers)


def _why_undecided(measured: Measured, bounds: Bounds) -> tuple[str, ...]:
    least = bounds.min_rows_per_label
    if min(measured.num_positives, measured.num_negatives) < least:
        return (
            f"too little data: {measured.num_positives} rows of label 1 and {measured.num_negatives} of label 0, "
            f"{least} of each needed",
        )
    return tuple(f"{name} is not finite: {i}" for name, i in _intervals(measured).items() if not _is_finite(i))


def _against_refreshed(measured: Measured, bounds: Bounds) -> tuple[str, ...]:
    """Why the new codes are not good enough; empty if they are."""
    against = []
    auc, logloss = measured.auc_difference, measured.logloss_difference
    if auc.low == auc.value == auc.high == 0.0:
        against.append("a tie: no pair of rows changes its order, so nothing is gained by the switch")
    elif not auc.low > -bounds.max_auc_drop:
        shown = f"the change in AUC, {_shown(auc)}, is not shown to lie above {-bounds.max_auc_drop or 0:.6f}"
        against.append(shown)
    if logloss.low > bounds.max_logloss_rise:
        against.append(f"the logloss rises by {_shown(logloss)}, more than the {bounds.max_logloss_rise:.6f} allowed")
    return tuple(against)


def _why_escalate(serving: Interval, codes: str, measured: Measured, bounds: Bounds) -> tuple[str, ...]:
    reasons = []
    if not serving.value > bounds.min_auc:
        reasons.append(f"AUC {serving.value:.6f} on {codes} codes is not above the bound {bounds.min_auc:.6f}")
    before = measured.auc_at_training
    decline = before.value - serving.value
    # two independent samples: the errors of both add up in squares
    error = math.hypot(before.value - before.low, serving.high - serving.value)
    if decline - error > bounds.max_auc_decline:
        reasons.append(
            f"AUC {serving.value:.6f} on {codes} codes is {decline:.6f} (at least {decline - error:.6f}) below the "
            f"{before.value:.6f} at training, {bounds.max_auc_decline:.6f} allowed"
        )
    return tuple(reasons)


def _intervals(measured: Measured) -> dict[str, Interval]:
    return {
        "auc_stale": measured.auc_stale,
        "auc_refreshed": measured.auc_refreshed,
        "auc_difference": measured.auc_difference,
        "logloss_difference": measured.logloss_difference,
        "auc_at_training": measured.auc_at_training,
    }


def _is_finite(interval: Interval) -> bool:
    return all(math.isfinite(x) for x in (interval.value, interval.low, interval.high))


def _numbers(measured: Measured | None, bounds: Bounds) -> dict[str, float | None]:
    found: dict[str, float] = {f"bound_{name}": value for name, value in asdict(bounds).items()}
    if measured is not None:
        found |= {"num_positives": measured.num_positives, "num_negatives": measured.num_negatives}
        for name, interval in _intervals(measured).items():
            found |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
    return {name: value if math.isfinite(value) else None for name, value in found.items()}


def _shown(interval: Interval) -> str:
    return f"{interval.value:+.6f} ({interval.low:+.6f} to {interval.high:+.6f})"
