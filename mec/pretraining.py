"""Pre-train the small model whose embeddings are compressed; it defines the embedding space."""

from __future__ import annotations

import hashlib
import uuid
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from mec.bundle import Bundle, file_sha256, write_bundle
from mec.checkpoints import Checkpoints
from mec.config import PretrainConfig
from mec.ctr_model import CtrModel
from mec.data.dataset import EncodedDataset
from mec.data.vocabulary import LINEAR, Vocabularies
from mec.embeddings.full import FullEmbedding
from mec.models import build_backbone
from mec.steps import step
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
        TrainingError: A loss term is not finite.
    """
    with step("pretrain", out) as record:
        data = EncodedDataset.open(dataset)
        vocabularies = Vocabularies.open(vocabulary)
        settings = pretrain.model_dump(mode="json")
        kept = Checkpoints(checkpoints, "pretrain", [data.bundle.uuid, settings, seed]) if checkpoints else None
        model = build_pretrained(data, pretrain, seed)

        def l2_at(epoch: float) -> float:
            return (
                pretrain.l2 * min(1.0, epoch / pretrain.l2_warmup_epochs) if pretrain.l2_warmup_epochs else pretrain.l2
            )

        result = fit(model, data, pretrain, name="pretrain", seed=seed, l2_at=l2_at, checkpoints=kept)
        assert isinstance(model.embedding, FullEmbedding)
        tables = fill_unseen(model.embedding.tables(), vocabularies)
        _write(out, data, vocabularies.bundle.uuid, tables, model.bias.detach(), pretrain, seed, result)
        if kept:
            kept.clear()
        what = f"{pretrain.model}, D {pretrain.embedding_dim}"
        record.summary = f"{what}: valid AUC {result.best_auc:.4f} after {result.best_epoch:g} epochs"


def build_pretrained(data: EncodedDataset, pretrain: PretrainConfig, seed: int) -> CtrModel:
    """The untrained small model over full tables."""
    embedding = FullEmbedding(data.layout, pretrain.embedding_dim)
    embedding.initialise(torch.Generator().manual_seed(seed), pretrain.init_std)
    torch.manual_seed(seed)
    backbone = build_backbone(pretrain.model, data.layout.num_fields, pretrain.embedding_dim, pretrain.settings)
    return CtrModel(data.layout, embedding, backbone)


def fill_unseen(tables: dict[str, Tensor], vocabularies: Vocabularies) -> dict[str, Tensor]:
    """Give rows that no training row touched the mean of their vocabulary's other rows.

    Unweighted, the mean is mostly that of rare values, which is what an unknown value most likely is. A linear
    field's null gets zeros, what a number of average size adds: its only other row is the direction of the numbers.

    Args:
        tables: Vocabulary -> (V, D + 1); changed in place and returned.
        vocabularies: Training counts.
    """
    for name, table in tables.items():
        seen = torch.from_numpy(np.asarray(vocabularies.counts(name)) > 0)
        if bool(seen.any()) and not bool(seen.all()):
            table[~seen] = 0.0 if vocabularies.types[name] == LINEAR else table[seen].mean(dim=0)
    return tables


def _write(
    out: Path,
    data: EncodedDataset,
    vocabulary: str,
    tables: dict[str, Tensor],
    bias: Tensor,
    pretrain: PretrainConfig,
    seed: int,
    result: FitResult,
) -> None:
    parents: dict[str, Bundle | str] = {"dataset": data.bundle, "vocabulary": vocabulary}
    config = {"pretrain": pretrain.model_dump(mode="json"), "seed": seed}
    with write_bundle(out, "pretrained", parents=parents, config=config) as draft:
        save_file(
            {name: t.detach().cpu().contiguous() for name, t in tables.items()}, draft.path / "tables.safetensors"
        )
        save_file({"bias": bias.detach().cpu().reshape(1)}, draft.path / "bias.safetensors")
        digest = hashlib.sha256(file_sha256(draft.path / "tables.safetensors").encode()).digest()
        draft.extra = {
            "space": str(uuid.UUID(bytes=digest[:16], version=5)),
            "embedding_dim": pretrain.embedding_dim,
            "model": pretrain.model,
            "layout": data.layout.to_json(),
            "fit": result.to_json(),
        }
