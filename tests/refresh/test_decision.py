"""What becomes of a refresh, case by case."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from mec.errors import ConfigError
from mec.evaluation.metrics import Interval
from mec.refresh.decision import Bounds, Measured, decide

NAN = math.nan


def around(value: float, half: float = 0.01) -> Interval:
    return Interval(value, value - half, value + half)


BASE = Measured(
    num_positives=1000,
    num_negatives=3000,
    auc_stale=around(0.80),
    auc_refreshed=around(0.81),
    auc_difference=around(0.01, 0.002),
    logloss_difference=around(-0.004, 0.001),
    auc_at_training=around(0.815),
)


def _with(difference: Interval, **changes: Any) -> Measured:
    refreshed = around(BASE.auc_stale.value + difference.value)
    return replace(BASE, **({"auc_refreshed": refreshed, "auc_difference": difference} | changes))


LOW = {"auc_stale": around(0.70), "auc_refreshed": around(0.71)}
FAR_BELOW = {"auc_stale": around(0.60), "auc_refreshed": around(0.61)}
CASES = [
    # name, measured, bounds, action, words in the reasons
    ("first run", None, {}, "escalate", "no champion"),
    ("better", BASE, {}, "promote", "0.810000 refreshed, 0.800000 stale"),
    ("better by a hair, and shown", _with(Interval(2e-6, 1e-6, 3e-6)), {}, "promote", "above 0.000000"),
    ("better, but not shown", _with(around(0.001, 0.002)), {}, "keep", "not shown to lie above 0.000000"),
    ("interval that begins at 0", _with(Interval(0.001, 0.0, 0.002)), {}, "keep", "not shown to lie above"),
    ("not shown, but within the drop", _with(around(0.001, 0.002)), {"max_auc_drop": 0.0015}, "promote", "-0.001500"),
    ("worse within the drop", _with(around(-0.001, 0.0005)), {"max_auc_drop": 0.002}, "promote", "above -0.002000"),
    ("low end exactly at the drop", _with(Interval(-0.25, -0.5, 0)), {"max_auc_drop": 0.5}, "keep", "not shown"),
    ("worse", _with(around(-0.01, 0.002)), {}, "keep", "-0.010000 (-0.012000 to -0.008000)"),
    ("a tie", _with(around(0.0, 0.0)), {}, "keep", "a tie"),
    ("a tie with a drop allowed", _with(around(0.0, 0.0)), {"max_auc_drop": 0.01}, "keep", "a tie"),
    ("no change on average is no tie", _with(around(0.0, 0.001)), {"max_auc_drop": 0.01}, "promote", "lies above"),
    ("logloss shown to rise", replace(BASE, logloss_difference=around(0.01, 0.001)), {}, "keep", "logloss rises"),
    ("logloss perhaps risen", replace(BASE, logloss_difference=around(0.001, 0.002)), {}, "promote", "logloss"),
    (
        "logloss risen within its bound",
        replace(BASE, logloss_difference=around(0.01, 0.001)),
        {"max_logloss_rise": 0.01},
        "promote",
        "a rise of 0.010000 allowed",
    ),
    ("refreshed under the absolute bound", BASE, {"min_auc": 0.82}, "escalate", "0.810000 on refreshed codes is not"),
    ("refreshed at the absolute bound", BASE, {"min_auc": 0.81}, "escalate", "not above the bound 0.810000"),
    ("refreshed lifts it over the bound", BASE, {"min_auc": 0.805}, "promote", "refreshed"),
    (
        "worse, and stale under the bound",
        _with(around(-0.01, 0.002)),
        {"min_auc": 0.805},
        "escalate",
        "0.800000 on stale codes is not above the bound 0.805000 | the change in AUC",
    ),
    ("worse, and stale above the bound", _with(around(-0.01, 0.002)), {"min_auc": 0.795}, "keep", "not shown"),
    (
        "declined since training",
        replace(BASE, **LOW),
        {"max_auc_decline": 0.02},
        "escalate",
        "(at least 0.090858) below",
    ),
    ("declined beyond the default", replace(BASE, **FAR_BELOW), {}, "escalate", "0.205000 (at least 0.190858) below"),
    ("declined within the bound", replace(BASE, **LOW), {"max_auc_decline": 0.11}, "promote", "refreshed"),
    ("declined within the intervals", replace(BASE, **LOW), {"max_auc_decline": 0.0909}, "promote", "refreshed"),
    ("declined beyond the intervals", replace(BASE, **LOW), {"max_auc_decline": 0.0908}, "escalate", "allowed"),
    ("better than at training", replace(BASE, auc_at_training=around(0.7)), {"max_auc_decline": 0.0}, "promote", ""),
    ("too few positives", replace(BASE, num_positives=99), {}, "keep", "too little data: 99 rows of label 1"),
    ("too few negatives", replace(BASE, num_negatives=99), {}, "keep", "99 of label 0"),
    ("just enough", replace(BASE, num_positives=100), {}, "promote", "refreshed"),
    ("too little data never escalates", replace(BASE, num_positives=9), {"min_auc": 0.99}, "keep", "too little"),
    ("refreshed AUC NaN", replace(BASE, auc_refreshed=around(NAN)), {}, "keep", "auc_refreshed is not finite"),
    ("stale AUC NaN", replace(BASE, auc_stale=around(NAN)), {}, "keep", "auc_stale is not finite"),
    ("difference NaN", replace(BASE, auc_difference=around(NAN)), {}, "keep", "auc_difference is not finite"),
    ("interval NaN", replace(BASE, auc_difference=Interval(0.1, NAN, 0.2)), {}, "keep", "auc_difference is not"),
    ("logloss infinite", replace(BASE, logloss_difference=around(math.inf)), {}, "keep", "logloss_difference is not"),
    ("NaN at training", replace(BASE, auc_at_training=around(NAN)), {}, "keep", "auc_at_training is not finite"),
]


@pytest.mark.parametrize(("measured", "bounds", "action", "words"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_decide(measured: Measured | None, bounds: dict[str, float], action: str, words: str) -> None:
    decision = decide(measured, Bounds(**bounds))
    assert decision.action == action
    assert words in " | ".join(decision.reasons)
    json.dumps(decision.to_json(), allow_nan=False)


def test_every_reason_is_named() -> None:
    measured = _with(around(-0.2, 0.01), logloss_difference=around(0.1, 0.01), auc_stale=around(0.4))
    assert len(decide(measured, Bounds()).reasons) == 4


def test_the_numbers_are_all_there() -> None:
    numbers = decide(replace(BASE, auc_refreshed=Interval(0.81, NAN, 0.82)), Bounds(min_auc=0.6)).numbers
    assert numbers["auc_stale"] == 0.80
    assert numbers["auc_refreshed_low"] is None
    assert numbers["logloss_difference_high"] == pytest.approx(-0.003)
    assert numbers["bound_min_auc"] == 0.6
    assert numbers["num_negatives"] == 3000
    assert len(numbers) == 5 + 2 + 5 * 3


@pytest.mark.parametrize("bounds", [{"min_auc": NAN}, {"max_auc_drop": -0.1}, {"max_auc_decline": math.inf}])
def test_bounds_that_are_none_are_refused(bounds: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"the bound {next(iter(bounds))} must be"):
        Bounds(**bounds)


def test_the_decision_imports_nothing_heavy() -> None:
    code = "import sys, mec.refresh.decision; print([m for m in ('torch', 'numpy', 'pyarrow') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
