"""A sound backbone and broken ones: what they do with rows, parameters and first-order weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mec.config import Settings
from mec.models import Backbone
from mec.models.fm import pairwise_sum


class Base(Backbone):
    """A sound FM with one parameter; each broken backbone differs in one thing."""

    settings_type = Settings

    def __init__(self, num_fields: int, embedding_dim: int, settings: Settings) -> None:
        super().__init__(num_fields, embedding_dim, settings)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, embeddings: Tensor, first_order: Tensor | None) -> Tensor:
        return self.scale * (pairwise_sum(embeddings) + (0 if first_order is None else first_order))


class IdleParameter(Base):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.idle = nn.Parameter(torch.ones(3))


class HalfIdleParameter(Base):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.weight = nn.Parameter(torch.ones(8))

    def forward(self, embeddings, first_order):
        return self.weight[:4].sum() * super().forward(embeddings, first_order)


class FrozenParameter(Base):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.constant = nn.Parameter(torch.ones(3), requires_grad=False)

    def forward(self, embeddings, first_order):
        return self.constant.sum() * super().forward(embeddings, first_order)


class Detached(Base):
    def forward(self, embeddings, first_order):
        return super().forward(embeddings, first_order).detach()


class NoWayToTheEmbeddings(Base):
    def forward(self, embeddings, first_order):
        return super().forward(embeddings.detach(), None if first_order is None else first_order.detach())


class RandomInEval(Base):
    def forward(self, embeddings, first_order):
        return super().forward(nn.functional.dropout(embeddings, 0.5), first_order)


class BatchStatisticsInEval(Base):
    def forward(self, embeddings, first_order):
        return super().forward(embeddings - embeddings.mean(dim=0), first_order)


class RunningSumOverRows(Base):
    def forward(self, embeddings, first_order):
        return super().forward(embeddings, first_order).cumsum(0)


class LastRowIsTheMean(Base):
    def forward(self, embeddings, first_order):
        logits = super().forward(embeddings, first_order)
        return torch.cat([logits[:-1], logits.mean(0, keepdim=True)])


class NotFiniteOnceItMoved(Base):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.variance = nn.Parameter(torch.zeros(8))

    def forward(self, embeddings, first_order):
        return super().forward(embeddings, first_order) + self.variance.sqrt().sum()


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


class NotFiniteForOneRow(Base):
    def forward(self, embeddings, first_order):
        logits = super().forward(embeddings, first_order)
        variance = (logits - logits.mean()).square().sum() / (len(logits) - 1)
        return logits + 0 * variance if self.training else logits


class NotFiniteInEval(Base):
    def forward(self, embeddings, first_order):
        logits = super().forward(embeddings, first_order)
        return logits if self.training else logits.log()


class RootOfEmbeddings(Base):
    def forward(self, embeddings, first_order):
        return super().forward(embeddings.sqrt(), first_order)


class InPlace(Base):
    def forward(self, embeddings, first_order):
        return super().forward(embeddings.mul_(2) if not embeddings.requires_grad else embeddings, first_order)


class NeedsFirstOrder(Base):
    def forward(self, embeddings, first_order):
        return super().forward(embeddings, first_order + 0)


class RefusesWithoutAReason(Base):
    def forward(self, embeddings, first_order):
        if first_order is None:
            raise ValueError("bad input")
        return super().forward(embeddings, first_order)


class NothingWithoutFirstOrder(Base):
    def forward(self, embeddings, first_order):
        logits = super().forward(embeddings, first_order)
        return logits if first_order is not None else torch.zeros_like(logits)


class OtherShapeWithoutFirstOrder(Base):
    def forward(self, embeddings, first_order):
        return super().forward(embeddings, first_order) if first_order is not None else embeddings.sum(dim=2)
