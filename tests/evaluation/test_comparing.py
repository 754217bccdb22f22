"""Backbones side by side: which is best, by how much, and what the table and the page say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mec.errors import BundleError
from mec.evaluation.comparing import (
    Candidate,
    compare_backbones,
    comparison_markdown,
    comparison_page,
    comparison_table,
    draw_comparison,
    heading,
)
from mec.evaluation.metrics import auc
from tests.evaluation.test_bootstrap import made

PROMOTED = {"model": "shop-pnn", "model_version": 3, "aliases": ["champion"], "decision": {"promote": True}}
ALONE = {"model": None, "model_version": None, "aliases": [], "decision": {"promote": True}}


@pytest.fixture
def candidates() -> list[Candidate]:
    labels, (good, poor) = made(500)

    def candidate(name, logits, registration, **more) -> Candidate:
        evaluation = {"auc": auc(labels, logits), "logloss": 0.5, "ratio": 20.0, "bytes": {"codes": 7, "rows": 3}}
        return Candidate(name, labels, logits, evaluation | more, 1234, 61.5, registration)

    return [candidate("lr", poor, ALONE), candidate("pnn", good, PROMOTED, full_auc=0.9, full_logloss=0.4)]


def test_the_best_and_the_difference_to_it(candidates):
    found = compare_backbones(candidates, seed=0, num_resamples=100)
    assert (found["best"], found["num_test_rows"], found["num_resamples"]) == ("pnn", 500, 100)
    models = found["models"]
    assert list(models) == ["lr", "pnn"]
    assert models["pnn"]["auc_difference"] is None
    assert models["lr"]["auc_difference"]["value"] == pytest.approx(models["lr"]["auc"] - models["pnn"]["auc"])
    assert models["lr"]["auc_difference"]["high"] < 0
    assert models["lr"]["embedding_bytes"] == 10
    assert "full_auc" not in models["lr"]
    assert heading(found) == f"PNN is best of 2: AUC {models['pnn']['auc']:.4f}"


def test_the_same_model_twice_is_within_chance(candidates):
    twin = replace(candidates[1], backbone="twin")
    found = compare_backbones([candidates[0], twin, candidates[1]], seed=0, num_resamples=50)
    assert found["best"] == "twin"
    assert found["models"]["pnn"]["auc_difference"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert heading(found).endswith("within chance of the next")


def test_the_table_lists_the_best_first(candidates):
    table = comparison_table(compare_backbones(candidates, seed=0, num_resamples=50))
    rows = [dict(zip(table.heads, row.cells, strict=True)) for row in table.rows]
    assert [row["backbone"] for row in rows] == ["PNN", "LR"]
    assert [row["registered"] for row in rows] == ["shop-pnn v3, champion", "not registered"]
    assert [row["full AUC"] for row in rows] == ["0.9000", "\N{EN DASH}"]
    assert (rows[0]["parameters"], rows[0]["training"], rows[0]["fewer bytes"]) == (
        "1,234",
        "61.5 s",
        "20\N{MULTIPLICATION SIGN}",
    )


def test_markdown_and_page_hold_table_and_figure(candidates):
    found = compare_backbones(candidates, seed=0, num_resamples=50)
    assert "| PNN | 0." in comparison_markdown(found)
    figure = draw_comparison(found)
    assert figure.startswith(b"\x89PNG")
    page = comparison_page(found, figure, name="<shop>")
    assert "data:image/png;base64," in page
    assert "<shop>" not in page
    assert "shop-pnn v3, champion" in page


def test_other_rows_and_doubles_are_refused(candidates):
    other = candidates[1].labels.copy()
    other[[0, np.flatnonzero(other != other[0])[0]]] = other[[np.flatnonzero(other != other[0])[0], 0]]
    with pytest.raises(BundleError, match="pnn was measured on other test rows than lr"):
        compare_backbones([candidates[0], replace(candidates[1], labels=other)], seed=0)
    with pytest.raises(BundleError, match="twice"):
        compare_backbones([candidates[0], candidates[0]], seed=0)
