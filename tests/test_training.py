"""The training loop: it learns, stops, resumes to the same bytes, and refuses what is not finite."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mec import training
from mec.checkpoints import Checkpoints
from mec.config import OptimizerConfig
from mec.ctr_model import CtrModel, predict_split, squared_norm, to_device
from mec.data.dataset import Batch, EncodedDataset
from mec.data.layout import FieldLayout, FieldSlots
from mec.embeddings.full import FullEmbedding, RowSparseTable
from mec.errors import ConfigError, TrainingError
from mec.evaluation.metrics import auc
from mec.models import build_backbone
from mec.optimizer import CtrOptimizer
from mec.training import fit, train_batch
from tests.tiny import make_tiny

SETTINGS = OptimizerConfig(learning_rate=0.02, l2=0.01, batch_size=256, max_epochs=4, patience=4)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> EncodedDataset:
    return EncodedDataset.open(make_tiny(tmp_path_factory.mktemp("tiny")).dataset)


def new_model(data: EncodedDataset, backbone: str = "deepfm") -> CtrModel:
    torch.manual_seed(3)
    embedding = FullEmbedding(data.layout, 6)
    embedding.initialise(torch.Generator().manual_seed(0), 0.1)
    settings = {"hidden_units": (8,), "dropout": 0.2} if backbone == "deepfm" else {}
    return CtrModel(data.layout, embedding, build_backbone(backbone, 4, 6, settings))


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return all(torch.equal(a[k], b[k]) for k in a)


def test_learns_planted_interactions_and_keeps_the_best_weights(data: EncodedDataset) -> None:
    model = new_model(data, "fm")
    result = fit(model, data, SETTINGS.model_copy(update={"max_epochs": 15, "patience": 3}), name="pretrain", seed=0)
    logits, labels = predict_split(model, data, "valid", 500)
    assert auc(labels, logits) == pytest.approx(result.best_auc, abs=1e-12)
    assert result.best_auc == max(v.valid_auc for v in result.history)
    test_logits, test_labels = predict_split(model, data, "test", 500)
    assert auc(test_labels, test_logits) > 0.75


def test_stops_when_validation_stops_improving(data: EncodedDataset) -> None:
    settings = SETTINGS.model_copy(update={"max_epochs": 100, "patience": 2, "learning_rate": 0.05, "l2": 0.0})
    result = fit(new_model(data), data, settings, name="train", seed=0)
    assert result.history[-1].epoch == result.best_epoch + 2
    assert result.history[-1].epoch < 100


def test_goes_on_from_trained_weights_only_to_better_ones(data: EncodedDataset) -> None:
    model = new_model(data)
    trained = {k: v.clone() for k, v in model.state_dict().items()}
    stays = fit(model, data, SETTINGS, name="train", seed=0, start_auc=1.0)
    assert (stays.best_auc, stays.best_epoch, len(stays.history)) == (1.0, 0.0, 4)
    assert same(model.state_dict(), trained)
    moves = fit(model, data, SETTINGS, name="train", seed=0, start_auc=0.0)
    assert moves.best_epoch > 0
    assert not same(model.state_dict(), trained)


def test_nothing_of_the_optimizer_stays_with_the_model(data: EncodedDataset) -> None:
    model = new_model(data)
    fit(model, data, SETTINGS, name="train", seed=0)
    tables = [m for m in model.modules() if isinstance(m, RowSparseTable)]
    assert tables
    assert all(t.moments.numel() == t.scratch.numel() == 0 for t in tables)
    first = {k: v.clone() for k, v in model.state_dict().items()}
    fit(model, data, SETTINGS, name="train", seed=1)  # and another training can follow
    assert not same(model.state_dict(), first)


def test_validates_several_times_per_epoch(data: EncodedDataset) -> None:
    settings = SETTINGS.model_copy(update={"max_epochs": 2, "evaluations_per_epoch": 3})
    result = fit(new_model(data), data, settings, name="train", seed=0)
    assert len(result.history) == 6
    assert result.history[2].epoch == 1.0


def test_same_seed_same_weights_and_another_seed_others(data: EncodedDataset) -> None:
    models = []
    for seed in (0, 0, 1):
        model = new_model(data)
        fit(model, data, SETTINGS, name="train", seed=seed)
        models.append(model.state_dict())
    assert same(models[0], models[1])
    assert not same(models[0], models[2])


class KilledError(Exception):
    pass


@pytest.mark.parametrize(("evaluations_per_epoch", "num_saves"), [(1, 3), (3, 3), (3, 4)])  # the last: amid an epoch
def test_a_killed_training_ends_as_if_it_had_not_been(
    data: EncodedDataset, tmp_path: Path, evaluations_per_epoch: int, num_saves: int
) -> None:
    settings = SETTINGS.model_copy(update={"evaluations_per_epoch": evaluations_per_epoch})
    whole = new_model(data)
    expected = fit(whole, data, settings, name="train", seed=0)

    class Stopped(Checkpoints):
        saves = 0

        def save(self, state: dict[str, Any]) -> None:
            super().save(state)
            self.saves += 1
            if self.saves == num_saves:
                raise KilledError

    with pytest.raises(KilledError):
        fit(new_model(data), data, settings, name="train", seed=0, checkpoints=Stopped(tmp_path, "train", "key"))
    resumed = new_model(data)
    found = fit(resumed, data, settings, name="train", seed=0, checkpoints=Checkpoints(tmp_path, "train", "key"))
    assert same(resumed.state_dict(), whole.state_dict())
    assert [(v.step, v.valid_auc) for v in found.history] == [(v.step, v.valid_auc) for v in expected.history]


def test_a_training_killed_after_its_best_epoch_ends_with_that_epochs_weights(
    data: EncodedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = SETTINGS.model_copy(update={"max_epochs": 100, "patience": 2, "learning_rate": 0.05, "l2": 0.0})
    whole = new_model(data)
    wanted = fit(whole, data, settings, name="train", seed=0)
    assert wanted.history[-1].epoch == wanted.best_epoch + 2
    save = Checkpoints.save

    def save_and_stop(self: Checkpoints, state: dict[str, Any]) -> None:
        save(self, state)
        if state["bad"] == 1 and state["result"]["best_epoch"] == wanted.best_epoch:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            fit(new_model(data), data, settings, name="train", seed=0, checkpoints=Checkpoints(tmp_path, "train", 1))
    resumed = new_model(data)
    found = fit(resumed, data, settings, name="train", seed=0, checkpoints=Checkpoints(tmp_path, "train", 1))
    assert found == wanted
    assert same(resumed.state_dict(), whole.state_dict())


def test_another_key_does_not_resume(tmp_path: Path) -> None:
    Checkpoints(tmp_path, "train", {"seed": 0}).save({"num_steps": 3})
    assert Checkpoints(tmp_path, "train", {"seed": 1}).load() is None
    kept = Checkpoints(tmp_path, "train", {"seed": 0})
    assert kept.load() == {"num_steps": 3}
    kept.clear()
    assert kept.load() is None


def test_a_damaged_checkpoint_is_dropped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = Checkpoints(tmp_path, "train", "key")
    kept.save({"num_steps": 3, "weights": torch.arange(1000.0)})
    for content in (kept.path.read_bytes()[:1500], b"no checkpoint", b""):
        kept.path.write_bytes(content)
        assert kept.load() is None
        assert f"[train] note: the checkpoint {kept.path} is damaged" in capsys.readouterr().out
        assert not kept.path.exists()


def test_a_device_that_is_not_here_is_named(data: EncodedDataset) -> None:
    settings = SETTINGS.model_copy(update={"device": "cuda:99"})
    for name, setting in (("train", "train.device"), ("reference", "evaluate.full.device")):
        with pytest.raises(ConfigError, match=f"{setting}=cuda:99: there is no such device here"):
            fit(new_model(data), data, settings, name=name, seed=0)


def test_a_loss_that_is_not_finite_stops_before_the_step(data: EncodedDataset) -> None:
    model = new_model(data)
    optimizer = CtrOptimizer(model, 0.1)
    model.train()
    batch = next(data.batches("train", 64))
    with torch.no_grad():
        model.bias.fill_(float("nan"))
    before = {k: v.clone() for k, v in model.state_dict().items() if k != "bias"}
    with pytest.raises(TrainingError, match="loss term cross_entropy is not finite at step 7"):
        train_batch(model, optimizer, batch, 0.0, torch.device("cpu"), 7)
    assert same(before, {k: v for k, v in model.state_dict().items() if k in before})


def test_l2_moves_the_rows_of_the_batch_and_nothing_else(data: EncodedDataset) -> None:
    model = new_model(data)
    model.train()
    CtrOptimizer(model, 0.1)
    ids, weights, _ = to_device(next(data.batches("train", 64)), torch.device("cpu"))
    _, rows = model(ids, weights)
    squared_norm(rows).backward()
    unique, leaf = model.embedding.table._pending  # type: ignore[union-attr]
    assert (leaf.grad.abs().sum(dim=1) > 0).all()
    assert len(unique) == len(torch.unique(ids + model.embedding.offsets))  # type: ignore[operator]
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_squared_norm_and_its_gradient() -> None:
    torch.manual_seed(0)
    rows = torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True)
    norm: Tensor = squared_norm(rows).detach()
    assert float(norm) == pytest.approx(float(rows.detach().square().sum()))
    assert torch.autograd.gradcheck(squared_norm, rows)


def test_predictions_are_in_file_order_and_leave_the_mode(data: EncodedDataset) -> None:
    model = new_model(data)
    model.train()
    small, labels = predict_split(model, data, "test", 7)
    large, _ = predict_split(model, data, "test", 10_000)
    np.testing.assert_allclose(small, large, rtol=1e-5, atol=1e-6)
    assert model.training
    assert len(labels) == data.num_rows("test")


SEQUENCE = FieldLayout(
    fields=(FieldSlots("a", "categorical", "a", 0, 1, "none"), FieldSlots("past", "sequence", "a", 1, 3, "mean")),
    vocabularies=(("a", 9),),
)


def test_empty_slots_are_no_rows_of_the_batch_for_l2() -> None:
    embedding = FullEmbedding(SEQUENCE, 4)
    embedding.initialise(torch.Generator().manual_seed(0), 0.1)
    model = CtrModel(SEQUENCE, embedding, build_backbone("fm", 2, 4, {}))
    before = embedding.table.weight.clone()
    batch = Batch(
        np.array([[1, 2, 0, 0], [3, 2, 4, 0]], np.int32),
        np.array([[1, 1, 0, 0], [1, 0.5, 0.5, 0]], np.float32),
        np.array([1, 0], np.float32),
    )
    train_batch(model, CtrOptimizer(model.train(), 0.1), batch, 10.0, torch.device("cpu"), 1)
    assert torch.equal(embedding.table.weight[0], before[0]), "only empty slots read id 0"
    assert not torch.equal(embedding.table.weight[2], before[2])


@pytest.mark.parametrize(
    ("plateau_epochs", "validations", "why"),
    [
        (0, 11, "ten validations may be a plateau, the next one counts"),
        (12, 13, "so may all within the steps that are allowed"),
    ],
)
def test_patience_waits_while_nothing_has_been_learned_yet(
    data: EncodedDataset, monkeypatch: pytest.MonkeyPatch, plateau_epochs: int, validations: int, why: str
) -> None:
    monkeypatch.setattr(training, "auc", lambda labels, scores: 0.5)
    steps_per_epoch = math.ceil(data.num_rows("train") / SETTINGS.batch_size)
    monkeypatch.setattr(training, "_PLATEAU_STEPS", plateau_epochs * steps_per_epoch)
    settings = SETTINGS.model_copy(update={"patience": 1, "max_epochs": 15})
    result = fit(new_model(data, "fm"), data, settings, name="pretrain", seed=0)
    assert len(result.history) == validations, why
