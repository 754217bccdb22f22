"""Rows by their numbers have the values and the gradient of ``torch.nn.functional.embedding``, bit for bit."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from mec.lookup import rows_at


def drawn(num_rows: int, width: int, num: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(num)
    table, upstream = torch.randn(num_rows, width, generator=generator), torch.randn(num, width, generator=generator)
    return table, torch.randint(num_rows, (num,), generator=generator).to(dtype), upstream


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize(("num_rows", "width", "num"), [(7, 3, 100), (100, 17, 30), (5, 1, 4), (5, 4, 0)])
def test_values_and_gradient_are_those_of_embedding(num_rows, width, num, dtype):
    table, index, upstream = drawn(num_rows, width, num, dtype)
    expected = functional.embedding(index.long(), table.requires_grad_())
    (gradient,) = torch.autograd.grad(expected, table, upstream)
    found = rows_at(table, index)
    assert torch.equal(found, expected)
    assert torch.equal(torch.autograd.grad(found, table, upstream)[0], gradient)
    with torch.no_grad():
        assert torch.equal(rows_at(table, index), expected)
    assert torch.equal(rows_at(table.detach(), index), expected)


def test_columns_of_a_wider_table_get_its_gradient():
    table, index, upstream = drawn(9, 6, 50, torch.int32)
    table.requires_grad_()
    rows_at(table[:, 2:5], index).backward(upstream[:, 2:5])
    expected = torch.zeros(9, 6).index_add_(0, index, upstream)
    torch.testing.assert_close(table.grad[:, 2:5], expected[:, 2:5])
    assert not table.grad[:, [0, 1, 5]].any()


@pytest.mark.parametrize("trained", [False, True])
def test_a_number_beyond_the_table(trained):
    with pytest.raises((IndexError, RuntimeError)):
        rows_at(torch.zeros(3, 2).requires_grad_(trained), torch.tensor([0, 3]))


def test_a_step_on_a_cpu_does_not_take_the_slow_way(monkeypatch):
    def refuse(*_: object) -> None:
        raise AssertionError("embedding's gradient")

    monkeypatch.setattr(functional, "embedding", refuse)
    rows_at(torch.zeros(3, 2).requires_grad_(), torch.tensor([0, 2])).sum().backward()
