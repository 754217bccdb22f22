"""The small model, held near the vectors that it had before."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mec.ctr_model import CtrModel
from mec.data.layout import FieldLayout
from mec.models import Backbone


class AnchoredModel(CtrModel):
    """A CTR model whose penalised rows lie side by side with their distance to the old ones.

    The training loop adds ``weight`` x mean over rows of the batch of |rows used|^2 to the loss. The rows that this
    model gives it in training are [sqrt(a) row, sqrt(1 - a) (row - old)], a = l2 / (l2 + anchor): under the weight
    l2 + anchor that is l2 |row|^2 + anchor |row - old|^2, in the same term and with the same checks. Values without
    an old row are not anchored.

    Args:
        layout: Of the new rows.
        embedding: Full tables.
        backbone: Scores (B, F, D) embeddings.
        old: Vocabulary -> (V_old, D + 1) float32 rows before the refresh, V_old <= V.
        l2: Weight of |row|^2.
        anchor: Weight of |row - old|^2, above 0.
    """

    old_rows: Tensor
    known: Tensor
    offsets: Tensor

    def __init__(
        self,
        layout: FieldLayout,
        embedding: nn.Module,
        backbone: Backbone,
        old: Mapping[str, Tensor],
        l2: float,
        anchor: float,
    ) -> None:
        super().__init__(layout, embedding, backbone)
        width = next(iter(old.values())).shape[1]
        old_rows, known = torch.zeros(layout.num_values, width), torch.zeros(layout.num_values, 1)
        for name, start in layout.offsets().items():
            old_rows[start : start + len(old[name])] = old[name]
            known[start : start + len(old[name])] = 1.0
        # not persistent: a checkpoint must not hold what does not change
        self.register_buffer("old_rows", old_rows, persistent=False)
        self.register_buffer("known", known, persistent=False)
        self.register_buffer("offsets", torch.from_numpy(layout.slot_offsets()), persistent=False)
        self.weight = l2 + anchor
        self._scales = math.sqrt(l2 / self.weight), math.sqrt(anchor / self.weight)

    def forward(self, ids: Tensor, weights: Tensor | None, fold: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B,) logits and, in training, (B, S, 2 (D + 1)) rows to penalise; see ``CtrModel.forward``."""
        logits, rows = super().forward(ids, weights, fold)
        if not self.training:
            return logits, rows
        index = ids + self.offsets
        away = (rows - self.old_rows[index]) * self.known[index]
        return logits, torch.cat([self._scales[0] * rows, self._scales[1] * away], dim=2)
