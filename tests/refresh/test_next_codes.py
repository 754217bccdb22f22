"""One grown vocabulary with head, tail and appended values, frozen and renewed, against a loop over its values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from mec.config import QuantizeConfig
from mec.data.layout import FieldLayout, FieldSlots
from mec.progress import Progress
from mec.quantize.codebook import Codebooks
from mec.quantize.codes import Codes
from mec.quantize.packing import pack, unpack
from mec.quantize.residual import ResidualCodebook
from mec.refresh.next_codes import growing_plan, recode_vocabulary, renew_vocabulary

HEAD, TAIL_START, BASE, BEFORE, SIZE, WIDTH, K = 3, 30, 40, 44, 50, 4, 8
OWN = [0, *range(HEAD + 1, TAIL_START), *range(BASE, BEFORE)]  # ids with a code of their own, generation 1


def _draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def generation_one() -> Codes:
    """Codes that are not the nearest ones, so that a value that is coded again changes its code."""
    layout = FieldLayout((FieldSlots("user", "categorical", "user", 0, 1, "none"),), (("user", BASE),))
    book = ResidualCodebook(_draw(1, K, WIDTH, seed=1))
    books = Codebooks("space", layout, WIDTH - 1, {"user": book}, {}, "float32", "uuid")
    drawn = np.random.default_rng(2).integers(0, K, (len(OWN), 1)).astype(np.uint16)
    return Codes(
        books, {"user": pack(drawn, 3)}, 1, 0, head={"user": _draw(HEAD, WIDTH, seed=3)},
        tail_start={"user": TAIL_START}, sizes={"user": BEFORE}, bases={"user": BASE},
    )  # fmt: skip


def nearest(row: Tensor, codewords: Tensor) -> int:
    return int((codewords - row).square().sum(1).argmin())


@pytest.mark.parametrize("trained_place", ["none of them", "id 0", "a tail value"])
@pytest.mark.parametrize("hysteresis", [0.0, 0.8])
def test_frozen_against_a_loop(hysteresis: float, trained_place: str) -> None:
    old, rows = generation_one(), _draw(SIZE, WIDTH, seed=4)
    weights = torch.rand(SIZE, generator=torch.Generator().manual_seed(5))
    trained = torch.randint(-3, 6, (SIZE,), generator=torch.Generator().manual_seed(6)).clamp(min=0)
    trained[0] = trained_place == "id 0"
    trained[TAIL_START:BASE] = 0
    trained[TAIL_START + 4] = trained_place == "a tail value"
    found = recode_vocabulary("user", rows, weights, trained, old, hysteresis, 7)
    before = {
        value: int(code) for value, code in zip(OWN, unpack(old.packed["user"], len(OWN), 1, 3)[:, 0], strict=True)
    }
    own, codewords = [*OWN, *range(BEFORE, SIZE)], old.codebooks.coded["user"].codewords[0]
    codes = unpack(found.packed, len(own), 1, 3)[:, 0].tolist()
    shared = [0, *range(TAIL_START, BASE)]
    changed = 0
    for place, value in enumerate(own):
        row = rows[value]
        is_trained = bool(trained[value])
        if value == 0:
            row = sum(weights[i] * rows[i] for i in shared) / sum(weights[i] for i in shared)
            is_trained = trained_place != "none of them"
        wanted = nearest(row, codewords)
        if value < BEFORE:
            errors = [float((codewords[code] - row).square().sum()) for code in (wanted, before[value])]
            if not is_trained or errors[0] >= (1 - hysteresis) * errors[1]:
                wanted = before[value]
            changed += wanted != before[value]
        assert codes[place] == wanted
    for value in range(1, HEAD + 1):
        assert torch.equal(found.head[value - 1], rows[value] if trained[value] else old.head["user"][value - 1])
        moved = float((rows[value] - old.head["user"][value - 1]).square().sum())
        assert float(found.head_saved[value - 1]) == pytest.approx(int(trained[value]) * moved, rel=1e-6)
    assert found.recounted.to_json() == {"changed": changed, "held": found.recounted.held, "added": SIZE - BEFORE}
    assert changed > 0
    assert (found.recounted.held > 0) == (hysteresis > 0)


def test_renewed_codes_are_the_nearest_codewords_of_their_values() -> None:
    old, rows = generation_one(), _draw(SIZE, WIDTH, seed=4)
    weights = torch.rand(SIZE, generator=torch.Generator().manual_seed(5)) + 0.1
    plan = growing_plan(old, "user", SIZE)
    assert (plan.head, plan.tail_start, plan.base) == (HEAD, TAIL_START, BASE)
    settings = QuantizeConfig(num_codewords=K, floats="float32")
    table = renew_vocabulary("user", rows.clone(), weights, plan, settings, 0, Progress("recode", 2 * SIZE))
    own = [*OWN, *range(BEFORE, SIZE)]
    codes = unpack(table.packed, len(own), 1, 3)[:, 0].tolist()
    shared = [0, *range(TAIL_START, BASE)]
    for place, value in enumerate(own):
        row = rows[value]
        if value == 0:
            row = sum(weights[i] * rows[i] for i in shared) / sum(weights[i] for i in shared)
        assert codes[place] == nearest(row, table.book.codewords[0])
    assert torch.equal(table.head, rows[1 : HEAD + 1])
    assert table.oov_code == [codes[0]]
    assert not torch.equal(table.book.codewords, old.codebooks.coded["user"].codewords)


def test_a_vocabulary_that_does_not_grow_keeps_its_plan() -> None:
    old = generation_one()
    assert growing_plan(old, "user", BEFORE) == old.plan("user")
