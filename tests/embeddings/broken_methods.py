"""Methods that are wrong in one thing each, and the finding that names it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from mec.embeddings.export import Array
from mec.embeddings.hashing import HashedTable, Hashing
from mec.embeddings.method import Method, with_settings
from mec.embeddings.table_method import Table
from mec.testing_method_data import inputs


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


class LeavesDrawnRows(HashedTable):
    def finish(self, floats):
        Table.finish(self, floats)


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
    (with_table(LeavesDrawnRows), "finish", "fills no row for id 0 of 'user', which is not in training"),
    (with_table(TooSmallSteps), "learning", r"AUC 0\.[345]"),
    (ReadsTest, "search", "the search reads the test split"),
    (FindsByChance, "search", "the search found other settings when it was repeated"),
    (GivesTrainedRows, "search", "not freshly initialised"),
    (FindsTheUnsound, "search", "after the search, served rows differ"),
    (FindsAnother, "search", "the search gave a Hashing"),
]
