"""What a job does, by the pipeline's own step functions; runs in a process of its own."""

from __future__ import annotations

import tempfile
import time
import traceback
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, cast

from compression_study.hashing import write_hashed
from compression_study.plan import Job, Workspace
from compression_study.variants import Point, Variant, point_json
from mec.bundle import MANIFEST, code_hash, open_bundle, read_json, write_json
from mec.config import QuantizeConfig, RunConfig
from mec.ctr_model import CtrModel, EmbeddingMethod, predict_split
from mec.data.counting import count_step
from mec.data.dataset import EncodedDataset
from mec.data.encoding import encode_step
from mec.data.vocabulary import Vocabularies, vocabulary_step
from mec.embeddings.full import FullEmbedding
from mec.evaluation.byte_accounting import full_bytes
from mec.evaluation.measuring import Logits, evaluate_predictions
from mec.evaluation.metrics import auc
from mec.evaluation.slices import slice_rows
from mec.model_bundle import load_ctr_model
from mec.pretraining import pretrain_step
from mec.quantize.quantizing import quantize_step
from mec.steps import STEP_FILE
from mec.training_steps import reference_step, train_step

SCRATCH = "scratch"
_KEPT = ("auc", "auc_low", "auc_high", "logloss", "logloss_uncalibrated", "calibration_error", "calibration", "slices")


def prepare(config: RunConfig, out: Path) -> None:
    """Count and encode a table, once."""
    if (out / "dataset" / MANIFEST).exists():
        return
    count_step(data=config.data, count=config.count, seed=config.seed, out=out / "counts")
    vocabulary_step(counts=out / "counts", count=config.count, out=out / "vocabulary")
    encode_step(data=config.data, vocabulary=out / "vocabulary", seed=config.seed, out=out / "dataset")


def run_job(workspace: Workspace, job: Job) -> str:
    """Do one job, its steps' lines going to ``log/``; returns a line for the person who waits.

    Raises:
        RuntimeError: The job failed; the message names the log, which has the traceback.
    """
    log = workspace.root / "log" / f"{job.leaves.parent.name}-{job.leaves.stem}.txt"
    if job.leaves.name in (STEP_FILE, MANIFEST):
        log = log.with_name(f"{job.kind}-{job.leaves.relative_to(workspace.root).parts[1]}.txt")
    log.parent.mkdir(exist_ok=True)
    start = time.monotonic()
    with log.open("w", encoding="utf-8") as stream, redirect_stdout(stream):
        print(job, flush=True)
        try:
            text = _DO[job.kind](workspace, job)
        except Exception as error:
            traceback.print_exc(file=stream)
            text = " ".join(str(error).split())
            raise RuntimeError(f"{type(error).__name__}: {text} (traceback in {log})") from None
    return f"{text}{', ' if text else ''}{time.monotonic() - start:.0f} s"


def _hash(workspace: Workspace, job: Job) -> str:
    data, out = workspace.data, workspace.hashed(job.variant)
    write_hashed(data / "dataset", data / "vocabulary", dict(job.variant.rows), out)
    return ", ".join(f"{name} {num:,} rows" for name, num in job.variant.rows)


def _pretrain(workspace: Workspace, job: Job) -> str:
    rows, out = workspace.hashed(job.variant), workspace.pretrained(job.variant, job.seed)
    pretrain_step(
        pretrain=job.variant.pretrain, dataset=rows / "dataset", vocabulary=rows / "vocabulary", seed=job.seed,
        checkpoints=None, out=out,
    )  # fmt: skip
    return str(read_json(out / STEP_FILE)["summary"])


def _quantize(workspace: Workspace, job: Job) -> str:
    out = workspace.quantized(job.variant, job.seed)
    quantize_step(
        quantize=QuantizeConfig.model_validate(dict(job.variant.quantize or {})),
        pretrained=workspace.pretrained(job.variant, job.seed),
        vocabulary=workspace.data / "vocabulary",
        seed=job.seed,
        out_codebook=out / "codebook",
        out_codes=out / "codes",
    )
    return str(read_json(out / "codebook" / STEP_FILE)["summary"])


def _search(workspace: Workspace, job: Job) -> str:
    """Train at one point; the validation AUC that the training saw is all that is looked at."""
    assert job.point is not None
    with tempfile.TemporaryDirectory(dir=_scratch(workspace)) as temporary:
        model = Path(temporary) / "model"
        _train(workspace, job.variant, job.point, job.seed, model)
        fit = open_bundle(model, "model").extra["fit"]
        seconds = read_json(model / STEP_FILE)["seconds"]
    facts = {
        "variant": job.variant.label,
        "point": point_json(job.point),
        "valid_auc": fit["best_auc"],
        "epoch": fit["best_epoch"],
        "seconds": seconds,
        "seed": job.seed,
        "code_hash": code_hash(),
    }
    job.leaves.parent.mkdir(exist_ok=True)
    write_json(job.leaves, facts)
    return f"valid AUC {fit['best_auc']:.4f}"


def _cell(workspace: Workspace, job: Job) -> str:
    """Train at the chosen point and measure on validation and test rows."""
    assert job.point is not None
    pretrained = workspace.pretrained(job.variant, job.seed)
    with tempfile.TemporaryDirectory(dir=_scratch(workspace)) as temporary:
        model = Path(temporary) / "model"
        _train(workspace, job.variant, job.point, job.seed, model)
        fit = open_bundle(model, "model").extra["fit"]
        seconds = {
            "pretrain": read_json(pretrained / STEP_FILE)["seconds"],
            "train": read_json(model / STEP_FILE)["seconds"],
        }
        codebook = None
        if job.variant.quantize is not None:
            codebook = open_bundle(workspace.quantized(job.variant, job.seed) / "codebook", "codebook")
            seconds["quantize"] = read_json(codebook.path / STEP_FILE)["seconds"]
        start = time.monotonic()
        measured = _measure(workspace, job.variant, job.seed, model)
        seconds["evaluate"] = round(time.monotonic() - start, 3)
    tables = open_bundle(pretrained, "pretrained").manifest
    epochs = {"pretrain": tables.extra["fit"]["best_epoch"], "train": fit["best_epoch"]}
    settings = job.variant.fit_settings(workspace.study, job.point)
    facts = {
        "variant": job.variant.label,
        "method": job.variant.method,
        "size": job.variant.size,
        "seed": job.seed,
        "point": point_json(job.point),
        "settings": settings | {"pretrain": job.variant.pretrain.model_dump(mode="json")},
        "quantize": job.variant.quantize_settings(),
        "coded": {} if codebook is None else codebook.extra["coded"],
        "hashed_rows": dict(job.variant.rows),
        "seconds": seconds,
        "epochs": epochs,
        "code_hash": code_hash(),
        "pretrained_code_hash": tables.code_hash,
    }
    job.leaves.parent.mkdir(exist_ok=True)
    write_json(job.leaves, facts | measured)
    return f"test AUC {measured['auc']:.4f}, {measured['ratio']:.1f}x"


def _train(workspace: Workspace, variant: Variant, point: Point, seed: int, out: Path) -> None:
    rows, pretrained = workspace.hashed(variant) / "dataset", workspace.pretrained(variant, seed)
    train = variant.train_config(workspace.study, point)
    if variant.quantize is None:
        evaluate = variant.evaluate_config(workspace.study, point)
        reference_step(
            train=train, evaluate=evaluate, dataset=rows, pretrained=pretrained, seed=seed, checkpoints=None, out=out
        )
        return
    quantized = workspace.quantized(variant, seed)
    train_step(
        train=train, dataset=rows, pretrained=pretrained, codebook=quantized / "codebook", codes=quantized / "codes",
        seed=seed, checkpoints=None, out=out,
    )  # fmt: skip


def _measure(workspace: Workspace, variant: Variant, seed: int, model_path: Path) -> dict[str, Any]:
    """As the evaluate step measures; it would need a codebook, which full tables do not have.

    Full tables are measured a second time, under ``float16``: rows rounded to fp16, and counted so.
    """
    codebook = codes = None
    if variant.quantize is not None:
        quantized = workspace.quantized(variant, seed)
        codebook, codes = open_bundle(quantized / "codebook", "codebook"), open_bundle(quantized / "codes", "codes")
    model = load_ctr_model(open_bundle(model_path, "model"), codebook, codes)
    facts = _measure_model(workspace, variant, model)
    if isinstance(model.embedding, FullEmbedding):
        model.embedding.load({name: table.half() for name, table in model.embedding.tables().items()})
        rounded = _measure_model(workspace, variant, model)
        parts = {part: size // 2 for part, size in rounded["bytes"].items()}
        facts["float16"] = rounded | {"bytes": parts, "ratio": 2 * rounded["ratio"]}
    return facts


def _measure_model(workspace: Workspace, variant: Variant, model: CtrModel) -> dict[str, Any]:
    config = workspace.study.config
    batch_size = config.evaluate.batch_size
    rows = EncodedDataset.open(workspace.hashed(variant) / "dataset")
    valid_logits, valid_labels = predict_split(model, rows, "valid", batch_size)
    test_logits, test_labels = predict_split(model, rows, "test", batch_size)
    # cut by the table's own values for every method: hashed rows keep the order of the table's
    original = EncodedDataset.open(workspace.data / "dataset")
    vocabularies = Vocabularies.open(workspace.data / "vocabulary")
    layout = original.layout
    counts = {name: vocabularies.counts(name) for name, _ in layout.vocabularies}
    large = [name for name, size in layout.vocabularies if size >= config.quantize.min_values]
    measured = evaluate_predictions(
        valid_labels=valid_labels,
        test_labels=test_labels,
        compressed=Logits(valid_logits, test_logits),
        slicings=slice_rows(original.batches("test", batch_size), layout, counts, large),
    )
    parts = {k: int(v) for k, v in cast(EmbeddingMethod, model.embedding).serving_bytes().items()}
    full = full_bytes(layout, config.pretrain.embedding_dim)
    facts = {key: measured[key] for key in _KEPT}
    facts |= {"bytes": parts, "full_bytes": full, "ratio": full / sum(parts.values())}
    return facts | {"valid_auc": auc(valid_labels, valid_logits), "num_test_rows": len(test_labels)}


def _scratch(workspace: Workspace) -> Path:
    path = workspace.root / SCRATCH
    path.mkdir(exist_ok=True)
    return path


_DO = {"hash": _hash, "pretrain": _pretrain, "quantize": _quantize, "search": _search, "cell": _cell}
