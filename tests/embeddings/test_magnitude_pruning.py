"""Pruning: which floats are kept, by sorting; the index, by reading back; the schedule, by its equation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from mec.embeddings.magnitude_pruning import PruningSettings
from mec.embeddings.methods import build_method
from mec.embeddings.sparse_rows import index_bytes, index_format, look_up, sparse_rows
from tests.embeddings.test_methods import W, one_vocabulary, rows_of

SIZE = 333


def pruned(rows: np.ndarray, num_kept: int) -> np.ndarray:
    """All but the n largest magnitudes set to 0, by a sort."""
    result = np.zeros_like(rows)
    for place in np.argsort(-np.abs(rows), axis=None)[:num_kept]:
        result.flat[place] = rows.flat[place]
    return result


@pytest.mark.parametrize("num_values", [1, 15, 16, 17, 1000])
@pytest.mark.parametrize("width", [1, 8, 17, 300])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_rows_come_back_with_all_but_the_largest_floats_0(num_values, width, share):
    rows = np.random.default_rng(1).normal(size=(num_values, width)).astype(np.float32)
    rows[0] *= 9  # a full row among empty ones
    num_kept = max(1, int(share * rows.size))
    values, index = sparse_rows(torch.from_numpy(rows), num_kept)
    ids = torch.cat([torch.arange(num_values), torch.tensor([num_values - 1, 0, num_values // 2])])
    np.testing.assert_array_equal(look_up(values, index, width, ids).numpy(), pruned(rows, num_kept)[ids])
    assert len(values) == num_kept
    assert sum(part.numel() * part.element_size() for part in index.values()) == index_bytes(
        num_values, width, num_kept
    )


def test_the_index_is_the_smaller_of_the_two_and_never_falls():
    formats, sizes = zip(
        *((index_format(1000, 17, n), index_bytes(1000, 17, n)) for n in range(1, 17_001, 50)), strict=True
    )
    assert set(formats) == {"csr", "bitmap"}
    assert list(sizes) == sorted(sizes)
    starts = 4 * math.ceil(1000 / 16)
    assert index_bytes(1000, 17, 100) == 100 + 1000 + starts
    assert index_bytes(1000, 17, 17_000) == 3 * 1000 + starts


@pytest.mark.parametrize("keep", [0.03, 0.4])
def test_finishing_keeps_the_largest_floats(keep):
    method = build_method(
        "magnitude_pruning", one_vocabulary(SIZE, np.full(SIZE, 5)), {"keep": keep, "floats": "float32"}
    )
    weight = method.tables[0].table.weight
    weight.normal_(generator=torch.Generator().manual_seed(1))
    expected = pruned(weight.numpy(), math.ceil(keep * SIZE * W))
    np.testing.assert_array_equal(rows_of(method, SIZE).numpy(), expected)  # what validation sees
    method.finish()
    np.testing.assert_array_equal(rows_of(method, SIZE).numpy(), expected)


def test_gradual_pruning_follows_its_schedule_and_trains_what_is_left():
    settings = {"keep": 0.2, "from_step": 10, "until_step": 50, "every_steps": 10}
    method = build_method("magnitude_pruning", one_vocabulary(SIZE, np.full(SIZE, 5)), settings).train()
    table = method.tables[0].table
    table.weight.normal_(generator=torch.Generator().manual_seed(1))
    table.start_training()
    ids = torch.arange(SIZE, dtype=torch.int32)[:, None]
    for step in (1, 10, 15, 20, 30, 39, 50, 60):
        method.after_step(step)
        reached = min(max((step - step % 10 - 10) / 40, 0), 1)
        num_kept = math.ceil(SIZE * W * (1 - 0.8 * (1 - (1 - reached) ** 3)) - 1e-6)
        rows = method(ids)[:, 0]
        kept = rows != 0
        assert int(kept.sum()) == num_kept, step
        assert torch.equal(rows[kept], table.weight[kept])
        rows.sum().backward()
        assert torch.equal(table._pending[1].grad, kept.float())


def test_the_share_reached_is_part_of_the_state():
    settings = {"keep": 0.2, "until_step": 2, "every_steps": 1}
    method, other = (build_method("magnitude_pruning", one_vocabulary(SIZE), settings).train() for _ in range(2))
    method.after_step(2)
    other.load_state_dict(method.state_dict())
    for one in (method, other):
        one.tables[0].table.start_training()
    ids = torch.arange(SIZE, dtype=torch.int32)[:, None]
    assert torch.equal(method(ids), other(ids))
    assert int((other(ids) == 0).sum()) > 0.7 * SIZE * W


def test_post_training_prunes_nothing_while_training():
    method = build_method("magnitude_pruning", one_vocabulary(SIZE), {"schedule": "post"}).train()
    method.tables[0].table.start_training()
    method.after_step(5000)
    assert torch.equal(method(torch.arange(SIZE, dtype=torch.int32)[:, None])[:, 0], method.tables[0].table.weight)


def test_settings_without_effect_are_refused():
    with pytest.raises(ValidationError, match="until_step=5 has no effect with schedule=post"):
        PruningSettings(schedule="post", until_step=5)
    with pytest.raises(ValidationError, match="until_step=5 is not after from_step=5"):
        PruningSettings(from_step=5, until_step=5)
