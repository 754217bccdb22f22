"""Popularity slices by counts made by hand."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest

from mec.data.layout import FieldLayout, FieldSlots
from mec.evaluation.metrics import auc, logloss
from mec.evaluation.slices import EMPTY, NAMES, RAREST, RAREST_CODED, Slicing, slice_metrics, slice_rows, value_slices

UNSEEN, TAIL, TORSO, HEAD = range(4)


@dataclass(frozen=True)
class Rows:
    ids: np.ndarray
    weights: np.ndarray | None = None


def _field(
    name: str, slot: int, vocabulary: str | None = None, num_slots: int = 1, kind: str = "categorical"
) -> FieldSlots:
    pooling = "mean" if kind == "sequence" else "none"
    return FieldSlots(name, kind, vocabulary or name, slot, num_slots, pooling)  # type: ignore[arg-type]


def test_values_by_share_of_impressions() -> None:
    counts = np.array([7, 50, 20, 20, 5, 5, 0])  # id 0: out of vocabulary, its count is nobody's
    assert value_slices(counts).tolist() == [UNSEEN, HEAD, TORSO, TORSO, TAIL, TAIL, UNSEEN]


def test_ids_need_not_be_in_order_of_count() -> None:
    assert value_slices(np.array([0, 5, 20, 50, 5, 20])).tolist() == [UNSEEN, TAIL, TORSO, HEAD, TAIL, TORSO]


def test_equal_counts_share_a_slice() -> None:
    assert set(value_slices(np.array([0, *[3] * 100]))[1:]) == {HEAD}


def test_a_row_belongs_to_its_rarest_coded_value() -> None:
    layout = FieldLayout((_field("a", 0), _field("b", 1), _field("c", 2)), (("a", 5), ("b", 5), ("c", 2)))
    counts = {name: np.array([0, 50, 40, 5, 5]) for name in ("a", "b")} | {"c": np.array([0, 9])}
    ids = np.array([[1, 1, 0], [1, 2, 1], [3, 2, 1], [4, 0, 1]], dtype=np.int32)
    rarest, by_a, by_b = slice_rows([Rows(ids[:3]), Rows(ids[3:])], layout, counts, ["a", "b"])
    assert rarest.by == RAREST_CODED
    assert rarest.row_slices.tolist() == [HEAD, TORSO, TAIL, UNSEEN]
    assert (by_a.by, by_a.row_slices.tolist()) == ("a", [HEAD, HEAD, TAIL, TAIL])
    assert (by_b.by, by_b.row_slices.tolist()) == ("b", [HEAD, TORSO, TORSO, UNSEEN])


def test_empty_slots_and_numbers_are_no_values() -> None:
    layout = FieldLayout(
        (_field("x", 0, kind="linear"), _field("items", 1, "item", 2, "sequence")), (("x", 2), ("item", 4))
    )
    counts = {"x": np.array([1, 99]), "item": np.array([0, 80, 15, 5])}
    ids = np.array([[1, 1, 0], [0, 1, 3], [1, 0, 0], [1, 0, 0]], dtype=np.int32)
    weights = np.array([[0.3, 1, 0], [1, 0.5, 0.5], [0.2, 0, 0], [0.2, 1, 0]], dtype=np.float32)
    (only,) = slice_rows([Rows(ids, weights)], layout, counts, ["item"])
    assert only.row_slices.tolist() == [HEAD, TAIL, EMPTY, UNSEEN]


def test_without_coded_vocabularies_all_count() -> None:
    layout = FieldLayout((_field("a", 0), _field("b", 1)), (("a", 3), ("b", 3)))
    counts = {"a": np.array([0, 9, 1]), "b": np.array([0, 9, 1])}
    slicings = slice_rows([Rows(np.array([[1, 2]], dtype=np.int32))], layout, counts, [])
    assert slicings[0].by == RAREST
    assert slicings[0].row_slices.tolist() == [TAIL]


def _cut(*slices: int) -> Slicing:
    return Slicing("item", ("item",), np.array(slices, dtype=np.uint8))


def test_metrics_of_each_slice() -> None:
    rng = np.random.default_rng(0)
    cut = Slicing("item", ("item",), rng.integers(1, 4, 600).astype(np.uint8))
    labels = rng.integers(0, 2, 600).astype(np.uint8)
    logits, full = labels + rng.normal(size=600), labels + 2 * rng.normal(size=600)
    rows = slice_metrics(cut, labels, logits, full)
    assert [row["name"] for row in rows] == ["tail", "torso", "head"]
    assert sum(row["rows"] for row in rows) == 600
    assert sum(row["share"] for row in rows) == pytest.approx(1)
    chosen = cut.row_slices == NAMES.index("torso")
    torso = rows[1]
    assert torso["label_mean"] == labels[chosen].mean()
    assert torso["auc"] == pytest.approx(auc(labels[chosen], logits[chosen]))
    assert torso["full_auc"] == pytest.approx(auc(labels[chosen], full[chosen]))
    assert torso["full_logloss"] == logloss(labels[chosen], full[chosen])
    assert torso["auc_difference"] == pytest.approx(torso["auc"] - torso["full_auc"])
    assert torso["auc_difference_low"] < torso["auc_difference"] < torso["auc_difference_high"]


def test_one_class_gives_null_and_a_reason() -> None:
    labels = np.array([1, 1, 0, 1, 0, 1, 0], dtype=np.uint8)
    logits = np.arange(7.0)
    tail, torso, head = slice_metrics(_cut(1, 1, 2, 2, 3, 3, 3), labels, logits, logits)
    assert tail["auc"] is tail["full_auc"] is tail["auc_difference"] is None
    assert tail["auc_reason"] == "all rows have label 1"
    assert torso["auc"] == 1.0
    assert torso["auc_low"] is torso["auc_difference_low"] is None
    assert torso["auc_reason"].startswith("one row of a label")
    assert head["auc"] == 0.5
    json.dumps([tail, torso, head], allow_nan=False)


def test_without_a_reference_no_full_numbers() -> None:
    (row,) = slice_metrics(_cut(3, 3, 3, 3), np.array([0, 1, 0, 1], dtype=np.uint8), np.arange(4.0))
    assert not [key for key in row if "full" in key or "difference" in key]
