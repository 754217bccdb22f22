"""CPU seconds of training, every method against the full table: one process, one thread, the same rows, in turns.

An epoch is so many steps over the same rows for all, so the ratio of steps is that of epochs; reading rows and
validating, which cost all methods much the same, are left out, which makes the ratios larger than those of whole
epochs. A search costs as much again for each of its own epochs: it is timed as pairs of steps, one on training and
one on validation rows, without what it takes to set it up.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from bakeoff_study.workspace import Job
from mec.bakeoff.cells import REFERENCE, REFERENCE_BUDGET
from mec.bakeoff.measuring import CellInputs, ctr_model, training_rows
from mec.ctr_model import CtrModel
from mec.data.dataset import Batch
from mec.embeddings.method import Method, with_settings
from mec.embeddings.methods import build_method, check_method_settings, method_type
from mec.embeddings.searched import SearchSettings
from mec.embeddings.sizing import BudgetError
from mec.errors import ConfigError
from mec.evaluation.table import ABSENT
from mec.optimizer import CtrOptimizer
from mec.quantize.budget import parse_budget
from mec.training import train_batch

BOUND = 3.0
EXEMPT = ("dhe",)
_WARM_UP = 1  # rounds that are not counted
_SEARCH_ROUNDS = 5  # the first ones: some searches start with k-means, which costs more than they do


class Side:
    """One method in training.

    Args:
        job: Of its cell.
        inputs: Of the seed.
        steps: Steps in a turn, and pairs of steps in a turn of its search.

    Raises:
        BudgetError: The cell's budget is out of reach.
    """

    def __init__(self, job: Job, inputs: CellInputs, steps: int) -> None:
        cell = job.cell
        budget_bytes = parse_budget(cell.budget).bytes(inputs.full_bytes)
        own, base = inputs.of_method(cell.seed), check_method_settings(cell.method, cell.settings)
        settings = method_type(cell.method).for_budget(own, budget_bytes, base)
        self.inputs, self.optimizer_settings, self.steps = inputs, cell.optimizer(inputs.train), steps
        self.build: Callable[[dict[str, Any]], Method[Any]] = lambda changes: build_method(
            cell.method, own, with_settings(settings, **changes)
        )
        method = self.build({})
        self.searches = isinstance(settings, SearchSettings)
        self.model: CtrModel = ctr_model(inputs, method).train()
        self.optimizer = CtrOptimizer(self.model, self.optimizer_settings.learning_rate)
        self.batches, self.num_steps = self._read(method), 0

    def train(self) -> float:
        """CPU seconds of a turn."""
        start = time.process_time()
        for batch in self.batches:
            self.num_steps += 1
            train_batch(
                self.model, self.optimizer, batch, self.optimizer_settings.l2, torch.device("cpu"), self.num_steps
            )
        return time.process_time() - start

    def search(self) -> float:
        """CPU seconds of a turn of the search, from the first pair of steps on; what goes before is not counted."""
        dataset = self.inputs.dataset
        num_batches = math.ceil(dataset.num_rows("train") / self.optimizer_settings.batch_size)
        method = self.build({"search_epochs": (self.steps + 1) / num_batches})
        model, forwards = ctr_model(self.inputs, method), list[float]()
        model.backbone.register_forward_pre_hook(lambda *_: forwards.append(time.process_time()))
        method.search(model, dataset, self.optimizer_settings, None)
        return forwards[2 * self.steps] - forwards[0]

    def _read(self, method: Method[Any]) -> list[Batch]:
        settings, found = self.optimizer_settings, []
        rows = training_rows(self.inputs, method)
        for batch in rows.batches("train", settings.batch_size, seed=0, epoch=0, shuffle_rows=settings.shuffle_rows):
            found.append(batch)
            if len(found) == self.steps:
                break
        return found


def run_epochs(jobs: Sequence[Job], rounds: int, steps: int) -> str:
    """Measure and return a Markdown table.

    Args:
        jobs: One per method, of one table and seed; full tables among them.
        rounds: Turns of each, two at least.
        steps: Training steps in a turn.
    """
    torch.set_num_threads(1)
    inputs, sides, notes = jobs[0].inputs(), dict[str, Side](), list[str]()
    for job in jobs:
        try:
            sides[job.cell.method], note = _side(job, inputs, steps)
        except ConfigError as error:
            if job.cell.method == REFERENCE:  # nothing could be compared
                raise
            note = f"{job.cell.method} is left out: {error}"
        notes += [note] * bool(note)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    searching: dict[str, list[float]] = {name: [] for name, side in sides.items() if side.searches}
    for turn in range(rounds + _WARM_UP):
        for name, side in sides.items():
            trained = side.train()
            if turn < _WARM_UP:
                continue
            seconds[name].append(trained)
            if side.searches and turn < _WARM_UP + _SEARCH_ROUNDS:
                searching[name].append(side.search())
    return "\n".join([*_table(seconds, searching, steps), *notes])


def _side(job: Job, inputs: CellInputs, steps: int) -> tuple[Side, str]:
    """A method at its budget, or else at the reference's, and a note that says so."""
    try:
        return Side(job, inputs, steps), ""
    except BudgetError as error:
        note = f"{job.cell.method} has {REFERENCE_BUDGET}: {error.problem}"
    whole = job.cell.model_copy(update={"budget": REFERENCE_BUDGET})
    return Side(Job(job.config, whole, job.work), inputs, steps), note


def _table(seconds: dict[str, list[float]], searching: dict[str, list[float]], steps: int) -> list[str]:
    full = seconds[REFERENCE]
    lines = [
        "| method | ms a step | time, full table = 1 (quartiles) | an epoch of its search, full table's = 1 |",
        "|---|---|---|---|",
    ]
    middles = {name: _ratios(own, full)[1] for name, own in seconds.items()}
    for name in sorted(seconds, key=lambda name: middles[name]):
        low, middle, high = _ratios(seconds[name], full)
        over = middle > BOUND and name not in EXEMPT
        mark = f" **over {BOUND:g}**" if over else " (excepted)" if middle > BOUND else ""
        search = f"{_ratios(searching[name], full[:_SEARCH_ROUNDS])[1]:.2f}" if name in searching else ABSENT
        ms = statistics.median(seconds[name]) / steps * 1e3
        lines.append(f"| {name} | {ms:.2f} | {middle:.2f} ({low:.2f} to {high:.2f}){mark} | {search} |")
    return lines


def _ratios(own: list[float], full: list[float]) -> list[float]:
    """Quartiles of the ratios, round by round."""
    return statistics.quantiles([a / b for a, b in zip(own, full, strict=True)], n=4)
