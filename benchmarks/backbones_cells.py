"""The cells of ``backbones.py``: one training each, kept as one JSON file; what cells share is made once.

    WORK/data/DATASET-HASH/             counts, vocabulary, dataset
    WORK/spaces/DATASET-MODEL-SEED-HASH/  pretrained, codebook, codes
    WORK/cells/DATASET-MODEL-BACKBONE-EMBEDDING-SEED-HASH.json

A hash is of all the settings that shape what it names. Everything is written aside and renamed when it is complete, so
a killed run goes on where it was. One run at a time may use a WORK directory.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from backbones_settings import CHOICES
from full_tables import SMALL_STEPS
from refresh_study.files import complete

from mec.config import EvaluateConfig, PretrainConfig, ReferenceConfig, RunConfig, TrainConfig

Facts = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One backbone, trained and measured once.

    Attributes:
        config: Of the data set, with ``pretrain.model`` set; its seed is not used.
        backbone: Registry name.
        embedding: ``codes`` or ``full``.
        seed: Of the pre-training, the codebooks and the backbone.
    """

    config: RunConfig
    backbone: str
    embedding: str
    seed: int

    def train(self) -> TrainConfig:
        """Settings of the model on codes."""
        choice = CHOICES[self.backbone]
        own = {"model": self.backbone, "settings": choice.settings} | choice.train
        return TrainConfig.model_validate(self.config.train.model_dump() | own)

    def evaluate(self) -> EvaluateConfig:
        """Settings of the model on full tables, as the reference step reads them."""
        full = ReferenceConfig.model_validate(self.config.evaluate.full.model_dump() | SMALL_STEPS)
        return self.config.evaluate.model_copy(update={"reference": "full", "full": full})

    def data(self, work: Path) -> Path:
        """Directory of the encoded data."""
        return work / "data" / f"{self.config.name}-{_hash(_data_settings(self.config))}"

    def space(self, work: Path) -> Path:
        """Directory of the pre-trained tables, the codebook and the codes."""
        name = f"{self.config.name}-{self.config.pretrain.model}-{self.seed}"
        return work / "spaces" / f"{name}-{_hash(self._space_settings())}"

    def file(self, work: Path) -> Path:
        """Where the cell's facts are kept."""
        if self.embedding == "codes":
            own: list[Any] = [self.train().model_dump(mode="json")]
        else:
            own = [self.evaluate().full.model_dump(mode="json"), self.backbone, CHOICES[self.backbone].settings]
        name = f"{self.config.name}-{self.config.pretrain.model}-{self.backbone}-{self.embedding}-{self.seed}"
        return work / "cells" / f"{name}-{_hash([self._space_settings(), own])}.json"

    def _space_settings(self) -> list[Any]:
        parts = [c.model_dump(mode="json") for c in (self.config.pretrain, self.config.quantize)]
        return [_data_settings(self.config), *parts, self.seed]


def pretrained_by(config: RunConfig, model: str) -> RunConfig:
    """The config with this pre-trained model in its default settings, all else equal."""
    if config.pretrain.model == model:
        return config
    pretrain = config.pretrain.model_dump() | {"model": model, "settings": {}}
    return config.model_copy(update={"pretrain": PretrainConfig.model_validate(pretrain)})


def run_cells(cells: list[Cell], work: Path, processes: int) -> None:
    """Train what is missing: first the data, then the spaces, then the cells.

    Args:
        cells: Those wanted; one whose file is there is not run.
        work: Directory that everything is kept in.
        processes: Run at once, one torch thread each.

    Raises:
        MecError: A step failed; all others were still run, and another run repeats only what is missing.
    """
    os.environ["OMP_NUM_THREADS"] = "1"  # before the processes load torch
    missing = [c for c in cells if not c.file(work).exists()]
    print(f"{len(cells)} cells, {len(missing)} to run", flush=True)
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:

        def all_of(task: Callable[[Cell, Path], None], wanted: Iterable[Cell]) -> None:
            futures = [pool.submit(task, cell, work) for cell in wanted]
            errors = [f.exception() for f in futures]
            for error in filter(None, errors):
                raise error

        all_of(make_data, {c.data(work): c for c in missing}.values())
        all_of(make_space, {c.space(work): c for c in missing}.values())
        all_of(run_cell, missing)


def make_data(cell: Cell, work: Path) -> None:
    """Count, make the vocabulary, encode."""
    from mec.data.counting import count_step
    from mec.data.encoding import encode_step
    from mec.data.vocabulary import vocabulary_step

    def make(out: Path) -> None:
        config = cell.config
        count_step(data=config.data, count=config.count, seed=config.seed, out=out / "counts")
        vocabulary_step(counts=out / "counts", count=config.count, out=out / "vocabulary")
        encode_step(data=config.data, vocabulary=out / "vocabulary", seed=config.seed, out=out / "dataset")

    complete(cell.data(work), make)


def make_space(cell: Cell, work: Path) -> None:
    """Pre-train and quantize."""
    from mec.pretraining import pretrain_step
    from mec.quantize.quantizing import quantize_step

    def make(out: Path) -> None:
        config, data = cell.config, cell.data(work)
        pretrain_step(
            pretrain=config.pretrain,
            dataset=data / "dataset",
            vocabulary=data / "vocabulary",
            seed=cell.seed,
            checkpoints=None,
            out=out / "pretrained",
        )
        quantize_step(
            quantize=config.quantize,
            pretrained=out / "pretrained",
            vocabulary=data / "vocabulary",
            seed=cell.seed,
            out_codebook=out / "codebook",
            out_codes=out / "codes",
        )

    complete(cell.space(work), make)


def run_cell(cell: Cell, work: Path) -> None:
    """Train one backbone, measure it and write its facts; the model itself is not kept."""
    from mec.training_steps import reference_step, train_step

    dataset, space = cell.data(work) / "dataset", cell.space(work)
    common: dict[str, Any] = {
        "train": cell.train(),
        "dataset": dataset,
        "pretrained": space / "pretrained",
        "seed": cell.seed,
        "checkpoints": None,
    }
    with tempfile.TemporaryDirectory(dir=work) as temporary:
        model = Path(temporary) / "model"
        if cell.embedding == "codes":
            train_step(**common, codebook=space / "codebook", codes=space / "codes", out=model)
        else:
            reference_step(**common, evaluate=cell.evaluate(), out=model)
        facts = measure(model, dataset, space, cell.config.evaluate.batch_size)
    facts |= {
        "dataset": cell.config.name,
        "pretrained": cell.config.pretrain.model,
        "backbone": cell.backbone,
        "embedding": cell.embedding,
        "seed": cell.seed,
    }
    file = cell.file(work)
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(".part")
    draft.write_text(json.dumps(facts, indent=1), encoding="utf-8")
    draft.replace(file)


def measure(model: Path, dataset: Path, space: Path, batch_size: int) -> Facts:
    """Facts of a trained model, with the evaluate step's own functions.

    Args:
        model: Bundle, and ``step.json`` of the step that made it.
        dataset: Bundle.
        space: Directory with the codebook and codes.
        batch_size: Rows per step of scoring.

    Returns:
        ``valid_auc``, test ``auc`` and ``logloss`` (calibrated on the validation split), ``ratio`` in bytes,
        ``parameters`` of the backbone and its ``table_bytes``, and ``train_rows_per_s``: rows that training read,
        by all the step's seconds, validations among them.
    """
    from mec.bundle import open_bundle, read_json
    from mec.ctr_model import predict_split
    from mec.data.dataset import EncodedDataset
    from mec.evaluation.byte_accounting import full_bytes
    from mec.evaluation.measuring import Logits, evaluate_predictions
    from mec.model_bundle import load_ctr_model
    from mec.steps import STEP_FILE

    bundle, rows = open_bundle(model, "model"), EncodedDataset.open(dataset)
    codes = bundle.extra["embedding"] == "codes"
    ctr_model = load_ctr_model(
        bundle,
        open_bundle(space / "codebook", "codebook") if codes else None,
        open_bundle(space / "codes", "codes") if codes else None,
    )
    valid, valid_labels = predict_split(ctr_model, rows, "valid", batch_size)
    test, test_labels = predict_split(ctr_model, rows, "test", batch_size)
    measured = evaluate_predictions(valid_labels=valid_labels, test_labels=test_labels, compressed=Logits(valid, test))
    fit, step = bundle.extra["fit"], read_json(model / STEP_FILE)
    table_bytes = sum(ctr_model.embedding.serving_bytes().values())  # type: ignore[operator]
    return {
        "valid_auc": fit["best_auc"],
        "auc": measured["auc"],
        "logloss": measured["logloss"],
        "ratio": full_bytes(rows.layout, int(bundle.extra["embedding_dim"])) / table_bytes,
        "table_bytes": table_bytes,
        "parameters": sum(p.numel() for p in ctr_model.backbone.parameters()),
        "train_rows_per_s": rows.num_rows("train") * fit["history"][-1]["epoch"] / step["seconds"],
        "epochs": fit["best_epoch"],
    }


def _data_settings(config: RunConfig) -> list[Any]:
    return [config.data.model_dump(mode="json"), config.count.model_dump(mode="json"), config.seed]


def _hash(settings: list[Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
