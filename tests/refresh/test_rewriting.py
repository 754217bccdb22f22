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


def wanted(found: NextCodes, max_rows: int) -> tuple[set[int], set[int]]:
    """Places and head rows that may change, by a list of all changes: the worth of a row, its number of rows, what."""
    every = [(float(v), 1, ("place", i)) for i, v in enumerate(found.saved) if i and v > 0]
    every += [(float(v), 1, ("head", i)) for i, v in enumerate(found.head_saved) if v > 0]
    every.append((float(found.saved[0]) / (TAIL + 1), TAIL + 1, ("place", 0)))
    stay, left = [], max_rows
    for _, rows, what in sorted(every, reverse=True):
        if rows <= left:
            stay.append(what)
            left -= rows
    return {i for kind, i in stay if kind == "place"}, {i for kind, i in stay if kind == "head"}


@pytest.mark.parametrize("shared_worth", [0.0, 1e-3, 1.0, 1e6])
@pytest.mark.parametrize("max_rows", [0, 1, 4, TAIL, TAIL + 1, TAIL + 5, 25, 100])
def test_what_saves_most_for_each_row_stays(max_rows: int, shared_worth: float) -> None:
    old, found = generation_one(), recoded()
    assert float(found.saved[0]) > 0  # the tail's shared code
    if shared_worth:
        saved = found.saved.clone()
        saved[0] *= shared_worth
        found = replace(found, saved=saved)
    kept = limit_rewritten({"user": found}, old, max_rows)["user"]
    places, heads = wanted(found, max_rows)
    own = len(OWN) + SIZE - BEFORE
    before = unpack(old.packed["user"], len(OWN), 1, 3)[:, 0]
    full, codes = (unpack(packed, own, 1, 3)[:, 0] for packed in (found.packed, kept.packed))
    changes = set(np.flatnonzero(full[: len(OWN)] != before).tolist())
    assert len(changes) > 6
    assert set(np.flatnonzero(codes[: len(OWN)] != before).tolist()) == places
    assert np.array_equal(codes[sorted(places)], full[sorted(places)])
    assert np.array_equal(codes[len(OWN) :], full[len(OWN) :])
    for i in range(HEAD):
        assert torch.equal(kept.head[i], found.head[i] if i in heads else old.head["user"][i])
    num_held = found.recounted.held + len(changes) - len(places)
    assert kept.recounted.to_json() == {"changed": len(places), "held": num_held, "added": SIZE - BEFORE}


def test_vocabularies_share_what_may_be_written() -> None:
    old, found = generation_one(), recoded()
    layout = replace(old.codebooks.layout, vocabularies=(("user", BASE), ("weak", BASE)))
    old = replace(old, codebooks=replace(old.codebooks, layout=layout))
    weak = replace(found, saved=found.saved * 1e-6, head_saved=found.head_saved * 1e-6)
    for part in (old.packed, old.tail_start, old.sizes, old.bases, old.head):
        part["weak"] = part["user"]  # type: ignore[index]
    old.codebooks.coded["weak"] = old.codebooks.coded["user"]  # type: ignore[index]
    limited = limit_rewritten({"weak": weak, "user": found}, old, 6)
    assert limited["weak"].recounted.changed == 0
    assert torch.equal(limited["weak"].head, old.head["user"])
    heads = int((limited["user"].head != old.head["user"]).any(1).sum())
    assert limited["user"].recounted.changed + heads == 6


def test_nothing_coded_is_nothing_to_limit() -> None:
    assert limit_rewritten({}, generation_one(), 0) == {}
