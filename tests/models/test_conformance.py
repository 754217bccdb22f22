"""The conformance checks pass for every backbone of mec, and name what is wrong with broken ones."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from mec.cli import main
from mec.config import Settings
from mec.errors import ConfigError
from mec.models import BACKBONES, Backbone
from mec.models.fm import FM, pairwise_sum
from mec.testing import CHECKS, check_backbone

SAM_VARIANTS = ["SAM1", "SAM2A", "SAM2E", "SAM3A", "SAM3E"]
OTHER_SETTINGS: list[tuple[str, dict[str, object]]] = [
    *(("sam", {"interaction_type": variant}) for variant in SAM_VARIANTS),
    *(("pnn", {"product": product}) for product in ("outer", "both")),
    ("dcnv2", {"structure": "stacked", "low_rank": 8, "num_experts": 2}),
]


@pytest.mark.parametrize("name", BACKBONES.names())
def test_every_backbone_conforms(name):
    assert check_backbone(name) == []


@pytest.mark.parametrize(("name", "settings"), OTHER_SETTINGS)
def test_variants_conform(name, settings):
    assert check_backbone(name, settings) == []


class Base(Backbone):
    """A sound FM with one parameter; each broken backbone differs in one thing."""

    settings_type = Settings

    def __init__(self, num_fields: int, embedding_dim: int, settings: Settings) -> None:
        super().__init__(num_fields, embedding_dim, settings)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, embeddings: Tensor, first_order: Tensor | None) -> Tensor:
        assert first_order is not None
        return self.scale * (first_order + pairwise_sum(embeddings))


class IdleParameter(Base):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.idle = nn.Parameter(torch.ones(3))


class Detached(Base):
    def forward(self, embeddings, first_order):
        return super().forward(embeddings, first_order).detach()


class NoWayToTheEmbeddings(Base):
    def forward(self, embeddings, first_order):
        return super().forward(embeddings.detach(), first_order.detach())


class RandomInEval(Base):
    def forward(self, embeddings, first_order):
        return super().forward(nn.functional.dropout(embeddings, 0.5), first_order)


class BatchStatisticsInEval(Base):
    def forward(self, embeddings, first_order):
        return super().forward(embeddings - embeddings.mean(dim=0), first_order)


class CountsInEval(Base):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, embeddings, first_order):
        self.calls += 1
        return super().forward(embeddings, first_order)


class Column(Base):
    def forward(self, embeddings, first_order):
        return super().forward(embeddings, first_order).unsqueeze(1)


class Squeezed(Base):
    def forward(self, embeddings, first_order):
        return super().forward(embeddings, first_order).squeeze()


class ViewOfAView(Base):
    def forward(self, embeddings, first_order):
        return (
            super().forward(embeddings.view(len(embeddings), -1, self.embedding_dim), first_order)
            + embeddings.view(-1).sum()
        )


class NeedsRows(Base):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.norm = nn.BatchNorm1d(1)

    def forward(self, embeddings, first_order):
        return self.norm(super().forward(embeddings, first_order).unsqueeze(1)).squeeze(1)


class InPlace(Base):
    def forward(self, embeddings, first_order):
        return super().forward(embeddings.mul_(2) if not embeddings.requires_grad else embeddings, first_order)


class LosesWeights(Base):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.hidden = torch.rand(()) + 0.5  # no buffer

    def forward(self, embeddings, first_order):
        return self.hidden * super().forward(embeddings, first_order)


class LosesWhatItSaw(Base):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.seen = 0

    def forward(self, embeddings, first_order):
        self.seen += int(self.training)
        return super().forward(embeddings, first_order) / (1 + self.seen)


class FirstFieldIsSpecial(Base):
    def forward(self, embeddings, first_order):
        return super().forward(embeddings, first_order) + embeddings[:, 0].sum(dim=1)


class Overflows(Base):
    def forward(self, embeddings, first_order):
        logits = super().forward(embeddings, first_order)
        return logits.exp().log()


class NanGradientAtZero(Base):
    def forward(self, embeddings, first_order):
        return super().forward(embeddings, first_order) + embeddings.norm(dim=2).pow(2).sqrt().sum(dim=1)


class LearnsNothing(Base):
    def forward(self, embeddings, first_order):
        logits = super().forward(embeddings, first_order)
        return logits - logits.detach()


class ClaimsTooMuch(FM):
    interaction_orders = frozenset({1, 2, 3})


class NotInHalf(Base):
    def forward(self, embeddings, first_order):
        return (
            super().forward(embeddings.float(), first_order.float())
            if self.scale.dtype != torch.float64
            else (super().forward(embeddings, first_order))
        )


class TooFine(Base):
    field_order_matters = True  # rounding errors do

    def forward(self, embeddings, first_order):
        return 4000 + super().forward(embeddings, first_order) - 4000


class AnswersFromMemory(Base):
    interaction_orders = frozenset()

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.memory: dict[int, Tensor] = {}

    def forward(self, embeddings, first_order):
        logits = super().forward(embeddings, first_order)
        return logits if self.training else self.memory.setdefault(len(logits), logits)


BROKEN: list[tuple[type[Backbone], str, str]] = [
    (IdleParameter, "gradients", "no gradient reaches idle"),
    (Detached, "gradients", "no gradient at all"),
    (NoWayToTheEmbeddings, "gradients", "no gradient reaches the embeddings"),
    (RandomInEval, "eval", "two different scores"),
    (BatchStatisticsInEval, "eval", "depends on the rows beside it"),
    (CountsInEval, "eval", "changed calls"),
    (Column, "shapes", r"not \(1, 1\)"),
    (Squeezed, "shapes", r"not \(\)"),
    (ViewOfAView, "shapes", "RuntimeError .*view size"),
    (NeedsRows, "shapes", "training mode raised ValueError for 1 rows"),
    (InPlace, "shapes", "changed the embeddings"),
    (LosesWeights, "saving", "keep state in parameters or buffers"),
    (LosesWhatItSaw, "saving", "keep state in parameters or buffers"),
    (FirstFieldIsSpecial, "field order", "set field_order_matters"),
    (Overflows, "extremes", "not finite for embeddings of 1e4"),
    (NanGradientAtZero, "extremes", "a gradient is NaN for embeddings of 0"),
    (LearnsNothing, "learning", "order 1: test AUC 0.500"),
    (ClaimsTooMuch, "learning", "^order 3: "),
    (NotInHalf, "half precision", "torch.float32"),
    (TooFine, "half precision", "off by"),
    (AnswersFromMemory, "codes", "logits on codes and on the decoded tables differ"),
]


def test_the_base_of_the_broken_ones_is_sound():
    assert check_backbone(Base) == []


@pytest.mark.parametrize(("broken", "check", "problem"), BROKEN, ids=lambda value: getattr(value, "__name__", None))
def test_a_broken_backbone_has_the_right_finding(broken, check, problem):
    findings = check_backbone(broken)
    assert {finding.check for finding in findings} == {check}, findings
    assert any(re.search(problem, finding.problem) for finding in findings), findings


def test_every_check_has_a_broken_backbone():
    assert {check for _, check, _ in BROKEN} == set(CHECKS)


def test_the_callers_random_state_stays():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    check_backbone("lr")
    assert torch.equal(torch.get_rng_state(), before)


def test_settings_and_names_are_checked():
    with pytest.raises(ConfigError, match="bad settings of the backbone 'pnn'; found: product: "):
        check_backbone("pnn", {"product": "cross"})
    with pytest.raises(ConfigError, match="unknown backbone; found: nope"):
        check_backbone("nope")

    class NoSettings(FM):
        pass

    class Bare(Backbone):
        pass

    assert check_backbone(NoSettings) == []
    with pytest.raises(ConfigError, match="'Bare' has no settings_type"):
        check_backbone(Bare)


def test_the_command_prints_findings_and_ends_with_1(monkeypatch):
    result = CliRunner().invoke(main, ["check-backbone", "lr"])
    assert (result.exit_code, result.output) == (0, f"lr: conforms ({', '.join(CHECKS)})\n")
    monkeypatch.setitem(BACKBONES._items, "idle", IdleParameter)
    result = CliRunner().invoke(main, ["check-backbone", "idle"])
    assert (result.exit_code, result.output) == (1, "idle: 1 finding\n  gradients: no gradient reaches idle\n")
