"""The latency table compares like with like."""

from __future__ import annotations

import time

import pytest
import torch

from mec.data.layout import FieldLayout, FieldSlots
from mec.evaluation.latency import full_table_lookup, lookup_latency

LAYOUT = FieldLayout(
    (FieldSlots("a", "categorical", "a", 0, 1, "none"), FieldSlots("b", "categorical", "b", 1, 1, "none")),
    (("a", 5), ("b", 7)),
)


def test_full_lookup_reads_each_vocabularys_own_rows() -> None:
    ids = torch.tensor([[0, 0], [4, 6], [0, 1]], dtype=torch.int32)
    rows = full_table_lookup(LAYOUT, 3)(ids)
    assert rows.shape == (3, 2, 4)
    assert torch.equal(rows[0, 0], rows[2, 0])
    assert not torch.equal(rows[0, 0], rows[0, 1])
    assert rows.unique(dim=None).numel() > 12


def test_slower_side_is_slower_and_threads_come_back() -> None:
    threads = torch.get_num_threads()
    seen = []

    def slow(ids: torch.Tensor) -> torch.Tensor:
        seen.append(torch.get_num_threads())
        time.sleep(0.004)
        return ids

    found = lookup_latency(slow, lambda ids: ids, torch.zeros(10, 2, dtype=torch.int32), repeats=5)
    assert found["compressed_ms"] >= 4
    assert found["ratio"] == pytest.approx(found["compressed_ms"] / found["full_ms"])
    assert found["compressed_ms_low"] <= found["compressed_ms"] <= found["compressed_ms_high"]
    assert (found["rows"], found["slots"], found["repeats"], found["threads"]) == (10, 2, 5, 1)
    assert set(seen) == {1}
    assert torch.get_num_threads() == threads


def test_a_stand_in_for_a_huge_table_stays_small() -> None:
    layout = FieldLayout((FieldSlots("f", "categorical", "f", 0, 1, "none"),), (("f", 2_000_000_000),))
    rows = full_table_lookup(layout, 31)(torch.tensor([[1_999_999_999], [7]], dtype=torch.int32))
    assert rows.shape == (2, 1, 32)
