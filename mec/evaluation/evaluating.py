"""The evaluate step: predict, measure, account for every byte, draw, and write one report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from mec.bundle import Bundle, BundleDraft, open_bundle, write_bundle, write_json
from mec.config import EvaluateConfig
from mec.ctr_model import CtrModel, EmbeddingMethod, predict_split
from mec.data.dataset import EncodedDataset
from mec.data.layout import FieldLayout
from mec.data.vocabulary import Vocabularies
from mec.errors import BundleError
from mec.evaluation import formatting as fmt
from mec.evaluation.byte_accounting import full_bytes, value_map_bytes, vocabulary_bytes
from mec.evaluation.coverage import coverage
from mec.evaluation.figures import draw_figures
from mec.evaluation.latency import full_table_lookup, lookup_latency
from mec.evaluation.measuring import Logits, evaluate_predictions
from mec.evaluation.metrics import Labels
from mec.evaluation.report import markdown_summary, render
from mec.evaluation.slices import slice_rows
from mec.model_bundle import load_ctr_model
from mec.progress import Progress
from mec.quantize.plan import VocabularyPlan
from mec.quantize.storage import DTYPES
from mec.steps import step

__all__ = ["evaluate_step", "kfp_metrics", "kfp_roc", "markdown_summary"]


def evaluate_step(
    *,
    evaluate: EvaluateConfig,
    dataset: Path,
    vocabulary: Path,
    model: Path,
    codebook: Path,
    codes: Path,
    reference: Path,
    seed: int,
    out: Path,
) -> None:
    """Evaluate a model on the test split, beside its full-table reference if one was trained.

    Whole splits are predicted; 5 bytes a row are kept for them, 4 more for the reference, and 3 for
    the slices. Writes ``evaluation.json``, ``figures/*.png``, ``report.html``, ``test_logits.npy``
    (float32, uncalibrated), ``test_labels.npy`` (uint8) and ``full_test_logits.npy``, in file order.

    Args:
        evaluate: Settings.
        dataset: Bundle of encoded rows.
        vocabulary: Bundle with the training counts.
        model: Bundle of the model on codes.
        codebook: Bundle that the model was trained on.
        codes: Bundle of that codebook's codes.
        reference: Bundle of the full-table model, or an empty one (embedding ``none``).
        seed: Of the rows drawn for the latency measurement.
        out: Directory of the evaluation bundle.

    Raises:
        BundleError: A bundle is missing or corrupt, or the vocabulary is not the dataset's.
        SpaceError: Model, codebook and codes do not belong together.
        DataError: A split lacks rows of a label.
        TrainingError: A prediction is not finite.
    """
    with step("evaluate", out) as record:
        rows = EncodedDataset.open(dataset)
        bundles = {
            "dataset": rows.bundle,
            "vocabulary": open_bundle(vocabulary, "vocabulary"),
            "model": open_bundle(model, "model"),
            "codebook": open_bundle(codebook, "codebook"),
            "codes": open_bundle(codes, "codes"),
            "reference": open_bundle(reference, "model"),
        }
        compressed = load_ctr_model(bundles["model"], bundles["codebook"], bundles["codes"])
        full = None
        if bundles["reference"].extra["embedding"] != "none":
            full = load_ctr_model(bundles["reference"], None, None)
        progress = Progress("evaluate", 3 if full is None else 4)
        logits, valid_labels, test_labels = _predict(compressed, rows, evaluate.batch_size)
        progress.update(1, "model predicted")
        full_logits = None
        if full is not None:
            full_logits = _predict(full, rows, evaluate.batch_size)[0]
            progress.update(1, "full-table reference predicted")
        vocabularies = Vocabularies(bundles["vocabulary"])
        _check_vocabulary(rows.layout, vocabularies)
        plans = _plans(bundles["model"], bundles["codebook"], bundles["codes"])
        counts = {name: vocabularies.counts(name) for name, _ in rows.layout.vocabularies}
        evaluation = evaluate_predictions(
            valid_labels=valid_labels,
            test_labels=test_labels,
            compressed=logits,
            full=full_logits,
            slicings=slice_rows(
                rows.batches("test", evaluate.batch_size),
                rows.layout,
                counts,
                plans,
            ),
        )
        evaluation |= _describe(bundles["model"], plans)
        evaluation |= _account(compressed, bundles["codebook"], plans, vocabularies)
        if plans:
            evaluation["compression_diagnostics"] = _diagnose(bundles["codebook"], plans, rows.layout, counts)
        if evaluate.latency_rows:
            evaluation["latency"] = _latency(
                compressed, full, rows, evaluate.latency_rows, evaluation["embedding_dim"], seed
            )
        progress.update(1, "measured")
        lineage = {role: bundle.uuid for role, bundle in bundles.items()}
        settings = evaluate.model_dump(mode="json") | {"seed": seed}
        with write_bundle(out, "evaluation", parents=bundles, config=settings) as draft:
            _write(draft, evaluation, lineage)
            np.save(draft.path / "test_logits.npy", logits.test, allow_pickle=False)
            np.save(draft.path / "test_labels.npy", test_labels, allow_pickle=False)
            if full_logits is not None:
                np.save(draft.path / "full_test_logits.npy", full_logits.test, allow_pickle=False)
        progress.update(1, "report written")
        record.summary = _line(evaluation)


def kfp_metrics(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """The scalars of an evaluation that stand in the Kubeflow UI's metrics artifact."""
    keys = ("auc", "logloss", "calibration_error", "full_auc", "full_logloss", "full_bytes", "ratio", "num_test_rows")
    result = {key: float(evaluation[key]) for key in keys if key in evaluation}
    if "bytes" in evaluation:
        result["bytes"] = float(sum(evaluation["bytes"].values()))
    if "auc_difference" in evaluation:
        result["auc_difference"] = float(evaluation["auc_difference"]["value"])
    if "latency" in evaluation:
        result["latency_ratio"] = float(evaluation["latency"]["ratio"])
    return result


def kfp_roc(evaluation: Mapping[str, Any]) -> tuple[list[float], list[float], list[float]]:
    """ROC curve for a ClassificationMetrics artifact: fpr, tpr, thresholds; finite, at most 200 points."""
    points = evaluation["roc"]
    return [p["fpr"] for p in points], [p["tpr"] for p in points], [p["threshold"] for p in points]


def _predict(model: CtrModel, rows: EncodedDataset, batch_size: int) -> tuple[Logits, Labels, Labels]:
    valid_logits, valid_labels = predict_split(model, rows, "valid", batch_size)
    test_logits, test_labels = predict_split(model, rows, "test", batch_size)
    return Logits(valid_logits, test_logits), valid_labels, test_labels


def _plans(model: Bundle, codebook: Bundle, codes: Bundle) -> dict[str, VocabularyPlan]:
    """Vocabularies that the model reads as codes, and how these are stored."""
    if model.extra["embedding"] != "codes":
        return {}
    result = {}
    for name, book in codebook.extra["coded"].items():
        stream = codes.extra["vocabularies"][name]
        base = stream.get("base", stream["size"])  # of an extended vocabulary: what head and tail were planned on
        end = stream["head"] + stream["coded"] - (stream["size"] - base)
        shape = book["structure"], book["num_codes"], book["num_codewords"]
        result[name] = VocabularyPlan(*shape, stream["head"], tail_start=end, base=stream.get("base", 0))
    return result


def _describe(model: Bundle, plans: Mapping[str, VocabularyPlan]) -> dict[str, Any]:
    shapes = sorted({f"{p.structure} {p.num_codes}{fmt.TIMES}{p.num_codewords}" for p in plans.values()})
    compression = f"{', '.join(shapes)} codes" if len(shapes) <= 2 else f"codes of {len(shapes)} shapes"
    return {
        "backbone": model.extra["backbone"],
        "compression": compression if plans else "exact tables",
        "embedding_dim": int(model.extra["embedding_dim"]),
    }


def _account(
    model: CtrModel, codebook: Bundle, plans: Mapping[str, VocabularyPlan], vocabularies: Vocabularies
) -> dict[str, Any]:
    embedding_dim = int(codebook.extra["embedding_dim"])
    full = full_bytes(model.layout, embedding_dim)
    parts = {part: int(size) for part, size in cast(EmbeddingMethod, model.embedding).serving_bytes().items()}
    float_bytes = DTYPES[codebook.extra["floats"]].itemsize
    by_vocabulary = vocabulary_bytes(model.layout, embedding_dim, plans, float_bytes)
    return {
        "full_bytes": full,
        "bytes": parts,
        "ratio": full / sum(parts.values()),
        "value_map_bytes": value_map_bytes({name: vocabularies.values(name) for name, _ in model.layout.vocabularies}),
        "bytes_by_vocabulary": [entry.to_json() for entry in by_vocabulary],
    }


def _diagnose(
    codebook: Bundle,
    plans: Mapping[str, VocabularyPlan],
    layout: FieldLayout,
    counts: Mapping[str, NDArray[np.int64]],
) -> dict[str, Any]:
    """What the codebook's bundle says of its codes, of its values' weights, of a budget and of pre-training's folds."""
    extra = codebook.extra
    return {
        "vocabularies": {
            name: facts | {key: extra["coded"][name][key] for key in ("structure", "num_codewords")}
            for name, facts in extra["diagnostics"].items()
        },
        "coverage": coverage({name: counts[name][:size] for name, size in layout.vocabularies}, plans),
        "allocation": extra.get("allocation"),
        "reliability": extra.get("reliability"),
        "folds": extra.get("pretrain_folds"),
    }


def _latency(
    compressed: CtrModel, full: CtrModel | None, rows: EncodedDataset, num_rows: int, embedding_dim: int, seed: int
) -> dict[str, Any]:
    batch = next(rows.batches("test", num_rows, seed=seed, shuffle_rows=num_rows))
    full_lookup = full.embedding if full is not None else full_table_lookup(rows.layout, embedding_dim)
    return lookup_latency(compressed.embedding, full_lookup, torch.from_numpy(batch.ids))


def _check_vocabulary(layout: FieldLayout, vocabularies: Vocabularies) -> None:
    for name, size in layout.vocabularies:
        found = vocabularies.sizes.get(name)
        if found is None or found < size:
            raise BundleError(
                f"the vocabulary bundle is not the dataset's: {name!r} should hold {size} values",
                found="no such vocabulary" if found is None else found,
                fix="pass the vocabulary that the dataset was encoded with",
            )


def _write(draft: BundleDraft, evaluation: dict[str, Any], lineage: dict[str, str]) -> None:
    write_json(draft.path / "evaluation.json", evaluation)
    figures = draw_figures(evaluation)
    (draft.path / "figures").mkdir()
    for name, png in figures.items():
        (draft.path / "figures" / f"{name}.png").write_bytes(png)
    page = render(evaluation | {"lineage": lineage}, figures)
    (draft.path / "report.html").write_text(page, encoding="utf-8")


def _line(evaluation: Mapping[str, Any]) -> str:
    text = f"AUC {fmt.metric(evaluation['auc'])}, logloss {fmt.metric(evaluation['logloss'])}"
    if "full_auc" in evaluation:
        text += f" (full table {fmt.metric(evaluation['full_auc'])}, {fmt.metric(evaluation['full_logloss'])})"
    return text + f", {fmt.ratio(evaluation['ratio'])} fewer bytes"
