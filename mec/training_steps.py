"""The steps that train a backbone: on codes, and on full tables as the reference."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from mec.bundle import Bundle, open_bundle, write_bundle
from mec.checkpoints import Checkpoints
from mec.config import EvaluateConfig, OptimizerConfig, TrainConfig
from mec.ctr_model import CtrModel
from mec.data.dataset import EncodedDataset
from mec.data.layout import FieldLayout
from mec.distributed.gathering import gathered
from mec.distributed.launching import run_in_processes
from mec.distributed.processes import joined, shared_step
from mec.embeddings.coded import CodedEmbedding
from mec.embeddings.full import FullEmbedding
from mec.errors import SpaceError
from mec.fold_training import FoldTables
from mec.model_bundle import write_model
from mec.models import Backbone, build_backbone
from mec.quantize.codebook import Codebooks
from mec.quantize.codes import Codes
from mec.quantize.fold_codes import code_folds
from mec.steps import StepRecord
from mec.training import FitResult, fit


def train_step(
    *,
    train: TrainConfig,
    dataset: Path,
    pretrained: Path,
    codebook: Path,
    codes: Path,
    seed: int,
    checkpoints: Path | None,
    out: Path,
) -> None:
    """Train the backbone on codes and write its ``model`` bundle.

    Raises:
        SpaceError: Codebook and pre-trained tables are of different spaces, codes of another codebook, or the
            dataset of other vocabularies.
        TrainingError: A loss term is not finite.
    """
    given = {"train": train, "dataset": dataset, "pretrained": pretrained, "codebook": codebook, "codes": codes}
    if run_in_processes("train", train.processes, {**given, "seed": seed, "checkpoints": checkpoints, "out": out}):
        return
    with shared_step("train", out) as record, joined(train.device, "train.device") as processes:
        data = EncodedDataset.open(dataset)
        tables, book, own_codes = (
            open_bundle(pretrained, "pretrained"),
            open_bundle(codebook, "codebook"),
            open_bundle(codes, "codes"),
        )
        if book.extra["space"] != tables.extra["space"]:
            raise SpaceError(
                f"the codebook {book.uuid} is not of the space of the pre-trained tables {tables.uuid}",
                found=book.extra["space"],
                fix=f"quantize {tables.path} (space {tables.extra['space']}) again",
            )
        _check_layout(data, book)
        torch.manual_seed(seed)
        codebooks = Codebooks.open(book)
        opened, fold_tables = Codes.open(own_codes, codebooks), FoldTables.of(tables)
        folds = code_folds(fold_tables, opened, book.extra["weights"]) if fold_tables else None
        embedding = CodedEmbedding(codebooks, opened, train.codewords, folds)
        rows = data.with_folds(fold_tables.folds) if fold_tables else data
        parents = {"dataset": data.bundle, "codebook": book, "codes": own_codes}
        backbone = _backbone(train, data, codebooks.embedding_dim)
        model = CtrModel(data.layout, embedding, backbone, field_scales=train.has_field_scales)
        kept = _checkpoints(checkpoints, "train", train, tables, parents, train, seed)
        result = fit(model, rows, train, name="train", seed=seed, checkpoints=kept)
        if processes.first:
            write_model(
                out,
                model,
                embedding="codes",
                backbone=train.model,
                space=codebooks.space,
                codebook=book.uuid,
                parents=parents,
                config={"train": train.model_dump(mode="json"), "seed": seed},
                fit=result.to_json(),
            )
        processes.wait()
        if kept:
            kept.clear()
        _summarise(record, f"{train.model} on codes ({train.codewords} codewords)", result)


def reference_step(
    *,
    train: TrainConfig,
    evaluate: EvaluateConfig,
    dataset: Path,
    pretrained: Path,
    seed: int,
    checkpoints: Path | None,
    out: Path,
) -> None:
    """Train the same backbone on full tables, or write a bundle that says there is no reference.

    Raises:
        SpaceError: Pre-trained tables and dataset are of different vocabularies.
        TrainingError: A loss term is not finite.
    """
    given = {"train": train, "evaluate": evaluate, "dataset": dataset, "pretrained": pretrained, "seed": seed}
    num = 1 if evaluate.reference == "none" else evaluate.full.processes
    if run_in_processes("reference", num, {**given, "checkpoints": checkpoints, "out": out}):
        return
    device = evaluate.full.device
    with shared_step("reference", out) as record, joined(device, "evaluate.full.device") as processes:
        data = EncodedDataset.open(dataset)
        tables = open_bundle(pretrained, "pretrained")
        parents: dict[str, Bundle] = {"dataset": data.bundle, "pretrained": tables}
        if evaluate.reference == "none":
            if processes.first:
                with write_bundle(out, "model", parents=parents) as draft:
                    draft.extra = {"embedding": "none"}
            record.summary = "no full-table reference (evaluate.reference: none)"
            return
        _check_layout(data, tables)
        torch.manual_seed(seed)
        embedding = FullEmbedding(data.layout, int(tables.extra["embedding_dim"]))
        if evaluate.full.init == "pretrained":
            embedding.load(load_file(tables.file("tables.safetensors")))
        else:
            embedding.initialise(torch.Generator().manual_seed(seed), 0.01)
        model = CtrModel(data.layout, embedding, _backbone(train, data, embedding.embedding_dim))
        kept = _checkpoints(checkpoints, "reference", evaluate.full, tables, parents, train, seed)
        result = fit(model, data, evaluate.full, name="reference", seed=seed, checkpoints=kept)
        whole = gathered(embedding, out.parent)
        if whole is not None:
            model.embedding = whole
            write_model(
                out,
                model,
                embedding="full",
                backbone=train.model,
                space=str(tables.extra["space"]),
                codebook=None,
                parents=parents,
                config={
                    "full": evaluate.full.model_dump(mode="json"),
                    "model": train.model,
                    "settings": train.settings,
                    "seed": seed,
                },
                fit=result.to_json(),
            )
        processes.wait()
        if kept:
            kept.clear()
        _summarise(record, f"{train.model} on full tables", result)


def _backbone(train: TrainConfig, data: EncodedDataset, embedding_dim: int) -> Backbone:
    return build_backbone(train.model, data.layout.num_fields, embedding_dim, train.settings)


def _checkpoints(
    directory: Path | None,
    name: str,
    settings: OptimizerConfig,
    tables: Bundle,
    parents: dict[str, Bundle],
    train: TrainConfig,
    seed: int,
) -> Checkpoints | None:
    """Checkpoints that only the same inputs and settings find again; None without a directory."""
    if directory is None:
        return None
    inputs = {role: b.uuid for role, b in parents.items()} | {"pretrained": tables.uuid}
    return Checkpoints(directory, name, [inputs, settings.model_dump(mode="json"), train.model, train.settings, seed])


def _check_layout(data: EncodedDataset, made_from: Bundle) -> None:
    """Refuse rows whose ids mean other values than those that tables or codes were made for."""
    if data.layout != FieldLayout.from_json(made_from.extra["layout"]):
        raise SpaceError(
            f"the dataset {data.bundle.path} was not encoded with the fields and vocabularies of {made_from.path}",
            found=dict(data.layout.vocabularies),
            fix=f"pass the dataset that {made_from.path} stems from",
        )


def _summarise(record: StepRecord, what: str, result: FitResult) -> None:
    record.summary = f"{what}: valid AUC {result.best_auc:.4f} after {result.best_epoch:g} epochs"
