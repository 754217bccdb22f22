"""Which changes stay when not all may be written, against a sorted list."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mec.quantize.packing import unpack
from mec.refresh.next_codes import NextCodes, recode_vocabulary
from mec.refresh.rewriting import least_saving, limit_rewritten
from tests.refresh.test_next_codes import BASE, BEFORE, HEAD, OWN, SIZE, TAIL_START, WIDTH, _draw, generation_one

TAIL = BASE - TAIL_START


@pytest.mark.parametrize("max_changed", [0, 1, 5, 11, 12, 13])
def test_the_largest_savings_stay(max_changed: int) -> None:
    parts = [torch.tensor([0.0, 3.0, 1.0, 0.0, 7.0]), torch.zeros(0), torch.arange(10.0) + 0.5]
    bound = least_saving(parts, max_changed)
    every = sorted((float(v) for part in parts for v in part if v > 0), reverse=True)
    assert [v for v in every if v > bound] == every[:max_changed]


def test_of_equal_savings_none_stays_that_would_be_too_many() -> None:
    bound = least_saving([torch.tensor([2.0, 5.0, 2.0]), torch.tensor([2.0, 0.0])], 2)
    assert 2.0 <= bound < 5.0


def recoded() -> NextCodes:
    trained = torch.randint(1, 50, (SIZE,), generator=torch.Generator().manual_seed(6))
    return recode_vocabulary("user", _draw(SIZE, WIDTH, seed=4), torch.ones(SIZE), trained, generation_one(), 0.0, 7)


@pytest.mark.parametrize("max_rows", [-HEAD, 0, 4, TAIL, TAIL + 1, TAIL + 5, 100])
def test_changes_that_save_least_are_taken_back(max_rows: int) -> None:
    old, found = generation_one(), recoded()
    kept = limit_rewritten({"user": found}, old, HEAD + max_rows)["user"]
    own = len(OWN) + SIZE - BEFORE
    before = unpack(old.packed["user"], len(OWN), 1, 3)[:, 0]
    full, codes = (unpack(packed, own, 1, 3)[:, 0] for packed in (found.packed, kept.packed))
    changes = np.flatnonzero(full[: len(OWN)] != before).tolist()
    assert changes[0] == 0  # the tail's shared code
    assert len(changes) > 6
    left, stay = max_rows, []
    if max_rows >= TAIL + 1:
        left, stay = max_rows - TAIL - 1, [0]
    stay += sorted(changes[1:], key=lambda place: -float(found.saved[place]))[: max(0, left)]
    assert np.flatnonzero(codes[: len(OWN)] != before).tolist() == sorted(stay)
    assert np.array_equal(codes[stay], full[stay])
    assert np.array_equal(codes[len(OWN) :], full[len(OWN) :])
    assert kept.recounted.to_json() == {
        "changed": len(stay), "held": found.recounted.held + len(changes) - len(stay), "added": SIZE - BEFORE
    }  # fmt: skip


def test_vocabularies_share_what_may_be_written() -> None:
    old, found = generation_one(), recoded()
    weak = NextCodes(found.packed, found.head, found.recounted, found.saved * 1e-6)
    two = {"weak": weak, "user": found}
    layout = replace(old.codebooks.layout, vocabularies=(("user", BASE), ("weak", BASE)))
    old = replace(old, codebooks=replace(old.codebooks, layout=layout))
    for part in (old.packed, old.tail_start, old.sizes, old.bases):
        part["weak"] = part["user"]  # type: ignore[index]
    old.codebooks.coded["weak"] = old.codebooks.coded["user"]  # type: ignore[index]
    old.head["weak"] = weak.head  # type: ignore[index]
    limited = limit_rewritten(two, old, HEAD + TAIL + 1 + 5)
    assert limited["weak"].recounted.changed == 0
    assert limited["user"].recounted.changed == 6
