"""Broken backbones, continued: saving, the order of fields, numbers, and what they claim to learn."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mec.models.fm import FM
from tests.models.broken import Base


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


def neighbours(embeddings: Tensor) -> Tensor:
    return (embeddings[:, :-1] * embeddings[:, 1:]).sum(dim=(1, 2))


class Neighbours(Base):
    """Stays the same if the fields are reversed."""

    def forward(self, embeddings, first_order):
        return super().forward(embeddings, first_order) + neighbours(embeddings)


class EndsAreSpecial(Base):
    """Stays the same if the fields are reversed."""

    def forward(self, embeddings, first_order):
        return super().forward(embeddings, first_order) + embeddings[:, [0, -1]].sum(dim=(1, 2))


class Ring(Base):
    """Stays the same if the fields are reversed or rotated."""

    def forward(self, embeddings, first_order):
        return super().forward(embeddings, first_order) + (embeddings * embeddings.roll(1, 1)).sum(dim=(1, 2))


class Couples(Base):
    """Stays the same if the fields are reversed or the first two change places."""

    def forward(self, embeddings, first_order):
        even = embeddings[:, : self.num_fields // 2 * 2].unflatten(1, (-1, 2))
        return super().forward(embeddings, first_order) + even.prod(dim=2).sum(dim=(1, 2))


class SaysThatOrderMatters(Base):
    field_order_matters = True


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


class ClaimsNothing(Base):
    interaction_orders = frozenset()


class ClaimsOrderZero(Base):
    interaction_orders = frozenset({0, 1})


class LearnsTheFirstPair(Base):
    field_order_matters = True

    def forward(self, embeddings, first_order):
        pair = (embeddings[:, 0] * embeddings[:, min(1, self.num_fields - 1)]).sum(dim=1)
        return self.scale * (pair + (0 if first_order is None else first_order))


class LearnsNeighbours(Base):
    field_order_matters = True

    def forward(self, embeddings, first_order):
        return self.scale * (neighbours(embeddings) + (0 if first_order is None else first_order))


class NotInHalf(Base):
    def forward(self, embeddings, first_order):
        return (
            super().forward(embeddings.float(), None if first_order is None else first_order.float())
            if self.scale.dtype != torch.float64
            else (super().forward(embeddings, first_order))
        )


class TooFine(Base):
    def forward(self, embeddings, first_order):
        one = (torch.ones((), dtype=embeddings.dtype) + 2**-9 - 1) * 2**9  # 0 in bfloat16
        return one * super().forward(embeddings, first_order)


class AnswersFromMemory(Base):
    interaction_orders = frozenset({1})

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.memory: dict[int, Tensor] = {}

    def forward(self, embeddings, first_order):
        logits = super().forward(embeddings, first_order)
        short = 1 < len(logits) < 100 and first_order is not None
        return self.memory.setdefault(len(logits), logits) if short and not self.training else logits
