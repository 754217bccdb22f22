"""The gate, case by case."""

import math
import subprocess
import sys
from dataclasses import replace

import pytest

from mec.config import GateConfig
from mec.tracking.gate import Metrics, decide

BASE = Metrics(auc=0.80, logloss=0.5, num_rows=1000, data_version="d1", split="s1")
NAN = math.nan


def _at(auc: float, **changes: object) -> Metrics:
    return replace(BASE, auc=auc, **changes)


CASES = [
    # name, challenger, champion, gate, promote, words in the reasons
    ("first model above the bound", _at(0.80), None, {}, True, "no champion"),
    ("first model below the bound", _at(0.49), None, {}, False, "not above the bound 0.500000"),
    ("first model exactly at the bound", _at(0.70), None, {"min_auc": 0.7}, False, "not above the bound"),
    ("first model with NaN AUC", _at(NAN), None, {}, False, "not finite"),
    ("first model with infinite AUC", _at(math.inf), None, {}, False, "not finite"),
    ("first model with NaN logloss", _at(0.80, logloss=NAN), None, {}, False, "not finite"),
    ("better than the champion", _at(0.81), _at(0.80), {}, True, "champion has 0.800000"),
    ("better by one bit", _at(math.nextafter(0.80, 1)), _at(0.80), {}, True, "champion has"),
    ("a tie", _at(0.80), _at(0.80), {}, False, "tie"),
    ("a tie with a drop allowed", _at(0.80), _at(0.80), {"max_auc_drop": 0.01}, False, "tie"),
    ("worse by one bit", _at(math.nextafter(0.80, 0)), _at(0.80), {}, False, "below the champion's"),
    ("worse within the drop", _at(0.795), _at(0.80), {"max_auc_drop": 0.01}, True, "a drop of 0.010000"),
    ("worse by exactly the drop", _at(0.75), _at(1.0), {"max_auc_drop": 0.25}, True, "a drop of 0.250000"),
    ("worse beyond the drop", _at(0.785), _at(0.80), {"max_auc_drop": 0.01}, False, "below the champion's"),
    ("better, but under the bound", _at(0.55), _at(0.52), {"min_auc": 0.6}, False, "not above the bound"),
    ("NaN against a champion", _at(NAN), _at(0.80), {}, False, "not finite"),
    ("champion with NaN", _at(0.80), _at(NAN), {}, False, "champion's AUC is nan"),
    ("other data version", _at(0.90), _at(0.80, data_version="d0"), {}, False, "data version 'd0' against 'd1'"),
    ("other number of rows", _at(0.90), _at(0.80, num_rows=999), {}, False, "test rows 999 against 1000"),
    ("other split of the same data", _at(0.90), _at(0.80, split="s0"), {}, False, "test split 's0' against 's1'"),
    ("champion without records", _at(0.90), Metrics(NAN, NAN, 0, "", ""), {}, False, "not comparable"),
    ("recomputed on the challenger's rows", _at(0.90), _at(0.80), {}, True, "on the same rows"),
]


@pytest.mark.parametrize(
    ("challenger", "champion", "gate", "promote", "words"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_decide(
    challenger: Metrics, champion: Metrics | None, gate: dict[str, float], promote: bool, words: str
) -> None:
    decision = decide(challenger, champion, GateConfig(**gate))
    assert decision.promote is promote
    assert words in " | ".join(decision.reasons)


def test_every_failure_is_named() -> None:
    decision = decide(_at(0.40), _at(0.80), GateConfig())
    assert len(decision.reasons) == 2


def test_the_gate_imports_nothing_heavy() -> None:
    heavy = ("torch", "mlflow", "feast", "numpy", "pandas")
    code = f"import sys, mec.tracking.gate; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
