"""Row-sparse training: equal to row-wise Adam written out, silent about every other row."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from mec.embeddings.full import RowSparseTable


def test_equals_row_wise_adam_written_out() -> None:
    torch.manual_seed(0)
    table = RowSparseTable(7, 3)
    table.weight.normal_()
    table.start_training()
    weight = table.weight.double()
    first, second = torch.zeros(7, 3, dtype=torch.float64), torch.zeros(7, dtype=torch.float64)
    for step in range(1, 30):
        index, target = torch.randint(0, 7, (5,)), torch.randn(5, 3)
        (table(index) - target).square().mean().backward()
        table.step_rows(step, 0.05)
        grad = torch.zeros(7, 3, dtype=torch.float64)
        for i, row in enumerate(index.tolist()):
            grad[row] += 2 * (weight[row] - target[i]) / target.numel()
        for row in set(index.tolist()):
            first[row] = 0.9 * first[row] + 0.1 * grad[row]
            second[row] = 0.999 * second[row] + 0.001 * sum(float(g) ** 2 for g in grad[row]) / 3
            unbiased = first[row] / (1 - 0.9**step)
            weight[row] -= 0.05 * unbiased / ((second[row] / (1 - 0.999**step)) ** 0.5 + 1e-8)
    torch.testing.assert_close(table.weight.double(), weight, rtol=1e-4, atol=1e-5)


def test_moves_the_rows_of_the_batch_and_no_others() -> None:
    torch.manual_seed(0)
    table = RowSparseTable(100, 4)
    table.weight.normal_()
    table.start_training()
    before = table.weight.clone()
    table(torch.tensor([3, 50, 3])).square().sum().backward()
    table.step_rows(1, 0.1)
    moved = (table.weight != before).any(dim=1).nonzero().flatten().tolist()
    assert moved == [3, 50]
    assert (table.moments != 0).any(dim=1).nonzero().flatten().tolist() == [3, 50]


def test_gradients_of_repeated_rows_add_up() -> None:
    table = RowSparseTable(5, 2)
    table.start_training()
    index = torch.tensor([1, 4, 1, 1])
    rows = table(index)
    (rows * torch.tensor([[1.0], [10.0], [2.0], [4.0]])).sum().backward()
    unique, leaf = table._pending  # type: ignore[misc]
    assert leaf.grad is not None
    gradients = {int(u): float(g[0]) for u, g in zip(unique, leaf.grad, strict=True)}
    assert gradients == {1: 7.0, 4: 10.0}


def test_scoring_keeps_no_gradient() -> None:
    table = RowSparseTable(5, 2)
    assert not table.eval()(torch.tensor([0, 1])).requires_grad


@pytest.fixture
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("num", [1, 7, 40_000])
def test_distinct_rows_come_in_the_order_of_their_last_places(num: int, four_threads: None) -> None:
    table = RowSparseTable(50, 3)
    table.start_training()
    index = torch.randint(50, (num,), generator=torch.Generator().manual_seed(num))
    for _ in range(3):  # what an earlier batch left behind does not matter
        distinct, rows, inverse = table.distinct(index)
        last = {value: place for place, value in enumerate(index.tolist())}
        assert distinct.tolist() == sorted(last, key=lambda value: last[value])
        assert torch.equal(distinct[inverse], index)
        assert torch.equal(rows, table.weight[distinct])
        index = index.flip(0)
