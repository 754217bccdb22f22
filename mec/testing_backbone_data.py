"""What the conformance checks of backbones feed them: sizes, inputs, weights, and planted data to learn."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mec.models import Backbone

Make = Callable[[int, int], Backbone]  # (F, D) -> a backbone; the same weights each time

B, F, D = 16, 4, 6
NUM_VALUES = 4  # of each planted field


def inputs(num_rows: int, num_fields: int, dim: int, seed: int = 2) -> tuple[Tensor, Tensor]:
    """Embeddings (B, F, D), a view into wider rows as in a ``CtrModel``, and first-order sums (B,)."""
    rows = torch.randn(num_rows, num_fields, dim + 1, generator=torch.Generator().manual_seed(seed))
    return rows[:, :, 1:].detach(), rows[:, :, 0].sum(dim=1)


@torch.no_grad()
def moved(model: Backbone, seed: int = 6) -> Backbone:
    """Away from initial values, whose zeros and ones hide what depends on what."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def same(found: Tensor, wanted: Tensor, batch: Tensor) -> bool:
    """Equal but for rounding errors, which are of the size of the largest logit of the batch."""
    return bool((found - wanted).abs().max() <= 1e-5 * (1 + batch.abs().max()))


def planted(num_rows: int, order: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows whose label is the product of hidden signs of ``order`` fields, without a signal of any lower order.

    Fields 0 and 2 are noise: what a backbone has for its first field, its first pair or its neighbours alone is of
    no use.

    Returns:
        Ids (B, order + 2) int64, below ``NUM_VALUES``, and labels (B,) float32, 0 or 1.
    """
    ids = torch.randint(NUM_VALUES, (num_rows, order + 2), generator=generator)
    fields = [1, *range(3, order + 2)]
    signs = torch.tensor([1.0, -1.0, -1.0, 1.0])[ids[:, fields]]  # two values of each sign
    return ids, (signs.prod(dim=1) > 0).float()
