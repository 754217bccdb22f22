"""Figures: which there are, that they are pictures, and that they show what they should."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from mec.evaluation import figures
from mec.evaluation.figure_style import house_style
from tests.evaluation.made_up import make_evaluation


def _size(png: bytes) -> tuple[int, int]:
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", png[16:24])
    return width, height


@pytest.mark.parametrize("reference", [False, True])
def test_every_figure_is_drawn(reference: bool) -> None:
    drawn = figures.draw_figures(make_evaluation(reference=reference, one_class=True))
    assert set(drawn) == {"roc", "calibration", "bytes", "popularity"}
    for png in drawn.values():
        width, height = _size(png)
        assert width > 900
        assert height > 400


def test_same_numbers_give_the_same_bytes() -> None:
    evaluation = make_evaluation(reference=False)
    assert figures.draw_figures(evaluation) == figures.draw_figures(evaluation)


def test_only_what_there_are_numbers_for() -> None:
    evaluation = make_evaluation(reference=False)
    assert figures.draw_figures({"auc": 0.7}) == {}
    slices = [row | {"auc": None} for row in evaluation["slices"]]
    assert "popularity" not in figures.draw_figures(evaluation | {"slices": slices})


def test_many_vocabularies_share_the_last_bar() -> None:
    rows = [{"vocabulary": f"v{i}", "full": 100 + i, "codes": 0, "codebooks": 0, "rows": 100 + i} for i in range(12)]
    shown = figures._largest(rows)
    assert len(shown) == figures.MAX_VOCABULARIES
    assert shown[-1]["vocabulary"] == "5 others"
    assert sum(row["rows"] for row in shown) == sum(row["rows"] for row in rows)


def test_names_cannot_start_mathematics() -> None:
    names = (r"a$\frac$b$", "x" * 80, "<script>", "_^{")
    assert set(figures.draw_figures(make_evaluation(names=names))) == {"roc", "calibration", "bytes", "popularity"}


def test_roc_draws_both_curves_and_names_their_areas() -> None:
    evaluation = make_evaluation()
    with house_style():
        curve, gap = figures._roc(evaluation).axes
    labels = [text.get_text() for text in curve.get_legend().get_texts()]
    assert labels == [f"compressed {evaluation['auc']:.4f}", f"full table {evaluation['full_auc']:.4f}"]
    assert gap.get_ylabel() == "difference (percentage points)"


def test_findings_claim_only_what_is_beyond_chance() -> None:
    def row(name: str, low: float, high: float) -> dict[str, Any]:
        return {
            "name": name,
            "auc_difference": (low + high) / 2,
            "auc_difference_low": low,
            "auc_difference_high": high,
        }

    chance = [row("tail", -0.01, 0.02), row("head", -0.001, 0.001)]
    assert figures._popularity_finding(chance).endswith("no slice differs beyond chance")
    found = figures._popularity_finding([row("tail", 0.01, 0.02), row("head", -0.003, -0.001)])
    assert found == "AUC against the full table: better on tail (+0.0150); worse on head (\N{MINUS SIGN}0.0020)"
