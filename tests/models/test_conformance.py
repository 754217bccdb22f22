"""The conformance checks pass for every backbone of mec, and name what is wrong with broken ones."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from mec.cli import main
from mec.config import Settings
from mec.errors import ConfigError
from mec.models import BACKBONES, Backbone
from mec.models.base import mlp, output_layer
from mec.models.fm import FM, pairwise_sum
from mec.models.wide import WideBackbone, WideSettings
from mec.testing import CHECKS, check_backbone
from mec.testing_backbone_training import gradients
from tests.models.broken import (
    Base,
    BatchStatisticsInEval,
    Column,
    CountsInEval,
    Detached,
    FrozenParameter,
    HalfIdleParameter,
    IdleParameter,
    InPlace,
    LastRowIsTheMean,
    NeedsFirstOrder,
    NeedsRows,
    NotFiniteForOneRow,
    NotFiniteInEval,
    NotFiniteOnceItMoved,
    NothingWithoutFirstOrder,
    NoWayToTheEmbeddings,
    OtherShapeWithoutFirstOrder,
    RandomInEval,
    RefusesWithoutAReason,
    RootOfEmbeddings,
    RunningSumOverRows,
    Squeezed,
    ViewOfAView,
)
from tests.models.broken_claims import (
    AnswersFromMemory,
    ClaimsNothing,
    ClaimsOrderZero,
    ClaimsTooMuch,
    Couples,
    EndsAreSpecial,
    FirstFieldIsSpecial,
    LearnsNeighbours,
    LearnsNothing,
    LearnsTheFirstPair,
    LosesWeights,
    LosesWhatItSaw,
    NanGradientAtZero,
    Neighbours,
    NotInHalf,
    Overflows,
    Ring,
    SaysThatOrderMatters,
    TooFine,
)

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


BROKEN: list[tuple[type[Backbone], str, str]] = [
    (IdleParameter, "gradients", "no gradient reaches idle"),
    (HalfIdleParameter, "gradients", "no gradient reaches 4 of the 8 elements of weight: "),
    (FrozenParameter, "gradients", "requires_grad is off for constant: .* buffer"),
    (Detached, "gradients", "no gradient at all"),
    (NoWayToTheEmbeddings, "gradients", "no gradient reaches the embeddings"),
    (RandomInEval, "eval", "two different scores"),
    (BatchStatisticsInEval, "eval", "depends on the rows beside it"),
    (RunningSumOverRows, "eval", "depends on the rows beside it"),
    (LastRowIsTheMean, "eval", "depends on the rows beside it: row 15 "),
    (NotFiniteOnceItMoved, "eval", "not finite once the parameters have moved"),
    (CountsInEval, "eval", "changed calls"),
    (Column, "shapes", r"not \(1, 1\)"),
    (Squeezed, "shapes", r"not \(\)"),
    (ViewOfAView, "shapes", "RuntimeError .*view size"),
    (NeedsRows, "shapes", "training mode raised ValueError for 1 rows"),
    (NotFiniteForOneRow, "shapes", "not finite in training mode for 1 rows"),
    (NotFiniteInEval, "shapes", "not finite in eval mode"),
    (RootOfEmbeddings, "shapes", "not finite in training mode"),
    (InPlace, "shapes", "changed the embeddings"),
    (NeedsFirstOrder, "first order", "first_order=None raised TypeError: .*: score as with zeros, or raise"),
    (RefusesWithoutAReason, "first order", "first_order=None raised ValueError: bad input: "),
    (NothingWithoutFirstOrder, "first order", "not those of zeros"),
    (OtherShapeWithoutFirstOrder, "first order", "not those of zeros"),
    (LosesWeights, "saving", "keep state in parameters or buffers"),
    (LosesWhatItSaw, "saving", "keep state in parameters or buffers"),
    (FirstFieldIsSpecial, "field order", "set field_order_matters"),
    *((broken, "field order", "set field_order_matters") for broken in (Neighbours, EndsAreSpecial, Ring, Couples)),
    (SaysThatOrderMatters, "field order", "leave field_order_matters at False"),
    (Overflows, "extremes", "not finite for embeddings of 1e4"),
    (NanGradientAtZero, "extremes", "a gradient is NaN for embeddings of 0"),
    (LearnsNothing, "learning", "order 1: test AUC 0.500"),
    (ClaimsTooMuch, "learning", "^order 3: "),
    (ClaimsNothing, "learning", "interaction_orders is empty: name the orders"),
    (ClaimsOrderZero, "learning", r"interaction_orders is \{0, 1\}: name the orders"),
    (LearnsTheFirstPair, "learning", "^order 2: "),
    (LearnsNeighbours, "learning", "^order 2: "),
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


@pytest.mark.parametrize(
    ("hidden_units", "dropout", "bias"), [((16,) * 8, 0.0, 0.0), ((100,) * 3, 0.9, 0.0), ((16,), 0.0, -9.0)]
)
def test_dead_units_are_no_idle_parameters(hidden_units, dropout, bias):
    class Deep(Base):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.hidden = mlp(self.num_fields * self.embedding_dim, hidden_units, dropout)
            self.output = output_layer(hidden_units[-1])
            nn.init.constant_(self.hidden[0].bias[:8], bias)

        def forward(self, embeddings, first_order):
            return super().forward(embeddings, first_order) + self.output(self.hidden(embeddings.flatten(1))).squeeze(1)

    def make(num_fields: int, dim: int) -> Backbone:
        torch.manual_seed(1)
        return Deep(num_fields, dim, Settings())

    with torch.random.fork_rng(devices=[]):
        assert list(gradients(make)) == []


def test_an_instance_may_say_whether_order_matters():
    class Chosen(Neighbours):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.field_order_matters = True

    assert check_backbone(Chosen) == []


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


@pytest.mark.parametrize("other", [nn.Linear, Settings, pairwise_sum, Base(2, 3, Settings()), None])
def test_what_is_no_backbone_class_is_refused(other, monkeypatch):
    with pytest.raises(
        ConfigError, match=r"is no backbone; found: .*; fix: give .* derived from mec\.models\.Backbone"
    ):
        check_backbone(other)
    monkeypatch.setitem(BACKBONES._items, "other", other)
    with pytest.raises(ConfigError, match="is no backbone"):
        check_backbone("other")


def test_what_is_missing_is_named_with_a_fix():
    class Bare(Backbone):
        settings_type = Settings

    class BareWide(WideBackbone):
        settings_type = WideSettings

    (finding,) = check_backbone(Bare)
    assert finding.problem.endswith("Bare defines no forward; fix: define forward(self, embeddings, first_order)")
    (finding,) = check_backbone(BareWide)
    assert finding.problem.endswith("BareWide defines no interact; fix: define interact(self, embeddings)")
    with pytest.raises(
        ConfigError, match=r"'fm' is registered already; found: .*FM.*; fix: register yours under anoth"
    ):
        BACKBONES.register("fm")(Base)


def test_the_command_prints_findings_and_ends_with_1(monkeypatch):
    result = CliRunner().invoke(main, ["check-backbone", "lr"])
    assert (result.exit_code, result.output) == (0, f"lr: conforms ({', '.join(CHECKS)})\n")
    monkeypatch.setitem(BACKBONES._items, "idle", IdleParameter)
    result = CliRunner().invoke(main, ["check-backbone", "idle"])
    assert (result.exit_code, result.output) == (1, "idle: 1 finding\n  gradients: no gradient reaches idle\n")
