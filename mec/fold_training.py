"""Out-of-fold pre-training: for every fold of the training rows, tables that never saw them.

A rare value's pre-trained vector remembers the labels of the few rows it was trained on. A backbone trained on the
same rows learns to trust that memory, and is let down by rows it has not seen: the leak of target encoding without
folds (Micci-Barreca, 2001; Prokhorenkova et al., 2018). So the backbone is trained on out-of-fold vectors, rotated into
the space of the tables that are served.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from mec.alignment import align, align_rows
from mec.bundle import Bundle
from mec.data.dataset import EncodedDataset
from mec.data.folds import Folds
from mec.data.layout import FieldLayout
from mec.errors import BundleError, DataError, TrainingError
from mec.quantize.weights import popularity_weights
from mec.training import LEARNED_AUC

_SEED_STEP = 1_000_003  # so that folds of neighbouring seeds draw different vectors
_BATCH_ROWS = 65_536
_CLEARLY_LEARNED_AUC = 0.6


def fold_seed(seed: int, fold: int) -> int:
    """Seed of the model that leaves one fold out."""
    return seed + _SEED_STEP * (fold + 1)


def refuse_unlearned(fold: int, fold_auc: float, auc: float) -> None:
    """Refuse out-of-fold vectors that are noise: a backbone trained on them would be worth little in service.

    Args:
        fold: The one that the model was trained without.
        fold_auc: Best validation AUC of the fold's model.
        auc: The same of the model of all rows.

    Raises:
        TrainingError: The fold's model learned nothing, and the other one did.
    """
    if fold_auc < LEARNED_AUC and auc >= _CLEARLY_LEARNED_AUC:
        raise TrainingError(
            f"the model that leaves out fold {fold} learned nothing, and the model of all rows did",
            found=f"validation AUC {fold_auc:.4f} and {auc:.4f}",
            fix="lower pretrain.l2 or raise pretrain.max_epochs, or set pretrain.folds to 0",
        )


def count_rows(data: EncodedDataset) -> dict[str, NDArray[np.int64]]:
    """How often each value occurs in the training rows of ``data``: vocabulary -> (V,)."""
    offsets = data.layout.slot_offsets()
    total = np.zeros(data.layout.num_values, dtype=np.int64)
    for batch in data.batches("train", _BATCH_ROWS):
        index = batch.ids + offsets
        filled = index.ravel() if batch.weights is None else index[batch.weights != 0]
        np.add.at(total, filled, 1)
    starts = data.layout.offsets()
    return {name: total[starts[name] : starts[name] + size] for name, size in data.layout.vocabularies}


def into_space(
    tables: Mapping[str, Tensor],
    space: Mapping[str, Tensor],
    fold_counts: Mapping[str, NDArray[np.int64]],
    counts: Mapping[str, NDArray[np.int64]],
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Rotate a fold's tables into the space of the tables trained on all rows.

    Args:
        tables: Vocabulary -> (V, D + 1) rows of the fold's model.
        space: The same of the model trained on all rows.
        fold_counts: Vocabulary -> (V,) training counts outside the fold: weights of the fit.
        counts: Vocabulary -> (V,) training counts.

    Returns:
        Rotated tables, and how well they agree (see ``mec.alignment.Alignment``).

    Raises:
        DataError: Fewer values outside the fold than dimensions.
    """
    dim = next(iter(space.values())).shape[1] - 1
    num_seen = sum(int((fold_counts[name] > 0).sum()) for name in tables)
    if num_seen < dim:
        raise DataError(
            f"too few values in the rows outside a fold to rotate vectors of {dim} dimensions",
            found=f"{num_seen} values",
            fix="set pretrain.folds to 0, lower pretrain.embedding_dim, or train on more rows",
        )
    weights = {name: popularity_weights(fold_counts[name], "raw") for name in tables}
    alignment = align(space, tables, weights, counts)
    return {name: align_rows(rows, alignment.rotation) for name, rows in tables.items()}, alignment.to_json()


@dataclass(frozen=True)
class FoldTables:
    """Out-of-fold tables of a ``pretrained`` bundle.

    Attributes:
        bundle: The bundle.
        folds: Which training rows are in which fold.
    """

    bundle: Bundle
    folds: Folds

    @classmethod
    def of(cls, bundle: Bundle) -> FoldTables | None:
        """Those of a bundle; None where it was pre-trained without folds.

        Raises:
            BundleError: The bundle does not say whether there are folds.
        """
        facts = bundle.extra.get("folds")
        if facts is None:
            raise BundleError(
                f"the pre-trained tables {bundle.path} do not say whether there are out-of-fold ones beside them",
                fix="run the pretrain step again with this version of mec",
            )
        return cls(bundle, Folds(facts["num"], facts["seed"])) if facts["num"] else None

    def rows(self, fold: int, vocabulary: str) -> Tensor:
        """(V, D + 1) float32 rows that the fold's training rows had no part in."""
        return self._tensor(
            _tables_file(fold), vocabulary, torch.float32, (int(self.bundle.extra["embedding_dim"]) + 1,)
        )

    def counts(self, fold: int, vocabulary: str) -> NDArray[np.int64]:
        """(V,) training counts outside the fold."""
        counts: NDArray[np.int64] = self._tensor(_counts_file(fold), vocabulary, torch.int64, ()).numpy()
        return counts

    def _tensor(self, file: str, vocabulary: str, dtype: torch.dtype, row: tuple[int, ...]) -> Tensor:
        wanted = (FieldLayout.from_json(self.bundle.extra["layout"]).size(vocabulary), *row)
        with safe_open(self.bundle.file(file), framework="pt") as tensors:
            found = tuple(tensors.get_slice(vocabulary).get_shape()) if vocabulary in tensors.keys() else None  # noqa: SIM118
            if found != wanted:
                raise BundleError(
                    f"{file} of {self.bundle.path} has no {wanted} tensor of vocabulary {vocabulary!r}",
                    found=found,
                    fix="run the pretrain step again",
                )
            tensor: Tensor = tensors.get_tensor(vocabulary)
        return tensor.to(dtype)


def save_fold(
    directory: Path, fold: int, tables: Mapping[str, Tensor], counts: Mapping[str, NDArray[np.int64]]
) -> None:
    """Write one fold's files."""
    save_file({name: t.detach().cpu().contiguous() for name, t in tables.items()}, directory / _tables_file(fold))
    save_file({name: torch.from_numpy(c.copy()) for name, c in counts.items()}, directory / _counts_file(fold))


def _tables_file(fold: int) -> str:
    return f"fold-{fold}.safetensors"


def _counts_file(fold: int) -> str:
    return f"fold-{fold}-counts.safetensors"
