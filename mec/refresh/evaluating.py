"""The refresh_evaluate step: the untouched backbone on new rows, with stale codes and with new ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mec.bundle import Bundle, open_bundle, write_bundle, write_json
from mec.config import EvaluateConfig, RefreshConfig
from mec.ctr_model import CtrModel, predict_split
from mec.data.dataset import EncodedDataset
from mec.data.vocabulary import Vocabularies
from mec.embeddings.coded import CodedEmbedding
from mec.errors import BundleError, DataError, SpaceError
from mec.evaluation import metrics
from mec.evaluation.calibration import Calibration, fit_calibration
from mec.evaluation.measuring import Logits
from mec.evaluation.metrics import Labels
from mec.evaluation.slices import slice_metrics, slice_rows
from mec.model_bundle import load_ctr_model
from mec.progress import Progress
from mec.publish.difference import count_rows, differences
from mec.refresh.drift_report import drift_facts
from mec.refresh.recalibration import Recalibration, recalibrate
from mec.refresh.refreshable import check_refreshable
from mec.refresh.report import page_of
from mec.refresh.stale import stale_model
from mec.refresh.vocabulary import new_counts
from mec.steps import step

STEP = "refresh_evaluate"
EVALUATION = "evaluation.json"


def refresh_evaluate_step(
    *,
    refresh: RefreshConfig,
    evaluate: EvaluateConfig,
    dataset: Path,
    vocabulary: Path,
    model: Path,
    evaluation: Path,
    codebook: Path,
    codes: Path,
    new_codebook: Path,
    new_codes: Path,
    out: Path,
) -> None:
    """Score held-out new rows with both generations, each calibrated as in service and refitted.

    The output is an "evaluation" bundle of ``model`` with ``new_codebook``: what a scorer of the new generation takes.
    ``evaluation.json`` has, beside ``auc``, ``logloss`` and ``calibration`` of what would be served: ``auc_stale``,
    ``auc_refreshed``, ``auc_at_training``, ``auc_difference``, ``logloss_difference`` (each value, low, high),
    ``logloss_stale``, ``logloss_refreshed`` (as served now, and as would be), ``loglosses`` of all four pairs of codes
    and calibration, ``recalibration``, ``slices``, ``drift``, ``bytes``, ``stale_bytes``, ``rows_rewritten``,
    ``rows_added``, ``generation``, ``parent_generation`` and ``codebook``. ``report.html`` shows them.

    Args:
        refresh: Whether to recalibrate.
        evaluate: Rows per step.
        dataset: "dataset" bundle of the new rows, encoded with ``vocabulary``.
        vocabulary: "vocabulary" bundle, extended.
        model: "model" bundle in service.
        evaluation: "evaluation" bundle in service, of the train run or of the last refresh that was promoted: its
            calibration is that in service.
        codebook: "codebook" bundle in service.
        codes: "codes" bundle in service; values that it does not know read id 0.
        new_codebook: Of the recode step.
        new_codes: Of the recode step.
        out: Directory of the bundle.

    Raises:
        SpaceError: Bundles that do not belong together.
        BundleError: A bundle is missing or corrupt, or the evaluation is of another model.
        ConfigError: The model trained its codewords on.
        DataError: The valid or test split lacks rows of a label.
        TrainingError: A prediction is not finite.
    """
    with step(STEP, out) as record:
        rows, vocabularies = EncodedDataset.open(dataset), Vocabularies.open(vocabulary)
        bundles = {
            "dataset": rows.bundle,
            "vocabulary": vocabularies.bundle,
            "model": open_bundle(model, "model"),
            "before": open_bundle(evaluation, "evaluation"),
            "stale_codebook": open_bundle(codebook, "codebook"),
            "stale_codes": open_bundle(codes, "codes"),
            "codebook": open_bundle(new_codebook, "codebook"),
            "codes": open_bundle(new_codes, "codes"),
        }
        _check(bundles)
        before = bundles["before"].json(EVALUATION)
        stale = load_ctr_model(bundles["model"], bundles["stale_codebook"], bundles["stale_codes"])
        refreshed = load_ctr_model(bundles["model"], bundles["codebook"], bundles["codes"])
        old_embedding, new_embedding = stale.embedding, refreshed.embedding
        assert isinstance(old_embedding, CodedEmbedding)
        assert isinstance(new_embedding, CodedEmbedding)
        progress = Progress(STEP, 4)
        stale_logits, valid, test = _predict(stale_model(stale), rows, evaluate.batch_size)
        progress.update(1, "stale codes scored")
        new_logits = _predict(refreshed, rows, evaluate.batch_size)[0]
        progress.update(1, "new codes scored")
        old_counts = {name: vocabularies.counts(name) - new_counts(vocabularies, name) for name in vocabularies.sizes}
        current = Calibration(before["calibration"]["scale"], before["calibration"]["bias"])
        result, served, served_stale = _measure(stale_logits, new_logits, valid, test, current, refresh, before)
        coded = list(bundles["codebook"].extra["coded"])
        cuts = slice_rows(rows.batches("test", evaluate.batch_size), rows.layout, old_counts, coded)
        result["slices"] = [
            {key.replace("full_", "stale_"): value for key, value in line.items()}
            for cut in cuts
            for line in slice_metrics(cut, test, served, served_stale)
        ]
        progress.update(1, "measured")
        result["drift"] = drift_facts(old_embedding, new_embedding, vocabularies, old_counts)
        result |= count_rows(differences(bundles["stale_codes"], bundles["codes"]))
        generations = bundles["codes"].extra
        result |= {
            "generation": generations["generation"],
            "parent_generation": generations["parent_generation"],
            "codebook": bundles["codebook"].uuid,
            "backbone": bundles["model"].extra["backbone"],
            "bytes": new_embedding.serving_bytes(),
            "stale_bytes": old_embedding.serving_bytes(),
        }
        settings = {"recalibrate": refresh.recalibrate, "evaluate": evaluate.model_dump(mode="json")}
        with write_bundle(out, "evaluation", parents=bundles, config=settings) as draft:
            write_json(draft.path / EVALUATION, result)
            (draft.path / "report.html").write_text(page_of(result), encoding="utf-8")
            np.save(draft.path / "test_logits.npy", new_logits.test, allow_pickle=False)
            np.save(draft.path / "stale_test_logits.npy", stale_logits.test, allow_pickle=False)
            np.save(draft.path / "test_labels.npy", test, allow_pickle=False)
        progress.update(1, "report written")
        record.summary = (
            f"AUC {result['auc_refreshed']['value']:.4f} refreshed, {result['auc_stale']['value']:.4f} stale; logloss "
            f"{result['logloss_refreshed']:.4f}, {result['logloss_stale']:.4f}"
        )


def _measure(
    stale: Logits,
    refreshed: Logits,
    valid: Labels,
    test: Labels,
    current: Calibration,
    refresh: RefreshConfig,
    before: Mapping[str, Any],
) -> tuple[dict[str, Any], NDArray[np.float64], NDArray[np.float64]]:
    """The numbers, and the calibrated test logits (N,) of new and stale codes, as they would be and are served."""
    for split, labels in (("valid", valid), ("test", test)):
        if min(np.bincount(labels, minlength=2)) < 2:
            raise DataError(
                f"the {split} split of the new rows cannot be evaluated on: it needs two rows of each label",
                found=f"{int(labels.sum())} of {len(labels)} rows with label 1",
                fix="refresh on more rows, or set refresh.split",
            )
    least = refresh.bounds.min_rows_per_label
    if refresh.recalibrate:
        new = recalibrate(valid, refreshed.valid, current, min_rows_per_label=least)
    else:
        new = Recalibration(current, False, None, "refresh.recalibrate is false")
    served, served_stale = new.calibration.apply(refreshed.test), current.apply(stale.test)
    auc_refreshed = metrics.auc_interval(test, refreshed.test)
    loglosses = {
        name: {
            "current": metrics.logloss(test, current.apply(logits.test)),
            "refitted": metrics.logloss(test, fit_calibration(valid, logits.valid).apply(logits.test)),
        }
        for name, logits in (("stale", stale), ("refreshed", refreshed))
    }
    positives = int(np.count_nonzero(test))
    difference = metrics.logloss_difference(test, served, served_stale)
    at_training = before.get("auc_at_training") or {
        "value": before["auc"],
        "low": before["auc_low"],
        "high": before["auc_high"],
    }
    result: dict[str, Any] = {
        "num_valid_rows": len(valid),
        "num_test_rows": len(test),
        "num_positives": positives,
        "num_negatives": len(test) - positives,
        "label_mean": float(test.mean()),
        "auc": auc_refreshed.value,
        "logloss": metrics.logloss(test, served),
        "calibration": new.calibration.to_json(),
        "auc_stale": metrics.auc_interval(test, stale.test).to_json(),
        "auc_refreshed": auc_refreshed.to_json(),
        "auc_at_training": at_training,
        "auc_difference": metrics.auc_difference(test, refreshed.test, stale.test)[0].to_json(),
        "logloss_stale": metrics.logloss(test, served_stale),
        "logloss_refreshed": metrics.logloss(test, served),
        "logloss_difference": difference.to_json(),
        "loglosses": loglosses,
        "recalibration": new.to_json(),
        "calibration_error": _calibration_error(test, served),
        "calibration_error_stale": _calibration_error(test, served_stale),
    }
    return result, served, served_stale


def _calibration_error(labels: Labels, logits: NDArray[np.float64]) -> float:
    return metrics.calibration_error(metrics.reliability_bins(labels, metrics.sigmoid(logits)))


def _predict(model: CtrModel, rows: EncodedDataset, batch_size: int) -> tuple[Logits, Labels, Labels]:
    valid_logits, valid_labels = predict_split(model, rows, "valid", batch_size)
    test_logits, test_labels = predict_split(model, rows, "test", batch_size)
    return Logits(valid_logits, test_logits), valid_labels, test_labels


def _check(bundles: Mapping[str, Bundle]) -> None:
    check_refreshable(bundles["model"])
    measured = bundles["before"].manifest.parents.get("model")
    if measured != bundles["model"].uuid:
        raise BundleError(
            f"the evaluation {bundles['before'].path} is not of the model {bundles['model'].path}",
            found=f"model {measured}",
            fix="pass the evaluation of the model in service",
        )
    vocabulary = bundles["vocabulary"].uuid
    for role in ("dataset", "codes"):
        made_with = bundles[role].manifest.parents["vocabulary"]
        if made_with != vocabulary:
            raise SpaceError(
                f"{bundles[role].path} was not made with the vocabulary {bundles['vocabulary'].path}",
                found=made_with,
                fix=f"pass the vocabulary {made_with}",
            )
    parent = bundles["codes"].manifest.parents.get("parent")
    if parent != bundles["stale_codes"].uuid:
        raise SpaceError(
            f"the codes {bundles['codes'].path} are not the generation after {bundles['stale_codes'].path}",
            found=f"parent {parent}",
            fix="pass the codes that were given to the recode step",
        )
