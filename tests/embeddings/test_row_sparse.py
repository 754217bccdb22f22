"""Row-sparse training: equal to dense Adam where every row is touched, silent about every other row."""

from __future__ import annotations

import torch

from mec.embeddings.full import RowSparseTable


def test_equals_dense_adam_when_every_row_is_in_every_batch() -> None:
    torch.manual_seed(0)
    start = torch.randn(7, 3)
    table = RowSparseTable(7, 3)
    table.weight.copy_(start)
    table.start_training()
    dense = torch.nn.Parameter(start.clone())
    adam = torch.optim.Adam([dense], lr=0.05)
    for step in range(1, 30):
        index = torch.cat([torch.arange(7), torch.randint(0, 7, (20,))])
        target = torch.randn(len(index), 3)
        (table(index) - target).square().mean().backward()
        table.step_rows(step, 0.05)
        adam.zero_grad()
        (dense[index] - target).square().mean().backward()
        adam.step()
    torch.testing.assert_close(table.weight, dense.detach(), rtol=1e-5, atol=1e-6)


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
