"""One vocabulary coded: exact head, shared tail, codewords rounded before codes are chosen, against slow loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from mec.config import QuantizeConfig
from mec.errors import ConfigError, TrainingError
from mec.quantize.coding import CodedTable, code_table
from mec.quantize.fit_watch import FitWatch
from mec.quantize.packing import unpack
from mec.quantize.plan import Structure, VocabularyPlan
from mec.quantize.storage import refuse_vanishing, stored
from tests.quantize.tables import clustered, zipf_counts

SIZE, WIDTH = 400, 5


def coded(
    rows: Tensor, weights: Tensor, plan: VocabularyPlan, floats: str = "float16", chunk_rows: int = 256
) -> tuple[CodedTable, Tensor]:
    """What is kept, and (V, W) rows as they are read from it, value by value."""
    settings = QuantizeConfig.model_validate({"floats": floats, "chunk_rows": chunk_rows})
    counted: list[int] = []
    table = code_table(
        "user", rows.clone(), weights.clone(), plan, settings, seed=0, watch=FitWatch(), coded=counted.append
    )
    num_coded = plan.coded(len(rows))
    assert sum(counted) == num_coded
    codes = torch.from_numpy(unpack(table.packed, num_coded, plan.num_codes, plan.bits))
    stream = table.book.decode(codes)
    read = []
    for value in range(len(rows)):
        if 1 <= value <= plan.head:
            read.append(table.head[value - 1].float())
        else:
            read.append(stream[value - plan.head if plan.head < value < plan.head + num_coded else 0])
    return table, torch.stack(read)


def made(oov_count: int = 0) -> tuple[Tensor, Tensor]:
    counts = zipf_counts(SIZE)
    counts[0] = oov_count
    return torch.from_numpy(clustered(SIZE, WIDTH)), torch.from_numpy(np.sqrt(counts).astype(np.float32))


@pytest.mark.parametrize(("head", "tail_start"), [(0, SIZE), (30, SIZE), (0, 200), (30, 200)])
@pytest.mark.parametrize(("structure", "num_codes"), [("residual", 1), ("product", 2)])
def test_head_is_exact_and_the_rest_reads_its_nearest_codewords(
    structure: Structure, num_codes: int, head: int, tail_start: int
) -> None:
    rows, weights = made(oov_count=9)
    plan = VocabularyPlan(structure, num_codes, 8, head, tail_start)
    table, read = coded(rows, weights, plan)
    assert table.head.dtype == torch.float16
    assert torch.equal(read[1 : head + 1], rows[1 : head + 1].half().float())
    codewords = table.book.codewords
    assert torch.equal(codewords, codewords.half().float())
    for value in (head + 1, 77, tail_start - 1):
        if structure == "residual":
            nearest = (rows[value] - codewords[0]).square().sum(1).argmin()
            assert torch.equal(read[value], codewords[0][nearest])
        else:
            for part in (slice(0, 3), slice(3, 5)):
                nearest = (rows[value, part] - codewords[:, part]).square().sum(1).argmin()
                assert torch.equal(read[value, part], codewords[nearest, part])
    assert all(torch.equal(read[value], read[0]) for value in range(tail_start, SIZE))
    errors = (read - rows).square().sum(1)
    assert table.quality.distortion == pytest.approx(float((errors * weights).sum()), rel=1e-4)
    center = (weights[:, None] * rows).sum(0) / weights.sum()
    variance = float(((rows - center).square().sum(1) * weights).sum())
    assert table.quality.variance == pytest.approx(variance, rel=1e-4)
    assert (table.quality.head, table.quality.coded) == (head, tail_start - head)


@pytest.mark.parametrize("oov_count", [0, 5000])
def test_the_tail_shares_the_code_of_its_weighted_mean(oov_count: int) -> None:
    rows, weights = made(oov_count)
    rows[0] = 60.0
    table, read = coded(rows, weights, VocabularyPlan("residual", 1, 64, 20, 250))
    total, mean = 0.0, np.zeros(WIDTH)
    for value in (0, *range(250, SIZE)):
        weight = float(weights[value])
        total, mean = total + weight, mean + weight * rows[value].double().numpy()
    distances = (torch.from_numpy(mean / total).float() - table.book.codewords[0]).square().sum(1)
    assert table.oov_code == [int(distances.argmin())]
    assert torch.equal(read[0], table.book.codewords[0][distances.argmin()])


def test_id_0_is_coded_by_its_own_row_without_a_tail() -> None:
    rows, weights = made()
    rows[0] = 3.0
    table, read = coded(rows, weights, VocabularyPlan("residual", 1, 16, head=10))
    distances = (rows[0] - table.book.codewords[0]).square().sum(1)
    assert torch.equal(read[0], table.book.codewords[0][distances.argmin()])


def test_head_and_tail_do_not_shape_the_codebook_but_by_the_tails_mean() -> None:
    rows, weights = made()
    plan = VocabularyPlan("residual", 1, 8, 50, 250)
    one, _ = coded(rows, weights, plan)
    changed = rows.clone()
    changed[1:51] += 5
    changed[250] += 10 / weights[250]
    changed[251] -= 10 / weights[251]
    other, _ = coded(changed, weights, plan)
    torch.testing.assert_close(one.book.codewords, other.book.codewords, rtol=0, atol=2e-3)
    assert not torch.equal(one.head, other.head)


def test_chunks_change_nothing() -> None:
    rows, weights = made(3)
    plan = VocabularyPlan("residual", 2, 8, 7, 390)
    small, large = (coded(rows, weights, plan, chunk_rows=n)[0] for n in (256, 65_536))
    assert np.array_equal(small.packed, large.packed)
    assert small.quality.distortion == pytest.approx(large.quality.distortion)


def test_codes_are_nearest_among_rounded_codewords() -> None:
    """Codewords so close together that rounding them moves the border between them."""
    generator = torch.Generator().manual_seed(0)
    rows = 300 + torch.rand(SIZE, 1, generator=generator)  # float16 has steps of 0.25 here
    table, read = coded(rows, torch.ones(SIZE), VocabularyPlan("residual", 1, 16))
    distances = (rows - table.book.codewords[0].T).abs()  # (V, K)
    assert torch.equal((rows - read).abs()[:, 0], distances.amin(1))
    _, finer = coded(rows, torch.ones(SIZE), VocabularyPlan("residual", 1, 16), floats="float32")
    assert float((rows - finer).abs().max()) < float((rows - read).abs().max())


def test_rows_and_codewords_beyond_float16() -> None:
    rows, weights = made()
    rows[3, 1] = 65_505.0
    with pytest.raises(ConfigError, match=r"a row of vocabulary 'user' cannot be stored as float16.*found: 65505"):
        coded(rows, weights, VocabularyPlan("residual", 1, 8, head=3))
    with pytest.raises(ConfigError, match=r"a codeword of vocabulary 'user' cannot be stored"):
        coded(rows, weights, VocabularyPlan("residual", 1, 128))
    coded(rows, weights, VocabularyPlan("residual", 1, 8, head=3), floats="float32")
    assert float(stored(torch.tensor([-65_504.0]), "float16", "x")) == -65_504
    with pytest.raises(ConfigError, match="cannot be stored"):
        stored(torch.tensor([0.0, float("nan")]), "float16", "x")


@pytest.mark.parametrize("head", [0, 30])
def test_tables_that_float16_rounds_to_nothing(head: int) -> None:
    rows, weights = made()
    plan = VocabularyPlan("residual", 1, 16, head)
    with pytest.raises(ConfigError, match=r"the rows of vocabulary 'user' are too small for float16.*found: .*e-09"):
        coded(rows * 1e-9, weights, plan)
    table, read = coded(rows * 1e-9, weights, plan, floats="float32")
    assert table.quality.explained_variance == pytest.approx(
        coded(rows, weights, plan, floats="float32")[0].quality.explained_variance, abs=1e-3
    )
    assert torch.equal(read[1 : 1 + head], rows[1 : 1 + head] * 1e-9)


def test_small_is_what_float16_has_no_normal_numbers_for() -> None:
    least = 2.0**-14
    for rows in (torch.zeros(3, 2), torch.empty(0, 2), torch.tensor([[-least, 1e-9]])):
        refuse_vanishing(rows, "float16", "x")
    below = torch.tensor([[0.0, -least * (1 - 2**-20)]])
    refuse_vanishing(below, "float32", "x")
    with pytest.raises(ConfigError, match="x are too small for float16"):
        refuse_vanishing(below, "float16", "x")


def test_nothing_behind_the_head_was_seen() -> None:
    rows, weights = made()
    weights[11:] = 0
    with pytest.raises(TrainingError, match="no value of vocabulary 'user' that would be coded was seen"):
        coded(rows, weights, VocabularyPlan("residual", 1, 8, head=10))
