"""The processes that train one model together: their numbers, their parts of a batch, and sums over all of them.

With one process, the default, nothing is exchanged and every method gives back what it was given.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from mec.data.dataset import Batch
from mec.devices import find_device
from mec.steps import StepRecord, reported_errors, step

_WAIT = timedelta(hours=6)  # while the first process aligns and writes; torchrun notices those that die
_SEED_STEP = 7_919


@dataclass(frozen=True)
class Processes:
    """One process among those that train together.

    Attributes:
        rank: Its number, from 0.
        num: How many there are.
    """

    rank: int = 0
    num: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that shows progress and writes bundles."""
        return self.rank == 0

    def part(self, num_rows: int) -> slice:
        """This process's rows of ``num_rows``; parts differ by a row at most, and may be empty."""
        return slice(num_rows * self.rank // self.num, num_rows * (self.rank + 1) // self.num)

    def part_of(self, batch: Batch) -> Batch:
        """This process's rows of a batch."""
        if self.num == 1:
            return batch
        rows = self.part(batch.num_rows)
        weights = None if batch.weights is None else batch.weights[rows]
        fold = None if batch.fold is None else batch.fold[rows]
        return Batch(batch.ids[rows], weights, batch.label[rows], fold)

    def seed(self, seed: int) -> int:
        """A seed of this process's own; the first one's is the seed itself."""
        return seed + _SEED_STEP * self.rank

    def device(self, name: str) -> str:
        """The device setting as this process means it: ``cuda`` is one GPU for each process of a machine."""
        return f"cuda:{_local_rank()}" if self.num > 1 and name == "cuda" else name

    def sum(self, tensor: Tensor) -> Tensor:
        """Add up a tensor over all processes, in place."""
        if self.num > 1:
            dist.all_reduce(tensor)
        return tensor

    def total(self, number: int) -> int:
        """The sum of every process's number."""
        return int(self.sum(torch.tensor(number))) if self.num > 1 else number

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Add up the gradients of parameters that every process holds, in one exchange; the missing ones are zeros."""
        if self.num == 1:
            return
        held = list(parameters)
        if not held:
            return
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in held])
        dist.all_reduce(flat)
        for parameter, total in zip(held, torch.split(flat, [p.numel() for p in held]), strict=True):
            parameter.grad = total.view_as(parameter)

    def start_alike(self, tensors: Iterable[Tensor]) -> None:
        """Give every process the first one's values."""
        for tensor in tensors if self.num > 1 else ():
            dist.broadcast(tensor.detach(), src=0)

    def agree(self, number: int) -> bool:
        """Whether all processes came with the same number."""
        numbers = torch.zeros(self.num, dtype=torch.int64)
        numbers[self.rank] = number
        return bool((self.sum(numbers) == number).all()) if self.num > 1 else True

    def wait(self) -> None:
        """Until all processes are here."""
        self.sum(torch.zeros(1))

    def exchange(self, rows: Tensor, sent: Sequence[int], received: Sequence[int]) -> Tensor:
        """Send rows to every process and get theirs; the gradient travels back the same way.

        Args:
            rows: (sum(sent), ...), those for process 0 first.
            sent: How many rows go to each process.
            received: How many come from each.

        Returns:
            (sum(received), ...), those of process 0 first.
        """
        result: Tensor = _Exchange.apply(rows, list(sent), list(received))  # type: ignore[no-untyped-call]
        return result

    def sum_with_gradient(self, tensor: Tensor) -> Tensor:
        """The sum over all processes; each one's gradient is the sum of what all of them do with it."""
        if self.num == 1:
            return tensor
        result: Tensor = _Sum.apply(tensor)  # type: ignore[no-untyped-call]
        return result


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, sent: list[int], received: list[int]) -> Tensor:
        ctx.sent, ctx.received = sent, received
        result = rows.new_empty(sum(received), *rows.shape[1:])
        dist.all_to_all_single(result, rows.contiguous(), received, sent)
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        result = grads[0].new_empty(sum(ctx.sent), *grads[0].shape[1:])
        dist.all_to_all_single(result, grads[0].contiguous(), ctx.sent, ctx.received)
        return result, None, None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].clone()
        dist.all_reduce(total)
        return total


_current = Processes()


def current() -> Processes:
    """The processes that this one trains with; itself alone, outside ``joined``."""
    return _current


def _local_rank() -> int:
    """This process's number among those of its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def started_by_torchrun() -> bool:
    """Whether torchrun, or what sets the same variables, started this process beside others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def joined(device: str, setting: str) -> Iterator[Processes]:
    """Train with the processes that torchrun started beside this one; alone where it did not.

    Args:
        device: The device setting: gloo connects processes on CPUs, NCCL those on GPUs.
        setting: Its dotted name, for the message.

    Raises:
        ConfigError: There is no GPU for this process.
    """
    global _current
    if not started_by_torchrun():
        yield _current
        return
    on_gpus = device.startswith("cuda")
    if on_gpus:
        torch.cuda.set_device(find_device(f"cuda:{_local_rank()}", setting))
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpus else "gloo", timeout=_WAIT)
    _current = Processes(dist.get_rank(), dist.get_world_size())
    try:
        yield _current
        _current.wait()
    finally:
        _current = Processes()
        dist.destroy_process_group()


@contextmanager
def shared_step(name: str, out: Path) -> Iterator[StepRecord]:
    """``mec.steps.step`` in the first process, or the only one; the others only say what goes wrong."""
    if int(os.environ.get("RANK", "0")) == 0:
        with step(name, out) as record:
            yield record
    else:
        with reported_errors(name):
            yield StepRecord(name)
