"""What one process, and two that train together, both run; ``python -m tests.distributed.cases DATASET OUT`` is one of
the two."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mec.checkpoints import Checkpoints
from mec.config import OptimizerConfig
from mec.ctr_model import CtrModel, predict_split
from mec.data.dataset import EncodedDataset
from mec.distributed import gathering
from mec.distributed.gathering import gathered
from mec.distributed.processes import current, joined
from mec.distributed.sharded_table import ShardedTable
from mec.embeddings import full
from mec.embeddings.full import FullEmbedding
from mec.errors import TrainingError
from mec.models import build_backbone
from mec.optimizer import CtrOptimizer
from mec.training import fit, train_batch

BATCH_ROWS = 256
FEW_ROWS = 50  # several chunks in small tables
BACKBONES: dict[str, dict[str, Any]] = {
    "fm": {},
    "deepfm": {"hidden_units": (8,), "dropout": 0.0},
    "dcnv2": {"hidden_units": (8,), "dropout": 0.0, "batch_norm": True},
}
DROPPING = {"hidden_units": (8,), "dropout": 0.5}
FIT = OptimizerConfig(learning_rate=0.02, l2=0.01, batch_size=BATCH_ROWS, max_epochs=4, patience=4)


class KilledError(Exception):
    pass


class Stopped(Checkpoints):
    """Gives up after the second checkpoint."""

    saves = 0

    def save(self, state: dict[str, Any]) -> None:
        super().save(state)
        self.saves += 1
        if self.saves == 2:
            raise KilledError


def run_cases(data: EncodedDataset, folder: Path) -> dict[str, Any]:
    """Facts of every case; tables are in the first process's only."""
    results: dict[str, Any] = {name: take_steps(data, name, folder) for name in BACKBONES}
    results["fit"] = resumed(data, folder)
    results["not finite"] = refused(data)
    results["draws"] = draws(data)
    return results


def new_model(data: EncodedDataset, backbone: str, settings: dict[str, Any]) -> CtrModel:
    torch.manual_seed(3)
    embedding = FullEmbedding(data.layout, 6)
    embedding.initialise(torch.Generator().manual_seed(0), 0.1)
    return CtrModel(data.layout, embedding, build_backbone(backbone, 4, 6, settings))


def facts_of(model: CtrModel, data: EncodedDataset, folder: Path) -> dict[str, Any]:
    """Tables, dense weights and scores of a model, and how many floats of tables and moments this process holds."""
    assert isinstance(model.embedding, FullEmbedding)
    table = model.embedding.table
    local = table.local if isinstance(table, ShardedTable) else table
    whole = gathered(model.embedding, folder)
    rest = {k: v.clone() for k, v in model.state_dict().items() if not k.startswith("embedding.")}
    logits, labels = predict_split(model, data, "valid", 100)
    return {
        "table": None if whole is None else whole.table.weight.clone(),
        "dense": rest,
        "logits": torch.from_numpy(logits),
        "labels": torch.from_numpy(labels),
        "held_rows": (len(local.weight), len(local.moments), len(local.scratch)),
    }


def take_steps(data: EncodedDataset, backbone: str, folder: Path) -> dict[str, Any]:
    """Two passes, each ending with a batch of one row."""
    model = new_model(data, backbone, BACKBONES[backbone])
    optimizer, losses = CtrOptimizer(model, 0.02), []
    start = facts_of(model, data, folder)
    for epoch in range(2):
        for batch in data.batches("train", BATCH_ROWS, seed=1, epoch=epoch):
            model.train()
            step = len(losses) + 1
            losses.append(train_batch(model, optimizer, batch, 0.05, torch.device("cpu"), step))
    return {"start": start, "losses": losses, "end": facts_of(model, data, folder)}


def resumed(data: EncodedDataset, folder: Path) -> dict[str, Any]:
    """A training with dropout, whole, and killed and begun again."""
    whole = new_model(data, "deepfm", DROPPING)
    found = fit(whole, data, FIT, name="train", seed=0)
    again = new_model(data, "deepfm", DROPPING)
    try:
        fit(again, data, FIT, name="train", seed=0, checkpoints=Stopped(folder, "train", "key"))
    except KilledError:
        again = new_model(data, "deepfm", DROPPING)
    kept = Checkpoints(folder, "train", "key")
    assert kept.path.exists()
    second = fit(again, data, FIT, name="train", seed=0, checkpoints=kept)
    torch.save({"num_steps": 7 + current().rank}, kept.path)  # as if one of two was killed before it was done
    unlike = kept.load()
    return {
        "whole": {k: v.clone() for k, v in whole.state_dict().items()},
        "resumed": {k: v.clone() for k, v in again.state_dict().items()},
        "history": [[(v.step, v.train_loss, v.valid_auc) for v in r.history] for r in (found, second)],
        "unlike": unlike,
    }


def refused(data: EncodedDataset) -> str:
    """The error of a batch of which only the last row is not finite."""
    model = new_model(data, "fm", {})
    optimizer = CtrOptimizer(model, 0.1)
    model.train()
    batch = next(data.batches("train", 64))
    labels = batch.label.copy()
    labels[-1] = np.nan
    try:
        train_batch(model, optimizer, replace(batch, label=labels), 0.0, torch.device("cpu"), 7)
    except TrainingError as error:
        return str(error)
    return "no error"


def draws(data: EncodedDataset) -> Tensor:
    """What this process draws first in a training."""
    model = new_model(data, "fm", {})
    fit(model, data, FIT.model_copy(update={"max_epochs": 1}), name="train", seed=0)
    return torch.rand(3)


def main() -> None:
    """Join the other process, run the cases, leave the results."""
    dataset, out = map(Path, sys.argv[1:])
    full.CHUNK_ROWS = gathering.CHUNK_ROWS = FEW_ROWS
    with joined("cpu", "train.device") as processes:
        results = run_cases(EncodedDataset.open(dataset), out)
        torch.save(results, out / f"results-{processes.rank}.pt")


if __name__ == "__main__":
    main()
