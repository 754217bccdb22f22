"""Scales of fields: two numbers a field for rows that are not trained, kept with the model, served like the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from mec.bakeoff import measuring
from mec.bakeoff.cells import Cell
from mec.bakeoff.measuring import CellInputs, ctr_model
from mec.bundle import open_bundle
from mec.config import EvaluateConfig, TrainConfig
from mec.ctr_model import CtrModel
from mec.data.dataset import EncodedDataset
from mec.data.vocabulary import Vocabularies
from mec.embeddings.methods import build_method, check_method_settings
from mec.model_bundle import WEIGHTS_FILE
from mec.models import build_backbone
from mec.refresh.stale import stale_model
from tests.test_training_steps import Run, make_run
from tests.tiny import LAYOUT

TRAIN = {"batch_size": 512, "max_epochs": 2, "settings": {"hidden_units": [8], "dropout": 0.0}}
NAMES = {"scales.first_order", "scales.vectors"}
D = 6


class Rows(nn.Module):
    """The same rows for whatever ids."""

    def __init__(self, rows: torch.Tensor) -> None:
        super().__init__()
        self.rows = rows

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.rows[: len(ids)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("run"))


def test_the_logit_is_that_of_scaled_fields() -> None:
    layout = LAYOUT
    rows = torch.randn(8, layout.num_slots, D + 1, generator=torch.Generator().manual_seed(0))
    ids, weights = torch.zeros(8, layout.num_slots, dtype=torch.int32), torch.rand(8, layout.num_slots)
    model = CtrModel(layout, Rows(rows), build_backbone("fm", layout.num_fields, D, {}), field_scales=True)
    plain = CtrModel(layout, Rows(rows), model.backbone)
    assert torch.equal(model.logits(ids, weights), plain.logits(ids, weights)), "scales are 1 at first"
    assert model.scales is not None
    with torch.no_grad():
        model.scales.first_order.copy_(torch.linspace(0.5, 2, layout.num_fields))
        model.scales.vectors.copy_(torch.linspace(-1, 3, layout.num_fields))
    of_weights, of_vectors = model.scales.first_order.tolist(), model.scales.vectors.tolist()
    expected = []
    for row, weight in zip(rows.double(), weights.double(), strict=True):
        fields = torch.zeros(layout.num_fields, D + 1, dtype=torch.float64)
        slot = 0
        for f, field in enumerate(layout.fields):
            for _ in range(field.num_slots):
                fields[f] += weight[slot] * row[slot]
                slot += 1
        first = sum(of_weights[f] * fields[f, 0] for f in range(layout.num_fields))
        vectors = torch.stack([of_vectors[f] * fields[f, 1:] for f in range(layout.num_fields)])
        pairs = sum(vectors[i] @ vectors[j] for i in range(layout.num_fields) for j in range(i))
        expected.append(first + pairs)
    torch.testing.assert_close(model.logits(ids, weights).double(), torch.stack(expected), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "scaled"),
    [
        ({}, True),
        ({"field_scales": False}, False),
        ({"codewords": "warm"}, False),
        ({"codewords": "warm", "field_scales": True}, True),
    ],
)
def test_frozen_codes_have_them_and_they_move(run: Run, settings: dict[str, Any], scaled: bool) -> None:
    model = run.train(f"model-{len(settings)}-{scaled}", TrainConfig.model_validate(TRAIN | settings))
    weights = load_file(model.file(WEIGHTS_FILE))
    assert NAMES & set(weights) == (NAMES if scaled else set())
    for name in NAMES & set(weights):
        assert weights[name].shape == (LAYOUT.num_fields,)
        assert bool((weights[name] != 1).all()), f"{name} was not trained"


def test_a_model_without_them_is_read_as_before_and_one_with_them_keeps_them(run: Run) -> None:
    data = EncodedDataset.open(run.dataset)
    batch = next(data.batches("test", 64))
    ids, weights = torch.from_numpy(batch.ids), None if batch.weights is None else torch.from_numpy(batch.weights)
    for wanted in (True, False):
        bundle = run.train(f"kept-{wanted}", TrainConfig.model_validate(TRAIN | {"field_scales": wanted}))
        loaded = run.load(bundle)
        assert (loaded.scales is not None) == wanted
        stale = stale_model(loaded)
        assert torch.equal(stale.logits(ids, weights), loaded.logits(ids, weights))
        if loaded.scales is not None:
            with torch.no_grad():
                loaded.scales.vectors.mul_(2)
            assert torch.equal(stale.logits(ids, weights), loaded.logits(ids, weights)), "parameters are shared"


@pytest.mark.parametrize(
    ("method", "settings", "scaled"),
    [
        ("pq", {}, True),
        ("pq", {"codewords": "warm"}, False),
        ("mec", {}, True),
        ("mec", {"codewords": "warm"}, False),
        ("qr", {}, False),
        ("lightfm", {}, False),
    ],
)
def test_methods_whose_rows_are_not_trained_have_them_in_a_bake_off(
    run: Run, method: str, settings: dict[str, Any], scaled: bool
) -> None:
    data, vocabularies = EncodedDataset.open(run.dataset), Vocabularies.open(run.vocabulary)
    counts = {name: vocabularies.counts(name) for name, _ in data.layout.vocabularies}
    for given, expected in ((None, scaled), (False, False), (True, True)):
        train = TrainConfig.model_validate(TRAIN | {"field_scales": given})
        inputs = CellInputs(data, counts, open_bundle(run.pretrained), train, EvaluateConfig(latency_rows=0))
        own = check_method_settings(method, settings)
        model = ctr_model(inputs, build_method(method, inputs.of_method(0), own))
        assert (model.scales is not None) == expected


def test_a_cells_checkpoint_is_not_that_of_a_model_with_other_scales(run: Run, tmp_path: Path) -> None:
    data, vocabularies = EncodedDataset.open(run.dataset), Vocabularies.open(run.vocabulary)
    counts = {name: vocabularies.counts(name) for name, _ in data.layout.vocabularies}
    cell, kept = Cell(method="pq", budget="2x", seed=0, l2=0.0), []
    for wanted in (None, True, False):
        train = TrainConfig.model_validate(TRAIN | {"field_scales": wanted})
        inputs = CellInputs(data, counts, open_bundle(run.pretrained), train, EvaluateConfig(latency_rows=0))
        found = measuring._checkpoints(tmp_path, "train", cell, inputs)
        assert found is not None
        kept.append(found.path)
    assert len(set(kept)) == 3
