"""Conformance of compression methods: what becomes of values that are not in training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mec.embeddings.full import RowSparseTable
from mec.embeddings.method import Method
from mec.testing_method_data import SLOTS, every_id, inputs

if TYPE_CHECKING:
    from mec.testing_methods import Maker


def unseen_problems(make: Maker, stepped: Callable[[Method[Any]], Method[Any]]) -> Iterator[str]:
    """Table rows that no value in training looks up are filled: once finished, nothing depends on what they held.

    Id 0 is not in training, nor are a vocabulary's last values.

    Args:
        make: The method.
        stepped: Trains it for some steps.

    Yields:
        What is wrong.
    """
    own = inputs(unknown=0)
    first, second = (_finished(stepped(make(own)), noise) for noise in (1, 2))
    places = ((first != second).any(dim=2) & ~_seen()).nonzero().tolist()
    for row, slot in places[:1]:
        value = f"id {int(every_id()[row, slot])} of {SLOTS[slot]!r}, which is not in training,"
        yield f"finish fills no row for {value} but leaves what was drawn"


@torch.no_grad()
def _finished(method: Method[Any], noise: int) -> Tensor:
    """(B, S, D + 1) rows of a finished method, where rows that training never touches held noise before."""
    touched: dict[nn.Module, Tensor] = {}

    def note(table: nn.Module, arguments: tuple[Tensor]) -> None:
        assert isinstance(table, RowSparseTable)
        touched.setdefault(table, torch.zeros(len(table.weight), dtype=torch.bool))[arguments[0]] = True

    tables = [module for module in method.modules() if isinstance(module, RowSparseTable)]
    hooks = [table.register_forward_pre_hook(note) for table in tables]
    method.train()(torch.where(_seen(), every_id(), 1))  # id 1 is in training
    for hook in hooks:
        hook.remove()
    generator = torch.Generator().manual_seed(noise)
    for table, rows in touched.items():
        assert isinstance(table, RowSparseTable)
        table.weight[~rows] = torch.randn(table.weight[~rows].shape, generator=generator)
    method.finish()
    found: Tensor = method.eval()(every_id())
    return found


def _seen() -> Tensor:
    """(B, S) bool, which of ``every_id`` are in training."""
    ids, counts = every_id(), inputs(unknown=0).counts
    return torch.stack([torch.from_numpy(counts[n] > 0)[ids[:, i].long()] for i, n in enumerate(SLOTS)], dim=1)
