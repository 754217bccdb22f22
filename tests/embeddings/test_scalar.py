"""Scalar quantization against its levels written out one by one, its error bound, and what is trained."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mec.embeddings.methods import build_method
from mec.errors import ConfigError
from mec.testing_method_data import inputs
from tests.embeddings.test_methods import W, one_vocabulary, rows_of

SIZE = 300
HALF = 2.0**-11  # relative rounding error of float16


def filled(settings: dict, std: float = 1.0):
    method = build_method("scalar", one_vocabulary(SIZE, np.full(SIZE, 5)), settings)
    weight = method.tables[0].table.weight
    weight.normal_(0.0, std, generator=torch.Generator().manual_seed(3))
    return method, weight.clone()


@pytest.mark.parametrize("kind", ["minmax", "scale"])
@pytest.mark.parametrize("bits", [2, 3, 8])
@pytest.mark.parametrize("first_order", ["coded", "float"])
def test_every_float_becomes_the_nearest_of_its_rows_levels(kind, bits, first_order):
    method, before = filled({"bits": bits, "range": kind, "first_order": first_order})
    method.finish()
    after, first = rows_of(method, SIZE).double().numpy(), int(first_order == "float")
    if first:
        np.testing.assert_array_equal(after[:, 0], before[:, 0].half().double().numpy())
    for own, served in zip(before.double().numpy()[:, first:], after[:, first:], strict=True):
        if kind == "minmax":
            low, step = np.float16(own.min()), np.float16((own.max() - own.min()) / (2**bits - 1))
            levels = float(low) + float(step) * np.arange(2**bits)
        else:
            top = 2 ** (bits - 1) - 1
            step = np.float16(np.abs(own).max() / top)
            levels = float(step) * np.arange(-top, top + 1)
        nearest = np.abs(own[:, None] - levels).min(axis=1)
        np.testing.assert_allclose(np.abs(own - served), nearest, atol=1e-6)
        # half a step, and at the ends what rounding the grid to float16 takes away
        assert (np.abs(own - served) <= float(step) / 2 + 2 * HALF * np.abs(own).max() + 1e-6).all()


def test_eight_bits_change_a_table_of_small_vectors_by_less_than_one_percent():
    method, before = filled({}, std=0.01)
    method.finish()
    error = (rows_of(method, SIZE) - before).norm() / before.norm()
    assert 0 < float(error) < 0.01
    assert method.serving_bytes() == {"codes": SIZE * W, "codebooks": 0, "rows": SIZE * 2 * 2, "index": 0, "other": 0}


def test_a_row_without_spread_comes_back():
    for kind in ("minmax", "scale"):
        method, _ = filled({"range": kind})
        method.tables[0].table.weight[:] = torch.tensor([0.0, 0.25, -3.0])[torch.arange(SIZE) % 3, None]
        before = method.tables[0].table.weight.clone()
        method.finish()
        torch.testing.assert_close(rows_of(method, SIZE), before, rtol=2 * HALF, atol=0)


def test_aware_training_sees_served_rows_and_passes_their_gradient_through():
    method, before = filled({"bits": 2})
    method.train()
    method.tables[0].table.start_training()
    ids = torch.arange(SIZE, dtype=torch.int32)[:, None]
    rows, direction = method(ids)[:, 0], torch.randn(SIZE, W)
    (rows * direction).sum().backward()
    assert torch.equal(rows.detach(), rows_of(method, SIZE))
    assert not torch.allclose(rows.detach(), before)
    assert torch.equal(method.tables[0].table._pending[1].grad, direction)


def test_post_training_trains_floats_and_validates_what_is_served():
    method, before = filled({"bits": 2, "training": "post"})
    method.train()
    method.tables[0].table.start_training()
    ids = torch.arange(SIZE, dtype=torch.int32)[:, None]
    assert torch.equal(method(ids)[:, 0].detach(), before)
    validated = rows_of(method, SIZE)
    assert not torch.allclose(validated, before)
    method.finish()
    assert torch.equal(rows_of(method, SIZE), validated)


@pytest.mark.parametrize("name", ["scalar", "binary", "magnitude_pruning"])
def test_all_rows_start_from_pretrained_ones(name):
    own = inputs()
    method = build_method(name, own, {"start": "pretrained"})
    assert torch.equal(method.exact.rows()["colour"], own.pretrained["colour"])
    for vocabulary, table in zip(method.large, method.tables, strict=True):
        assert torch.equal(table.table.weight, own.pretrained[vocabulary])
    with pytest.raises(ConfigError, match=f"'{name}' is to start from pre-trained tables; found: none"):
        build_method(name, one_vocabulary(SIZE), {"start": "pretrained"})
    with pytest.raises(ConfigError, match=r"init_std=0\.1 has no effect on rows that start from pre-trained ones"):
        build_method(name, own, {"start": "pretrained", "init_std": 0.1})


def test_values_beyond_float16_are_refused_when_packed():
    method, _ = filled({})
    method.tables[0].table.weight[7, 2] = -1e6
    with pytest.raises(ConfigError, match="float16"):
        method.finish()
