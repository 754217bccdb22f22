"""A model as it serves values that it does not know yet: they get what rare values get."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mec.ctr_model import CtrModel
from mec.data.layout import OOV_ID
from mec.embeddings.coded import CodedEmbedding


class StaleEmbedding(nn.Module):
    """An older generation of codes, asked for ids of a newer vocabulary.

    Args:
        embedding: Of the older generation; ids that it has no rows for read id 0, as a scorer's unknown values do.
    """

    sizes: Tensor

    def __init__(self, embedding: CodedEmbedding) -> None:
        super().__init__()
        self.embedding = embedding
        slots = [field.vocabulary for field in embedding.layout.fields for _ in range(field.num_slots)]
        self.register_buffer("sizes", torch.tensor([embedding.size(name) for name in slots]), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, S) int32 ids -> (B, S, D + 1) rows."""
        rows: Tensor = self.embedding(torch.where(ids < self.sizes, ids, OOV_ID))
        return rows


def stale_model(model: CtrModel) -> CtrModel:
    """The model on its own codes, able to read rows that were encoded with an extended vocabulary."""
    assert isinstance(model.embedding, CodedEmbedding)
    return model.reading(StaleEmbedding(model.embedding)).eval()
