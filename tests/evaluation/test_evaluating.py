"""The evaluate step on real bundles, and what the Kubeflow UI gets of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.metrics import roc_auc_score

from mec.bundle import Bundle, open_bundle, write_bundle
from mec.config import EvaluateConfig, PretrainConfig, QuantizeConfig, ReferenceConfig, TrainConfig
from mec.errors import BundleError, TrainingError
from mec.evaluation.byte_accounting import PARTS
from mec.evaluation.evaluating import evaluate_step, kfp_metrics, kfp_roc
from mec.model_bundle import WEIGHTS_FILE
from mec.pretraining import pretrain_step
from mec.quantize.codebook import Codebooks
from mec.quantize.codes import Codes
from mec.quantize.packing import pack
from mec.quantize.quantizing import quantize_step
from mec.training_steps import reference_step, train_step
from tests.tiny import SIZES, make_tiny

EVALUATE = EvaluateConfig(
    reference="full", full=ReferenceConfig(batch_size=512, max_epochs=1, l2=0.01), batch_size=500, latency_rows=200
)


@dataclass(frozen=True)
class Bundles:
    root: Path

    def evaluate(self, name: str, *, evaluate: EvaluateConfig = EVALUATE, **other: Path) -> Bundle:
        """Evaluate into a directory of its own; ``other`` replaces bundles by role."""
        roles = ("dataset", "vocabulary", "model", "codebook", "codes", "reference")
        paths = {role: self.root / role for role in roles} | other
        out = self.root / name
        evaluate_step(evaluate=evaluate, seed=0, out=out, **paths)
        return open_bundle(out, "evaluation")


def _read(bundle: Bundle) -> dict[str, Any]:
    def refuse(constant: str) -> float:
        raise AssertionError(f"{constant} in evaluation.json")

    text = bundle.file("evaluation.json").read_text(encoding="utf-8")
    return dict(json.loads(text, parse_constant=refuse))


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    root = tmp_path_factory.mktemp("evaluate")
    tiny = make_tiny(root)
    pretrain = PretrainConfig(embedding_dim=6, batch_size=512, max_epochs=3, learning_rate=0.02, folds=0)
    train = TrainConfig(batch_size=512, max_epochs=2, settings={"hidden_units": [8], "dropout": 0.0})
    pretrain_step(
        pretrain=pretrain, dataset=tiny.dataset, vocabulary=tiny.vocabulary, seed=0, checkpoints=None,
        out=root / "pretrained",
    )  # fmt: skip
    quantize_step(
        quantize=QuantizeConfig(num_codes=2, num_codewords=16, min_values=100), pretrained=root / "pretrained",
        vocabulary=tiny.vocabulary, seed=0, out_codebook=root / "codebook", out_codes=root / "codes",
    )  # fmt: skip
    train_step(
        train=train, dataset=tiny.dataset, pretrained=root / "pretrained", codebook=root / "codebook",
        codes=root / "codes", seed=0, checkpoints=None, out=root / "model",
    )  # fmt: skip
    for name, evaluate in (("reference", EVALUATE), ("no-reference", EvaluateConfig())):
        reference_step(
            train=train, evaluate=evaluate, dataset=tiny.dataset, pretrained=root / "pretrained", seed=0,
            checkpoints=None, out=root / name,
        )  # fmt: skip
    return Bundles(root)


@pytest.fixture(scope="module")
def evaluated(bundles: Bundles) -> Bundle:
    return bundles.evaluate("evaluation")


def test_numbers_are_those_of_the_saved_predictions(evaluated: Bundle) -> None:
    found = _read(evaluated)
    labels = np.load(evaluated.file("test_labels.npy"), allow_pickle=False)
    logits = np.load(evaluated.file("test_logits.npy"), allow_pickle=False)
    full = np.load(evaluated.file("full_test_logits.npy"), allow_pickle=False)
    assert (labels.dtype, logits.dtype, len(labels)) == (np.uint8, np.float32, found["num_test_rows"])
    assert found["auc"] == pytest.approx(roc_auc_score(labels, logits))
    assert found["full_auc"] == pytest.approx(roc_auc_score(labels, full))
    assert found["auc_difference"]["value"] == pytest.approx(found["auc"] - found["full_auc"])


def test_bytes_are_those_of_the_bundles(evaluated: Bundle, bundles: Bundles) -> None:
    found = _read(evaluated)
    codes = load_file(open_bundle(bundles.root / "codes").file("codes.safetensors"))
    codebook = open_bundle(bundles.root / "codebook")
    sizes = {name: load_file(codebook.file(f"{name}.safetensors")) for name in ("codebook", "exact")}
    assert found["bytes"] == {
        "codes": sum(t.numel() for t in codes.values()),
        "codebooks": sum(2 * t.numel() for t in sizes["codebook"].values()),
        "rows": sum(2 * t.numel() for t in sizes["exact"].values()),
        "index": 0,
        "other": 0,
    }
    for part in PARTS:
        assert sum(row.get(part, 0) for row in found["bytes_by_vocabulary"]) == found["bytes"][part], part
    assert found["full_bytes"] == sum(SIZES.values()) * 7 * 4
    assert found["ratio"] == found["full_bytes"] / sum(found["bytes"].values())
    assert found["value_map_bytes"] >= sum(SIZES.values()) * 12


def test_head_tail_and_shapes_in_bytes_and_report(bundles: Bundles) -> None:
    books = Codebooks.open(bundles.root / "codebook")
    spans = {name: (9, SIZES[name] - 50 - len(name)) for name in books.coded}  # H and the first id of the tail
    drawn = {n: np.random.default_rng(0).integers(0, 16, (end - head, 2)) for n, (head, end) in spans.items()}
    codes = Codes(
        books,
        {name: pack(rows, 4) for name, rows in drawn.items()},
        head={name: torch.randn(head, 7).half() for name, (head, _) in spans.items()},
        tail_start={name: end for name, (_, end) in spans.items()},
    )
    with write_bundle(bundles.root / "codes-head", "codes") as draft:
        codes.write(draft)
    others = {"codes": draft.path, "reference": bundles.root / "no-reference"}
    report = bundles.evaluate("head", evaluate=EvaluateConfig(latency_rows=50), **others)
    found = _read(report)
    rows = books.exact["colour"].nbytes
    for entry in found["bytes_by_vocabulary"]:
        if entry["vocabulary"] == "colour":
            assert (entry["rows"], entry["shape"]) == (rows, "")
            continue
        coded = len(drawn[entry["vocabulary"]])
        assert (entry["rows"], entry["head"], entry["shape"]) == (9 * 7 * 2, 9, "residual 2x16")
        assert entry["codes"] == coded  # two codes of four bits
        assert entry["tail"] == entry["size"] - 9 - coded > 0
    assert found["bytes"]["rows"] == 2 * 9 * 7 * 2 + rows
    for part in PARTS:
        assert sum(row.get(part, 0) for row in found["bytes_by_vocabulary"]) == found["bytes"][part], part
    page = report.file("report.html").read_text(encoding="utf-8")
    tails = [entry["tail"] for entry in found["bytes_by_vocabulary"] if entry["shape"]]
    assert all(f"residual 2x16 codes, 9 values exact, {tail} share one code" in page for tail in tails)


def test_slices_cover_the_test_rows_once_each(evaluated: Bundle) -> None:
    found = _read(evaluated)
    by = {row["by"] for row in found["slices"]}
    assert by == {"rarest coded value", "user", "item"}
    for cut in by:
        assert sum(row["rows"] for row in found["slices"] if row["by"] == cut) == found["num_test_rows"]


def test_bundle_holds_figures_report_and_lineage(evaluated: Bundle, bundles: Bundles) -> None:
    assert {f"figures/{name}.png" for name in ("roc", "calibration", "bytes", "popularity", "distortion")} <= set(
        evaluated.manifest.files
    )
    page = evaluated.file("report.html").read_text(encoding="utf-8")
    codebook = open_bundle(bundles.root / "codebook")
    assert page.startswith("<!DOCTYPE html>")
    assert codebook.uuid in page
    assert page.count("data:image/png;base64,") == 5
    assert evaluated.manifest.parents["codebook"] == codebook.uuid
    diagnostics = _read(evaluated)["compression_diagnostics"]
    assert diagnostics["vocabularies"].keys() == codebook.extra["coded"].keys() != set()
    for name, facts in diagnostics["vocabularies"].items():
        assert facts["perplexity"] == codebook.extra["diagnostics"][name]["perplexity"]
    assert {row["vocabulary"]: sum(row["values"].values()) for row in diagnostics["coverage"]} == SIZES
    for title in ("Codebook usage", "Distortion by popularity", "How values are stored", "Neighbours kept"):
        assert f"<h2>{title}</h2>" in page
    assert "Where the budget went" not in page
    latency = _read(evaluated)["latency"]
    assert (latency["rows"], latency["slots"]) == (200, 4)


def test_kubeflow_gets_scalars_and_a_finite_curve(evaluated: Bundle) -> None:
    found = _read(evaluated)
    scalars = kfp_metrics(found)
    assert scalars["auc"] == found["auc"]
    assert scalars["bytes"] == sum(found["bytes"].values())
    assert scalars["auc_difference"] == found["auc_difference"]["value"]
    fpr, tpr, thresholds = kfp_roc(found)
    assert len(fpr) == len(tpr) == len(thresholds) <= 200
    assert np.isfinite([*scalars.values(), *fpr, *tpr, *thresholds]).all()


def test_without_a_reference_nothing_speaks_of_one(bundles: Bundles) -> None:
    evaluate = EvaluateConfig(batch_size=500, latency_rows=0)
    bundle = bundles.evaluate("alone", evaluate=evaluate, reference=bundles.root / "no-reference")
    found = _read(bundle)
    assert [key for key in found if key.startswith("full_")] == ["full_bytes"]
    assert "latency" not in found
    assert "full_test_logits.npy" not in bundle.manifest.files
    assert "full_auc" not in kfp_metrics(found)


def test_latency_without_a_reference_gathers_from_tables_of_its_own(bundles: Bundles) -> None:
    bundle = bundles.evaluate("latency", reference=bundles.root / "no-reference")
    assert _read(bundle)["latency"]["ratio"] > 0


def test_batch_size_changes_no_number(bundles: Bundles, evaluated: Bundle) -> None:
    other = bundles.evaluate("batches", evaluate=EVALUATE.model_copy(update={"batch_size": 7, "latency_rows": 0}))
    for key in ("auc", "full_auc", "logloss"):
        assert _read(other)[key] == pytest.approx(_read(evaluated)[key], abs=1e-6)


def _rewrite(model: Bundle, out: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    weights = load_file(model.file(WEIGHTS_FILE))
    change(weights)
    with write_bundle(out, "model") as draft:
        save_file(weights, draft.path / WEIGHTS_FILE)
        draft.extra = dict(model.extra)


def test_predictions_that_are_not_finite_stop_the_step(bundles: Bundles) -> None:
    def break_bias(weights: dict[str, torch.Tensor]) -> None:
        weights["bias"] = torch.full_like(weights["bias"], torch.nan)

    _rewrite(open_bundle(bundles.root / "model"), bundles.root / "broken", break_bias)
    with pytest.raises(TrainingError, match="the model's predictions on the validation split are not finite"):
        bundles.evaluate("never", model=bundles.root / "broken")
    assert not (bundles.root / "never").exists()


def test_a_foreign_vocabulary_is_refused(bundles: Bundles) -> None:
    with write_bundle(bundles.root / "foreign", "vocabulary") as draft:
        draft.extra = {"vocabularies": {}, "generation": 0, "rows": {}, "numeric": {}}
    with pytest.raises(BundleError, match="not the dataset's: 'user' should hold 301 values"):
        bundles.evaluate("never", vocabulary=bundles.root / "foreign")
    assert not (bundles.root / "never").exists()
