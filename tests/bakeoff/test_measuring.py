"""One cell: its budget, its search, its training, and its measurement from the export alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mec.bakeoff import cell_step, measuring
from mec.bakeoff.cell_step import bakeoff_cell_step, read_cell
from mec.bakeoff.cells import Cell
from mec.bakeoff.measuring import CellInputs, measure_cell
from mec.bundle import open_bundle, write_bundle
from mec.config import EvaluateConfig, MethodTraining, PretrainConfig, TrainConfig
from mec.ctr_model import predict_split
from mec.data.dataset import EncodedDataset
from mec.data.layout import FieldLayout
from mec.data.vocabulary import Vocabularies
from mec.embeddings.export import write_export
from mec.embeddings.mec import Mec
from mec.embeddings.method import MethodSettings
from mec.embeddings.qr import QR
from mec.embeddings.sizing import BudgetError
from mec.errors import BundleError, ConfigError, SpaceError, TrainingError
from mec.evaluation.calibration import fit_calibration
from mec.evaluation.metrics import auc, logloss
from mec.pretraining import pretrain_step
from tests.tiny import LAYOUT, SIZES, make_tiny

TRAIN = TrainConfig(model="fm", learning_rate=0.02, batch_size=400, max_epochs=2, patience=2)
EVALUATE = EvaluateConfig(latency_rows=20)
FULL = sum(SIZES.values()) * 5 * 4  # D 4 and the first-order weight, float32


@pytest.fixture(scope="module")
def bundles(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("bakeoff")
    tiny = make_tiny(root, num_rows=2000)
    pretrain = PretrainConfig(embedding_dim=4, max_epochs=1, batch_size=400)
    given = {"dataset": tiny.dataset, "vocabulary": tiny.vocabulary}
    pretrain_step(pretrain=pretrain, **given, seed=0, checkpoints=None, out=root / "pretrained")
    return {**given, "pretrained": root / "pretrained"}


@pytest.fixture(scope="module")
def inputs(bundles) -> CellInputs:
    vocabularies = Vocabularies.open(bundles["vocabulary"])
    counts = {name: vocabularies.counts(name) for name in SIZES}
    data, pretrained = EncodedDataset.open(bundles["dataset"]), open_bundle(bundles["pretrained"])
    return CellInputs(data, counts, pretrained, TRAIN, EVALUATE)


@pytest.fixture(scope="module")
def narrow(bundles, inputs, tmp_path_factory) -> CellInputs:
    """Tables of D 2, three floats per row."""
    out, pretrain = tmp_path_factory.mktemp("narrow") / "pretrained", PretrainConfig(embedding_dim=2, max_epochs=1)
    given = {"dataset": bundles["dataset"], "vocabulary": bundles["vocabulary"]}
    pretrain_step(pretrain=pretrain, **given, seed=0, checkpoints=None, out=out)
    return replace(inputs, pretrained=open_bundle(out))


def qr(**changes) -> Cell:
    return Cell(**{"method": "qr", "budget": "4x", "seed": 3, "l2": 0.0, "settings": {"min_values": 100}} | changes)


def test_a_measured_cell_has_the_bytes_and_the_scores_of_its_export(inputs, monkeypatch):
    written = []
    monkeypatch.setattr(measuring, "write_export", lambda out, e: (written.append(e), write_export(out, e)))
    models = []
    train = measuring._train
    monkeypatch.setattr(measuring, "_train", lambda *given: models.append(train(*given)) or models[-1])
    found = measure_cell(qr(), inputs, None)
    assert found["status"] == "measured"
    assert (found["full_bytes"], found["budget_bytes"]) == (FULL, FULL // 4)
    arrays = written[0].arrays.values()
    sizes = {part: sum(a.tensor.nbytes for a in arrays if a.part == part) for part in found["bytes"]}
    assert found["bytes"] == sizes
    assert found["num_bytes"] == sum(sizes.values()) <= FULL // 4
    assert found["within_budget"] is True
    assert found["ratio"] == pytest.approx(FULL / found["num_bytes"])
    model = models[0][0]  # finished: its rows are those that are served
    (valid, valid_labels), (test, labels) = (predict_split(model, inputs.dataset, s, 64) for s in ("valid", "test"))
    assert found["valid_auc"] == pytest.approx(auc(valid_labels, valid), abs=1e-9)
    assert found["auc"] == pytest.approx(auc(labels, test), abs=1e-9)
    assert found["logloss_uncalibrated"] == pytest.approx(logloss(labels, test), abs=1e-6)
    calibrated = fit_calibration(valid_labels, valid).apply(test)
    assert found["logloss"] == pytest.approx(logloss(labels, calibrated), abs=1e-6)
    assert found["num_steps"] == 2 * 4
    assert found["epochs"] == 2.0
    assert found["seconds_per_epoch"] == pytest.approx(found["train_seconds"] / 2)
    assert found["latency"]["rows"] == 20


def test_only_the_export_is_scored(inputs, monkeypatch):
    class Zeros(torch.nn.Module):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return torch.zeros(*ids.shape, 5)

    monkeypatch.setattr(measuring, "load_served", lambda directory: Zeros())
    found = measure_cell(qr(), inputs, None)
    assert (found["valid_auc"], found["auc"]) == (0.5, 0.5)


def test_a_cell_repeats_itself_and_seeds_and_training_change_it(inputs):
    first, again = measure_cell(qr(), inputs, None), measure_cell(qr(), inputs, None)
    assert (first["auc"], first["logloss"]) == (again["auc"], again["logloss"])
    assert measure_cell(qr(seed=4), inputs, None)["auc"] != first["auc"]
    longer = measure_cell(qr(training=MethodTraining(max_epochs=1)), inputs, None)
    assert longer["epochs"] == 1.0


def test_a_budget_that_the_method_cannot_reach_is_a_result(inputs):
    found = measure_cell(Cell(method="full", budget="4x", seed=0, l2=0.0), inputs, None)
    assert found["status"] == "over_budget"
    assert "cannot get down to" in found["reason"]
    assert "auc" not in found


def test_a_training_that_diverges_is_a_result(inputs, monkeypatch):
    def diverge(*args, **kwargs):
        raise TrainingError("the loss term cross_entropy is not finite at step 3")

    monkeypatch.setattr(measuring, "fit", diverge)
    found = measure_cell(qr(), inputs, None)
    assert found["status"] == "diverged"
    assert "not finite at step 3" in found["reason"]


def test_a_training_whose_floats_grow_beyond_what_can_be_stored_has_diverged(inputs):
    found = measure_cell(qr(training=MethodTraining(learning_rate=1e5)), inputs, None)
    assert found["status"] == "diverged"
    assert "cannot be stored as float16" in found["reason"]
    assert "auc" not in found


@pytest.mark.parametrize("method", ["pq", "autodpq"])  # refuse when built, and when searching
def test_a_method_that_does_not_go_with_the_tables_is_a_result(narrow, method):
    found = measure_cell(Cell(method=method, budget="2x", seed=0, l2=0.0), narrow, None)
    assert found["status"] == "not_applicable"
    assert found["reason"].startswith(method)
    assert "found: 4" in found["reason"]
    assert "auc" not in found


@pytest.mark.parametrize(("method", "own"), [("pq", {"num_codes": 64}), ("autodpq", {"candidates": [[16, 64]]})])
def test_a_setting_of_the_users_that_does_not_go_with_the_tables_is_wrong_input(inputs, method, own):
    with pytest.raises(ConfigError, match=rf"^{method} at 2x, seed 0: {method}.*found: 64") as error:
        measure_cell(Cell(method=method, budget="2x", seed=0, l2=0.0, settings=own), inputs, None)
    assert "num_codes" in error.value.fix


@pytest.mark.parametrize(("method", "own"), [("pq", {"iterations": 3}), ("autodpq", {"search_rate": 0.1})])
def test_a_setting_that_has_nothing_to_do_with_it_makes_no_method_go_with_the_tables(narrow, method, own):
    assert measure_cell(Cell(method=method, budget="2x", seed=0, l2=0.0, settings=own), narrow, None) == measure_cell(
        Cell(method=method, budget="2x", seed=0, l2=0.0), narrow, None
    )


def test_what_a_method_cannot_code_is_not_called_a_training_that_diverged(inputs):
    nothing_seen = replace(inputs, counts={name: counts * 0 for name, counts in inputs.counts.items()})
    found = measure_cell(Cell(method="pq", budget="2x", seed=0, l2=0.0, settings={"iterations": 3}), nothing_seen, None)
    assert found["status"] == "not_applicable"
    assert "was seen in training" in found["reason"]


def test_a_wrong_setting_is_wrong_input_where_the_default_would_only_be_over_budget(inputs, monkeypatch):
    def refuse(name: str, own: object, settings: MethodSettings) -> None:
        kind = ConfigError if settings.init_std == 0.5 else BudgetError
        raise kind("refused", found=settings.init_std, fix="none")

    monkeypatch.setattr(measuring, "build_method", refuse)
    assert measure_cell(qr(), inputs, None)["status"] == "over_budget"
    with pytest.raises(ConfigError, match=r"^qr at 4x, seed 3: refused; found: 0.5"):
        measure_cell(qr(settings={"init_std": 0.5}), inputs, None)


def test_tables_that_a_method_cannot_store_are_a_result(inputs, monkeypatch):
    def refuse(*_: object) -> None:
        raise BundleError("codewords are too large for float16", found=1e6, fix="store them as float32")

    monkeypatch.setattr(measuring, "build_method", refuse)
    found = measure_cell(qr(), inputs, None)
    assert (found["status"], "too large for float16" in found["reason"]) == ("not_applicable", True)
    monkeypatch.setattr(measuring, "_is_refused", lambda _: False)
    with pytest.raises(BundleError, match=r"^qr at 4x, seed 3: codewords are too large"):
        measure_cell(qr(), inputs, None)


def test_what_is_wrong_in_all_cells_is_no_result_and_the_cell_is_named(inputs):
    wrong = replace(inputs, train=TRAIN.model_copy(update={"settings": {"hiden_units": 1}}))
    for settings in ({}, {"min_values": 100}):
        with pytest.raises(ConfigError, match=r"^qr at 4x, seed 3: bad settings of the backbone 'fm'"):
            measure_cell(qr(settings=settings), wrong, None)
    with pytest.raises(ConfigError, match=r"^qr at 1000000000x, seed 3: the budget is less than a byte"):
        measure_cell(qr(budget="1000000000x"), inputs, None)
    with pytest.raises(ConfigError, match=r"^qrr at 4x, seed 3: unknown compression method"):
        measure_cell(Cell(method="qrr", budget="4x", seed=3, l2=0.0), inputs, None)


def test_what_the_search_found_is_trained_and_may_overstep_the_budget(inputs, monkeypatch):
    own = inputs.of_method(3)

    def search(self, model, dataset, settings, checkpoints):
        assert model.embedding is self
        return QR(own, QR.for_budget(own, FULL))

    monkeypatch.setattr(QR, "search", search)
    found = measure_cell(qr(), inputs, None)
    assert found["num_bytes"] == sum(QR.planned_bytes(own, QR.for_budget(own, FULL)).values())
    assert found["num_bytes"] > found["budget_bytes"]
    assert found["within_budget"] is False
    assert found["search_seconds"] > 0


def test_methods_that_take_folds_are_trained_on_them_and_no_others(inputs, monkeypatch):
    taken = {}
    fit = measuring.fit

    def watch(model, dataset, settings, **kwargs):
        batch = next(dataset.batches("train", 10))
        taken[model.embedding.name] = batch.fold is not None
        return fit(model, dataset, settings, **kwargs)

    monkeypatch.setattr(measuring, "fit", watch)
    measure_cell(qr(), inputs, None)
    own = {"quantize": {"num_codewords": 8, "min_values": 100}, "allocate": False}
    found = measure_cell(Cell(method=Mec.name, budget="2x", seed=0, l2=0.0, settings=own), inputs, None)
    assert found["status"] == "measured"
    assert taken == {"qr": False, "mec": True}


def test_a_killed_training_goes_on_and_claims_no_time_for_itself(inputs, tmp_path, monkeypatch):
    straight = measure_cell(qr(), inputs, None)
    fit = measuring.fit

    def killed(model, dataset, settings, **kwargs):
        fit(model, dataset, settings.model_copy(update={"max_epochs": 1}), **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(measuring, "fit", killed)
    with pytest.raises(KeyboardInterrupt):
        measure_cell(qr(), inputs, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    monkeypatch.setattr(measuring, "fit", fit)
    resumed = measure_cell(qr(), inputs, tmp_path)
    assert (resumed["auc"], resumed["num_steps"]) == (straight["auc"], straight["num_steps"])
    assert resumed["train_seconds"] is resumed["seconds_per_epoch"] is None


@pytest.mark.parametrize(("where", "part"), [(measuring, "_score"), (cell_step, "write_json")])
def test_checkpoints_are_kept_until_the_bundle_is_written(bundles, tmp_path, monkeypatch, where, part):
    def search(self, model, dataset, settings, checkpoints):
        checkpoints.save({"num_steps": 0})
        return self

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(QR, "search", search)
    given = {"cell": qr(), "train": TRAIN, "evaluate": EVALUATE, **bundles, "checkpoints": tmp_path / "kept"}
    with monkeypatch.context() as patch:
        patch.setattr(where, part, killed)
        with pytest.raises(KeyboardInterrupt):
            bakeoff_cell_step(**given, out=tmp_path / "cell")
    assert len(list((tmp_path / "kept").iterdir())) == 2
    monkeypatch.setattr("mec.training.train_batch", lambda *args: pytest.fail("trained again"))
    bakeoff_cell_step(**given, out=tmp_path / "cell")
    assert read_cell(open_bundle(tmp_path / "cell"))["num_steps"] == 2 * 4
    assert list((tmp_path / "kept").iterdir()) == []


def test_a_result_without_measurements_leaves_no_checkpoints(bundles, tmp_path):
    diverging = qr(training=MethodTraining(learning_rate=1e5))
    given = {"cell": diverging, "train": TRAIN, "evaluate": EVALUATE, **bundles, "checkpoints": tmp_path / "kept"}
    bakeoff_cell_step(**given, out=tmp_path / "cell")
    assert read_cell(open_bundle(tmp_path / "cell"))["status"] == "diverged"
    assert list((tmp_path / "kept").iterdir()) == []


def test_the_step_leaves_a_bundle_that_names_its_inputs(bundles, tmp_path, capsys):
    given = {"cell": qr(), "train": TRAIN, "evaluate": EVALUATE, **bundles, "checkpoints": None}
    bakeoff_cell_step(**given, out=tmp_path / "cell")
    bundle = open_bundle(tmp_path / "cell", "bakeoff_cell")
    assert bundle.manifest.parents == {role: open_bundle(path).uuid for role, path in bundles.items()}
    assert read_cell(bundle)["status"] == "measured"
    assert "qr at 4x, seed 3: test AUC 0." in capsys.readouterr().out


def test_tables_of_other_vocabularies_are_refused(inputs, tmp_path):
    other = FieldLayout(LAYOUT.fields, tuple((name, size + 1) for name, size in LAYOUT.vocabularies))
    with write_bundle(tmp_path / "pretrained", "pretrained") as draft:
        draft.extra = {"layout": other.to_json(), "embedding_dim": 4}
    with pytest.raises(SpaceError, match="not encoded with the fields"):
        CellInputs(inputs.dataset, inputs.counts, open_bundle(tmp_path / "pretrained"), TRAIN, EVALUATE)
