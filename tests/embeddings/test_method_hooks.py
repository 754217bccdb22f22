"""The trainer's side of a method: its loss term, its call after a step, and bundles of what is served."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from mec.ctr_model import CtrModel
from mec.data.dataset import Batch
from mec.embeddings.export import ARRAYS_FILE, read_export, write_export
from mec.embeddings.hashing import Hashing
from mec.embeddings.methods import build_method, load_served
from mec.errors import BundleError, ConfigError, TrainingError
from mec.models import build_backbone
from mec.optimizer import CtrOptimizer
from mec.testing_method_data import LAYOUT, every_id, inputs
from mec.training import train_batch


class Hooked(Hashing):
    """Pulls all rows of a batch to 1."""

    factor = 1.0

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.steps: list[int] = []

    def regulariser(self, rows):
        return None if self.factor == 0 else self.factor * (rows - 1).square().mean()

    def after_step(self, step):
        self.steps.append(step)


def trained(factor: float, num_steps: int = 30) -> Hooked:
    method = Hooked(inputs(), Hashing.Settings())
    method.factor = factor
    model = CtrModel(LAYOUT, method, build_backbone("lr", 4, 6, {})).train()
    optimizer = CtrOptimizer(model, 0.1)
    ids = every_id().numpy()
    batch = Batch(ids, np.ones(ids.shape, np.float32), (np.arange(700) % 2).astype(np.float32))
    for step in range(1, num_steps + 1):
        train_batch(model, optimizer, batch, 0.0, torch.device("cpu"), step)
    return method


def test_the_loss_term_moves_what_it_should_and_nothing_without_it():
    start = build_method("hashing", inputs(), {})
    before = start.eval()(every_id())[..., 1:]
    with_term, without = (trained(factor).eval()(every_id())[..., 1:] for factor in (10.0, 0.0))
    assert float((with_term - 1).abs().mean()) < 0.2
    assert torch.equal(without, before)  # logistic regression reads column 0 alone


def test_after_step_is_called_once_per_step():
    assert trained(1.0, 3).steps == [1, 2, 3]


def test_a_term_that_is_not_finite_stops_before_the_step():
    with pytest.raises(TrainingError, match="the loss term regulariser is not finite at step 1"):
        trained(float("nan"), 1)


def test_an_export_round_trips_and_a_changed_one_is_refused(tmp_path):
    method = build_method("double_hashing", inputs(in_order=False), {"floats": "float16"})
    method.finish()
    write_export(tmp_path / "export", method.export())
    read = read_export(tmp_path / "export")
    assert (read.method, read.layout, read.embedding_dim, read.facts) == (
        "double_hashing",
        LAYOUT,
        6,
        json.loads(json.dumps(method.export().facts)),
    )
    assert {n: (a.part, str(a.tensor.dtype)) for n, a in read.arrays.items()} == {
        "colour/rows": ("rows", "torch.float16"),
        "item/rows": ("rows", "torch.float16"),
        "item/index": ("index", "torch.int32"),
        "user/rows": ("rows", "torch.float16"),
        "user/index": ("index", "torch.int32"),
    }
    assert not any(buffer.requires_grad for buffer in load_served(tmp_path / "export").buffers())
    data = bytearray((tmp_path / "export" / ARRAYS_FILE).read_bytes())
    data[-1] ^= 1
    (tmp_path / "export" / ARRAYS_FILE).write_bytes(data)
    with pytest.raises(BundleError, match=ARRAYS_FILE):
        load_served(tmp_path / "export")
    with pytest.raises(BundleError, match="no embedding bundle"):
        load_served(tmp_path / "nowhere")


def test_a_float_beyond_half_precision_is_refused():
    method = build_method("hashing", inputs(), {})
    method.tables[0].table.weight[3, 2] = 1e6
    with pytest.raises(ConfigError, match="cannot be stored as float16"):
        method.export()
    with pytest.raises(ConfigError, match=r"cannot be stored as float16.*set the method's floats to float32"):
        method.finish()


def test_the_same_seed_gives_the_same_method_and_another_seed_another():
    first, again, other = (
        build_method("hashing", type(own)(own.layout, 6, own.counts, None, seed), {}).eval()(every_id())
        for own, seed in ((inputs(), 0), (inputs(), 0), (inputs(), 1))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
