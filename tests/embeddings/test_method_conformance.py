"""The conformance checks pass for every method of mec, and name what is wrong with broken ones."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from mec.cli import main
from mec.embeddings.export import Array
from mec.embeddings.hashing import HashedTable, Hashing
from mec.embeddings.method import METHODS, Method, with_settings
from mec.embeddings.methods import build_method, method_type
from mec.embeddings.sizing import BudgetError, largest_within
from mec.embeddings.table_method import Table
from mec.errors import ConfigError
from mec.testing_method_data import inputs
from mec.testing_methods import CHECKS, check_method

OTHER_SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("full", {"start": "pretrained", "floats": "float16"}),
    ("double_hashing", {"combine": "concat"}),
    ("double_hashing", {"num_hashes": 1, "head": 0.9}),
    ("double_hashing", {"head": 0}),
    ("qr", {"compose": "add"}),
    ("qr", {"compose": "concat", "floats": "float32"}),
    ("low_rank", {"rank": 9}),
    ("mde", {"temperature": 0, "min_values": 2}),
    ("others", {"min_count": 1}),
    ("hashing", {"min_values": 10_000, "floats": "float32"}),
    ("scalar", {"bits": 2, "range": "scale", "first_order": "float", "training": "post", "floats": "float32"}),
    ("scalar", {"bits": 3, "start": "pretrained"}),
    ("binary", {"start": "pretrained"}),
    ("magnitude_pruning", {"schedule": "post", "keep": 0.5, "start": "pretrained"}),
    ("magnitude_pruning", {"until_step": 3, "every_steps": 1}),
    ("dhe", {"encoding": "normal", "num_layers": 1, "num_hashes": 64}),
    ("mec", {"codewords": "warm", "allocate": False, "quantize": {"num_codes": 3, "iterations": 2}}),
    ("dpq_vq", {"batch_norm": True, "commitment": 0.25}),
    ("dpq_sx", {"batch_norm": False, "num_codewords": 33, "floats": "float32"}),
    ("mgqe", {"variant": "unshared_codewords"}),
    ("mgqe", {"variant": "unshared_codes", "floats": "float32"}),
    ("amtl", {"straight_through": False}),
    ("autodim", {"derive": "argmax", "candidates": (2, 5)}),
    ("autoemb", {"derive": "argmax", "dim": 7}),
    ("autodpq", {"derive": "argmax", "min_count": 1}),
    ("xlightfm", {"candidates": (4, 8), "num_codewords": 8, "num_codes": 2}),
]
SLOW = frozenset({"dpq_sx", "lightfm", "opq", "pq", "xlightfm"})  # others, or other settings, run the same code


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in METHODS.names()]
)
def test_every_method_conforms(name):
    assert check_method(name) == []


@pytest.mark.parametrize(("name", "settings"), OTHER_SETTINGS)
def test_variants_conform(name, settings):
    assert check_method(name, settings) == []


class Base(Hashing):
    """A sound method; each broken one differs in one thing."""


class WithTable(Base):
    """Whose tables are of the class ``kind``."""

    kind: type[HashedTable]

    def make_table(self, vocabulary, inputs, settings) -> Table:
        table = super().make_table(vocabulary, inputs, settings)
        table.__class__ = self.kind
        return table


def with_table(kind: type[HashedTable]) -> type[Method[Any]]:
    return type(kind.__name__, (WithTable,), {"kind": kind, "table_type": kind})


class Transposed(Base):
    def forward(self, ids):
        return super().forward(ids).transpose(1, 2)


class ChangesIds(Base):
    def forward(self, ids):
        return super().forward(ids.clamp_(max=300))


class SlotsDiffer(Base):
    def forward(self, ids):
        return super().forward(ids) * torch.arange(1.0, 1 + ids.shape[1])[:, None]


class IdleParameter(Base):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.idle = nn.Parameter(torch.ones(3))


class Detached(Base):
    def forward(self, ids):
        return super().forward(ids).detach()


class CalledTwice(HashedTable):
    def forward(self, ids):
        return super().forward(ids) + super().forward(ids.flip(0)).flip(0)


class RandomInEval(Base):
    def forward(self, ids):
        rows = super().forward(ids)
        return rows + torch.randn_like(rows)


class BatchStatistics(Base):
    def forward(self, ids):
        rows = super().forward(ids)
        return rows - rows.mean(dim=0)


class CountsInEval(Base):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, ids):
        self.calls += 1
        return super().forward(ids)


class LosesSteps(Base):
    steps = 0

    def after_step(self, step):
        self.steps = step

    def forward(self, ids):
        return super().forward(ids) * (1 + self.steps)


class NeverRounds(Base):
    def finish(self):
        pass


class ChangesWhenFinished(Base):
    def finish(self):
        super().finish()
        self.tables[0].table.weight.neg_()


class ServesOtherRows(HashedTable):
    @staticmethod
    def served_rows(arrays, facts, ids):
        return HashedTable.served_rows(arrays, facts, (ids + 1) % 500)


class HidesBytes(HashedTable):
    def arrays(self):
        return super().arrays() | {"more": Array("other", torch.zeros(5))}


class WrongPart(HashedTable):
    def arrays(self):
        return {"rows": Array("codes", self.table.weight)}


class HidesFacts(HashedTable):
    def facts(self):
        return super().facts() | {"hidden": list(range(700))}


class Decompresses(Base):
    @classmethod
    def serve(cls, export):
        served = super().serve(export)
        served.register_buffer("everything", torch.zeros(1200, 7))
        return served


class NeedsOrder(Base):
    def __init__(self, inputs, settings):
        super().__init__(inputs, settings)
        self.factor = 1.0 if np.all(np.diff(inputs.counts["user"][1:]) <= 0) else 2.0

    def forward(self, ids):
        return super().forward(ids) * self.factor


class SizesFall(Base):
    @classmethod
    def at_size(cls, inputs, base, size):
        return super().at_size(inputs, base, cls.num_sizes(inputs, base) + 1 - size)


class NotTheLargest(Base):
    @classmethod
    def for_budget(cls, inputs, budget_bytes, base=None):
        return super().for_budget(inputs, max(budget_bytes - 200, 412), base)


class NeverRefuses(Base):
    @classmethod
    def for_budget(cls, inputs, budget_bytes, base=None):
        return super().for_budget(inputs, max(budget_bytes, 154), base)


class OneSize(Base):
    """Spends a budget itself."""

    @classmethod
    def num_sizes(cls, inputs, base):
        return 1


class SpendsTooLittle(OneSize):
    @classmethod
    def for_budget(cls, inputs, budget_bytes, base=None):
        return Hashing.for_budget(inputs, budget_bytes // 2, base)


class SpendsTooMuch(OneSize):
    @classmethod
    def for_budget(cls, inputs, budget_bytes, base=None):
        return Hashing.for_budget(inputs, budget_bytes + 100, base)


class NeverRefusesIts(OneSize):
    @classmethod
    def for_budget(cls, inputs, budget_bytes, base=None):
        return Hashing.for_budget(inputs, max(budget_bytes, 500), base)


class Searches(Base):
    """Finds 20 rows for 100."""

    def search(self, model, dataset, settings, checkpoints):
        next(dataset.batches("train", 8))
        return type(self)(inputs(), self.found())

    def found(self):
        return with_settings(self.settings, rows_share=0.2)


class ReadsTest(Searches):
    def search(self, model, dataset, settings, checkpoints):
        next(dataset.batches("test", 8))
        return super().search(model, dataset, settings, checkpoints)


class FindsByChance(Searches):
    def found(self):
        return with_settings(self.settings, rows_share=float(np.random.default_rng().random()))


class GivesTrainedRows(Searches):
    def search(self, *arguments):
        found = super().search(*arguments)
        found.tables[0].table.weight += 1
        return found


class FindsTheUnsound(Searches):
    """Rows of the sizes it finds are served otherwise."""

    def finish(self):
        if self.settings.rows_share == 0.1:
            super().finish()


class FindsAnother(Searches):
    def search(self, *arguments):
        return Hashing(inputs(), self.settings)


class TooSmallSteps(HashedTable):
    def forward(self, ids):
        rows = super().forward(ids)
        return 1e-9 * rows

    @staticmethod
    def served_rows(arrays, facts, ids):
        return 1e-9 * HashedTable.served_rows(arrays, facts, ids)


BROKEN: list[tuple[type[Method[Any]], str, str]] = [
    (Transposed, "shapes", r"rows must be \(1, 5, 7\) float32, not \(1, 7, 5\)"),
    (ChangesIds, "shapes", "forward changed the ids"),
    (SlotsDiffer, "vocabularies", "gave one id two rows"),
    (IdleParameter, "gradients", "no gradient reaches idle"),
    (Detached, "gradients", "no gradient reaches exact.table, tables.0.table, tables.1.table"),
    (with_table(CalledTwice), "gradients", "is called more than once"),
    (RandomInEval, "eval", "two different rows"),
    (BatchStatistics, "eval", "depends on the ids beside"),
    (CountsInEval, "eval", "changed calls"),
    (LosesSteps, "saving", "keep state in"),
    (NeverRounds, "serving", "served rows differ"),
    (with_table(ServesOtherRows), "serving", "served rows differ"),
    (with_table(HidesBytes), "serving", "arrays take"),
    (with_table(WrongPart), "serving", "arrays take"),
    (with_table(HidesFacts), "serving", "facts of a vocabulary take"),
    (Decompresses, "serving", "decode at look-up"),
    (NeedsOrder, "serving", "with ids in no order"),
    (SizesFall, "budget", "must not fall"),
    (NotTheLargest, "budget", "would fit"),
    (NeverRefuses, "budget", "not refused"),
    (SpendsTooLittle, "budget", "a budget of 5,632 bytes gave 2,"),
    (SpendsTooMuch, "budget", "a budget of 5,632 bytes gave 5,7"),
    (NeverRefusesIts, "budget", "a budget of 1 byte was not refused"),
    (ChangesWhenFinished, "finish", "finish changed"),
    (with_table(TooSmallSteps), "learning", r"AUC 0\.[345]"),
    (ReadsTest, "search", "the search reads the test split"),
    (FindsByChance, "search", "the search found other settings when it was repeated"),
    (GivesTrainedRows, "search", "not freshly initialised"),
    (FindsTheUnsound, "search", "after the search, served rows differ"),
    (FindsAnother, "search", "the search gave a Hashing"),
]


def test_the_base_of_the_broken_ones_is_sound():
    assert check_method(Base) == []
    assert check_method(Searches) == []


@pytest.mark.parametrize(("broken", "check", "problem"), BROKEN, ids=lambda value: getattr(value, "__name__", None))
def test_a_broken_method_has_the_right_finding(broken, check, problem):
    findings = check_method(broken)
    assert check in {finding.check for finding in findings}, findings
    assert any(re.search(problem, f.problem) for f in findings if f.check == check), findings


def test_every_check_has_a_broken_method():
    assert {check for _, check, _ in BROKEN} == set(CHECKS)


def test_the_callers_random_state_stays():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    check_method("full")
    assert torch.equal(torch.get_rng_state(), before)


def test_settings_and_names_are_checked():
    with pytest.raises(
        ConfigError, match=r"bad settings of the method 'qr'; found: compose: .*its settings are: floats,"
    ):
        check_method("qr", {"compose": "cross"})
    with pytest.raises(
        ConfigError, match=r"unknown compression method; found: nope; .* double_hashing, .*full, hashing"
    ):
        check_method("nope")
    with pytest.raises(ConfigError, match="combine='concat' has no effect with num_hashes=1"):
        build_method("double_hashing", inputs(), {"num_hashes": 1, "combine": "concat"})

    class Bare(Method[Any]):
        name = "bare"

    with pytest.raises(ConfigError, match="'Bare' has no Settings"):
        check_method(Bare)


def test_a_method_must_be_called_as_it_is_registered(monkeypatch):
    monkeypatch.setitem(METHODS._items, "other", Hashing)
    with pytest.raises(ConfigError, match=r"registered as 'other' calls itself otherwise.*; found: hashing"):
        method_type("other")


def test_missing_pretrained_tables_are_refused():
    class Needs(Hashing):
        needs_pretrained = True

    bare = inputs().__class__(inputs().layout, 6, inputs().counts)
    with pytest.raises(ConfigError, match="compresses pre-trained tables"):
        Needs(bare, Needs.Settings())
    with pytest.raises(ConfigError, match="'full' is to start from pre-trained tables"):
        build_method("full", bare, {"start": "pretrained"})


def test_the_largest_size_within_a_budget_by_brute_force():
    sizes = [3, 3, 5, 8, 8, 8, 20]
    for budget in range(3, 25):
        best = largest_within(budget, len(sizes), lambda size: sizes[size - 1], "m")
        assert sizes[best - 1] == max(b for b in sizes if b <= budget)
    with pytest.raises(
        BudgetError, match=r"'m' cannot get down to 2 bytes: its smallest size is 3 bytes, .* next 5 bytes"
    ):
        largest_within(2, len(sizes), lambda size: sizes[size - 1], "m")


def test_the_command_prints_findings_and_ends_with_1(monkeypatch):
    result = CliRunner().invoke(main, ["check-method", "small_dim", "--set", "dim=2"])
    assert (result.exit_code, result.output) == (0, f"small_dim: conforms ({', '.join(CHECKS)})\n")

    class Idle(IdleParameter):
        name = "idle"

    monkeypatch.setitem(METHODS._items, "idle", Idle)
    result = CliRunner().invoke(main, ["check-method", "idle"])
    assert (result.exit_code, result.output) == (1, "idle: 1 finding\n  gradients: no gradient reaches idle\n")
