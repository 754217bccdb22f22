"""What the conformance checks do not hold against a backbone: rounding, and one bad start."""

from __future__ import annotations

import pytest
import torch

from mec import testing_backbone_training as training
from mec.models import build_backbone
from mec.testing import check_backbone
from tests.models.broken import Base


class LosesDigits(Base):
    """A batch and its rows differ by a thousand rounding errors, whatever the precision."""

    excess = 1e3

    def forward(self, embeddings, first_order):
        logits = super().forward(embeddings, first_order)
        return logits * (1 + (len(logits) > 1) * self.excess * torch.finfo(embeddings.dtype).eps)


class LosesAll(LosesDigits):
    excess = 1e12


def findings_of(backbone):
    return [finding.problem for finding in check_backbone(backbone) if finding.check == "eval"]


def test_rows_that_differ_by_rounding_alone_do_not_depend_on_each_other():
    assert findings_of(LosesDigits) == []
    assert ["depends on the rows beside it" in problem for problem in findings_of(LosesAll)] == [True]


@pytest.mark.parametrize(
    ("reached", "starts", "learned"),
    [
        ([0.95], 1, True),
        ([0.5], 1, False),  # at chance: another start is no use
        ([0.87, 0.99], 2, True),
        ([0.87, 0.5, 0.95], 3, True),
        ([0.87, 0.8, 0.85], 3, False),
    ],
)
def test_a_backbone_that_is_near_the_goal_gets_more_starts(reached, starts, learned, monkeypatch):
    asked: list[int] = []

    def planted_auc(make, order, start):
        asked.append(start)
        return reached[start]

    monkeypatch.setattr(training, "_planted_auc", planted_auc)
    found = list(training.learning(lambda num_fields, dim: build_backbone("lr", num_fields, dim, {})))
    assert asked == list(range(starts))
    assert (found == []) == learned
    if not learned:
        assert f"test AUC {max(reached):.3f}" in found[0]
