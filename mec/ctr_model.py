"""A CTR model: an embedding method, pooling of slots into fields, scales of fields, a backbone, one bias."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mec.data.dataset import Batch, EncodedDataset
from mec.data.layout import FieldLayout
from mec.distributed.processes import current
from mec.models.base import Backbone


class EmbeddingMethod(Protocol):
    """What every compression method offers; ``forward`` as a torch module."""

    def __call__(self, ids: Tensor) -> Tensor:
        """(B, S) int32 ids -> (B, S, D + 1) rows: first-order weight, then the vector."""
        ...

    def serving_bytes(self) -> dict[str, int]:
        """Bytes a server must hold: codes, codebooks, rows, index, other."""
        ...


class Pooling(nn.Module):
    """Slots to fields: weighted sums over each field's slots.

    Args:
        layout: Fields and their slots.
    """

    field_of_slot: Tensor

    def __init__(self, layout: FieldLayout) -> None:
        super().__init__()
        self.num_fields = layout.num_fields
        self.one_slot_each = layout.num_slots == layout.num_fields
        field_of_slot = [i for i, f in enumerate(layout.fields) for _ in range(f.num_slots)]
        self.register_buffer("field_of_slot", torch.tensor(field_of_slot), persistent=False)

    def forward(self, rows: Tensor, weights: Tensor | None) -> Tensor:
        """(B, S, W) rows, (B, S) weights -> (B, F, W)."""
        if weights is not None:
            rows = rows * weights.unsqueeze(2)
        if self.one_slot_each:
            return rows
        pooled = rows.new_zeros(rows.shape[0], self.num_fields, rows.shape[2])
        return pooled.index_add(1, self.field_of_slot, rows)


class FieldScales(nn.Module):
    """How much each field's first-order weight and vector count: two numbers a field, 1 at first.

    A row that is trained grows or shrinks as the backbone needs it. A frozen one has the size that suited the model it
    was trained in, whose fields explain less of a click to rows that they have not seen. (Of FwFM's field weights, Pan
    et al., WWW 2018, these are what factorises.)

    Args:
        num_fields: F.
    """

    def __init__(self, num_fields: int) -> None:
        super().__init__()
        self.first_order = nn.Parameter(torch.ones(num_fields))
        self.vectors = nn.Parameter(torch.ones(num_fields))

    def forward(self, fields: Tensor) -> Tensor:
        """(B, F, D + 1) -> (B, F, D + 1)."""
        vectors = self.vectors[:, None].expand(-1, fields.shape[2] - 1)
        return fields * torch.cat([self.first_order[:, None], vectors], dim=1)


class CtrModel(nn.Module):
    """Ids to click logits.

    Args:
        layout: Fields and vocabularies.
        embedding: An ``EmbeddingMethod`` that is also a torch module.
        backbone: Scores (B, F, D) embeddings.
        field_scales: Whether it has ``FieldScales``.
    """

    def __init__(
        self, layout: FieldLayout, embedding: nn.Module, backbone: Backbone, *, field_scales: bool = False
    ) -> None:
        super().__init__()
        self.layout = layout
        self.embedding = embedding
        self.pooling = Pooling(layout)
        self.scales = FieldScales(layout.num_fields) if field_scales else None
        self.backbone = backbone
        self.bias = nn.Parameter(torch.zeros(()))

    def reading(self, embedding: nn.Module) -> CtrModel:
        """This model on other rows, its parameters shared."""
        result = CtrModel(self.layout, embedding, self.backbone)
        result.scales, result.bias = self.scales, self.bias
        return result

    def forward(self, ids: Tensor, weights: Tensor | None, fold: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits and the rows they are of.

        Args:
            ids: (B, S) int32.
            weights: (B, S) or None.
            fold: (B,) int64, training rows' folds, for an embedding that holds out-of-fold rows; None: as served.

        Returns:
            (B,) logits and (B, S, D + 1) rows.
        """
        rows: Tensor = self.embedding(ids) if fold is None else self.embedding(ids, fold)
        return self.logits_from_rows(rows, weights), rows

    def logits(self, ids: Tensor, weights: Tensor | None) -> Tensor:
        """(B, S), (B, S) or None -> (B,) logits."""
        return self.forward(ids, weights)[0]

    def logits_from_rows(self, rows: Tensor, weights: Tensor | None) -> Tensor:
        """(B, S, D + 1) decoded rows, (B, S) weights or None -> (B,) logits."""
        fields = self.pooling(rows, weights)  # (B, F, D + 1)
        if self.scales is not None:
            fields = self.scales(fields)
        first_order, vectors = fields.split([1, fields.shape[2] - 1], dim=2)
        logits: Tensor = self.backbone(vectors, first_order.sum(dim=(1, 2)))
        return logits + self.bias


def squared_norm(rows: Tensor) -> Tensor:
    """Sum of the squares of all elements, with a gradient in one pass over them."""
    result: Tensor = _SquaredNorm.apply(rows)  # type: ignore[no-untyped-call]
    return result


class _SquaredNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        flat = rows.flatten()
        return flat.dot(flat)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (rows,) = ctx.saved_tensors
        gradient: Tensor = rows * (2 * grads[0])
        return gradient


@torch.no_grad()
def predict_split(
    model: CtrModel, dataset: EncodedDataset, split: str, batch_size: int
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Score one split in file order; processes that train together score a part of each batch, and all get all.

    Args:
        model: Scores on the device its parameters are on; left in the mode it was in.
        dataset: Encoded rows.
        split: train, valid or test.
        batch_size: Rows per step.

    Returns:
        Logits (N,) float32 and labels (N,) uint8; 5 bytes a row are held.
    """
    was_training = model.training
    model.eval()
    device = model.bias.device
    num_rows, processes = dataset.num_rows(split), current()
    logits, labels = np.zeros(num_rows, dtype=np.float32), np.empty(num_rows, dtype=np.uint8)
    row = 0
    for batch in dataset.batches(split, batch_size):
        ids, weights, _ = to_device(processes.part_of(batch), device)
        end = row + batch.num_rows
        logits[row:end][processes.part(batch.num_rows)] = model.logits(ids, weights).cpu().numpy()
        labels[row:end] = batch.label
        row = end
    processes.sum(torch.from_numpy(logits))
    model.train(was_training)
    return logits, labels


def to_device(batch: Batch, device: torch.device) -> tuple[Tensor, Tensor | None, Tensor]:
    """A batch's ids (B, S), weights (B, S) or None, label (B,) as tensors."""
    weights = None if batch.weights is None else torch.from_numpy(batch.weights).to(device)
    return torch.from_numpy(batch.ids).to(device), weights, torch.from_numpy(batch.label).to(device)
