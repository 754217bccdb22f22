"""Pre-train the small model whose embeddings are compressed; it defines the embedding space.

With folds, one more model per fold is trained without the fold's rows, and its tables are rotated into that space.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from mec.bundle import Bundle, file_sha256, write_bundle
from mec.checkpoints import Checkpoints
from mec.config import PretrainConfig
from mec.ctr_model import CtrModel
from mec.data.dataset import EncodedDataset
from mec.data.folds import Folds
from mec.data.vocabulary import LINEAR, Vocabularies
from mec.distributed.gathering import gathered
from mec.distributed.launching import run_in_processes
from mec.distributed.processes import current, joined, shared_step
from mec.embeddings.full import FullEmbedding
from mec.errors import DataError
from mec.fold_training import count_rows, fold_seed, into_space, refuse_unlearned, save_fold
from mec.models import build_backbone
from mec.training import FitResult, fit


def pretrain_step(
    *, pretrain: PretrainConfig, dataset: Path, vocabulary: Path, seed: int, checkpoints: Path | None, out: Path
) -> None:
    """Train the small model on full tables and write the ``pretrained`` bundle.

    Args:
        pretrain: Model, D, optimizer.
        dataset: Dataset bundle.
        vocabulary: Vocabulary bundle, for the values' training counts.
        seed: Of first vectors and shuffling.
        checkpoints: Directory for resuming a killed run; None keeps none.
        out: Directory of the bundle.

    Raises:
        DataError: Too few training rows or values for the folds.
        TrainingError: A loss term is not finite, or a fold's model learned nothing where the model of all rows did.
    """
    given = {"pretrain": pretrain, "dataset": dataset, "vocabulary": vocabulary, "seed": seed}
    if run_in_processes("pretrain", pretrain.processes, {**given, "checkpoints": checkpoints, "out": out}):
        return
    with shared_step("pretrain", out) as record, joined(pretrain.device, "pretrain.device"):
        data = EncodedDataset.open(dataset)
        vocabularies = Vocabularies.open(vocabulary)
        counts = {name: vocabularies.counts(name) for name, _ in data.layout.vocabularies}
        trainings = _Trainings(pretrain, checkpoints, out.parent)
        model, tables, result = trainings.run(data, seed)
        if tables is None:  # this process helps to train, and the first one writes
            for fold in range(pretrain.folds):
                trainings.run_without(data, seed, fold)
            trainings.clear_checkpoints()
            return
        tables = fill_unseen(tables, counts, vocabularies.types)
        parents: dict[str, Bundle | str] = {"dataset": data.bundle, "vocabulary": vocabularies.bundle.uuid}
        config = {"pretrain": pretrain.model_dump(mode="json"), "seed": seed}
        with write_bundle(out, "pretrained", parents=parents, config=config) as draft:
            save_file(
                {name: t.detach().cpu().contiguous() for name, t in tables.items()}, draft.path / "tables.safetensors"
            )
            save_file({"bias": model.bias.detach().cpu().reshape(1)}, draft.path / "bias.safetensors")
            digest = hashlib.sha256(file_sha256(draft.path / "tables.safetensors").encode()).digest()
            facts = []
            for fold in range(pretrain.folds):
                facts.append(_train_fold(trainings, data, seed, fold, tables, vocabularies, draft.path))
                refuse_unlearned(fold, facts[-1]["fit"]["best_auc"], result.best_auc)
            draft.extra = {
                "space": str(uuid.UUID(bytes=digest[:16], version=5)),
                "embedding_dim": pretrain.embedding_dim,
                "model": pretrain.model,
                "layout": data.layout.to_json(),
                "fit": result.to_json(),
                "folds": {"num": pretrain.folds, "seed": seed, "fits": facts},
            }
        trainings.clear_checkpoints()
        what = f"{pretrain.model}, D {pretrain.embedding_dim}"
        record.summary = f"{what}: valid AUC {result.best_auc:.4f} after {result.best_epoch:g} epochs"
        if facts:
            aucs = [fact["fit"]["best_auc"] for fact in facts]
            record.summary += f"; {len(facts)} folds left out: {min(aucs):.4f} to {max(aucs):.4f}"


class _Trainings:
    """Trainings of the small model that differ in rows and seed only; each keeps its own checkpoints.

    Processes that train together run the same ones in the same order.
    """

    def __init__(self, pretrain: PretrainConfig, checkpoints: Path | None, folder: Path) -> None:
        self.pretrain = pretrain
        self._directory = checkpoints
        self._folder = folder  # where the first of several processes gathers tables
        self._kept: list[Checkpoints] = []

    def run(
        self, data: EncodedDataset, seed: int, fold: int | None = None
    ) -> tuple[CtrModel, dict[str, Tensor] | None, FitResult]:
        """A trained model, its tables and how its training went; ``fold`` is the one that ``data`` leaves out.

        Processes other than the first get None for tables.
        """
        pretrain, kept = self.pretrain, None
        if self._directory:
            key = [data.bundle.uuid, pretrain.model_dump(mode="json"), seed, fold]
            kept = Checkpoints(self._directory, "pretrain" if fold is None else f"pretrain-fold-{fold}", key)
            self._kept.append(kept)
        part = (1 if fold is None else fold + 2, 1 + pretrain.folds)
        model = build_pretrained(data, pretrain, seed)

        def l2_at(epoch: float) -> float:
            return (
                pretrain.l2 * min(1.0, epoch / pretrain.l2_warmup_epochs) if pretrain.l2_warmup_epochs else pretrain.l2
            )

        result = fit(model, data, pretrain, name="pretrain", seed=seed, l2_at=l2_at, checkpoints=kept, part=part)
        assert isinstance(model.embedding, FullEmbedding)
        whole = gathered(model.embedding, self._folder)
        return model, None if whole is None else whole.tables(), result

    def run_without(
        self, data: EncodedDataset, seed: int, fold: int
    ) -> tuple[EncodedDataset, dict[str, Tensor] | None, FitResult]:
        """Train without the rows of one fold: the other rows, tables and how it went, as ``run`` gives them.

        Raises:
            DataError: There are no other rows.
        """
        rest = data.without_fold(Folds(self.pretrain.folds, seed), fold)
        if not rest.num_rows("train"):
            raise DataError(
                f"fold {fold} of {self.pretrain.folds} holds all training rows",
                found=f"no rows left of {rest.bundle.path}",
                fix="set pretrain.folds to 0, or train on more rows",
            )
        _, tables, result = self.run(rest, fold_seed(seed, fold), fold)
        return rest, tables, result

    def clear_checkpoints(self) -> None:
        """Drop what a finished step no longer needs; until then a rerun finds every finished training."""
        current().wait()
        for kept in self._kept:
            kept.clear()


def _train_fold(
    trainings: _Trainings,
    data: EncodedDataset,
    seed: int,
    fold: int,
    space: Mapping[str, Tensor],
    vocabularies: Vocabularies,
    directory: Path,
) -> dict[str, Any]:
    """Train without one fold, rotate into the space and save; facts for the manifest."""
    rest, trained, result = trainings.run_without(data, seed, fold)
    assert trained is not None
    own, counts = count_rows(rest), {name: vocabularies.counts(name) for name in space}
    tables, agreement = into_space(fill_unseen(trained, own, vocabularies.types), space, own, counts)
    save_fold(directory, fold, tables, own)
    return {"fit": result.to_json(), "alignment": agreement}


def build_pretrained(data: EncodedDataset, pretrain: PretrainConfig, seed: int) -> CtrModel:
    """The untrained small model over full tables."""
    embedding = FullEmbedding(data.layout, pretrain.embedding_dim)
    embedding.initialise(torch.Generator().manual_seed(seed), pretrain.init_std)
    torch.manual_seed(seed)
    backbone = build_backbone(pretrain.model, data.layout.num_fields, pretrain.embedding_dim, pretrain.settings)
    return CtrModel(data.layout, embedding, backbone)


def fill_unseen(
    tables: dict[str, Tensor], counts: Mapping[str, NDArray[np.int64]], types: Mapping[str, str]
) -> dict[str, Tensor]:
    """Give rows that no training row touched the mean of their vocabulary's other rows.

    Unweighted, the mean is mostly that of rare values, which is what an unknown value most likely is. A linear
    field's null gets zeros, what a number of average size adds: its only other row is the direction of the numbers.

    Args:
        tables: Vocabulary -> (V, D + 1); changed in place and returned.
        counts: Vocabulary -> (V,) training counts.
        types: Vocabulary -> type of its values.
    """
    for name, table in tables.items():
        seen = torch.from_numpy(np.asarray(counts[name]) > 0)
        if bool(seen.any()) and not bool(seen.all()):
            table[~seen] = 0.0 if types[name] == LINEAR else table[seen].mean(dim=0)
    return tables
