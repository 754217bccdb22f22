"""Binary vectors: signs and scale by hand, the gradient that passes, and the bits that are stored."""

from __future__ import annotations

import numpy as np
import torch

from mec.embeddings.methods import build_method
from tests.embeddings.test_methods import W, one_vocabulary, rows_of

SIZE = 301


def filled():
    method = build_method("binary", one_vocabulary(SIZE, np.full(SIZE, 5)), {"floats": "float32"})
    weight = method.tables[0].table.weight
    weight.normal_(generator=torch.Generator().manual_seed(3))
    weight[4, 2] = 0.0
    return method, weight.clone()


def test_a_vector_is_its_signs_times_its_mean_magnitude():
    method, before = filled()
    method.finish()
    for served, (first, *vector) in zip(rows_of(method, SIZE).tolist(), before.tolist(), strict=True):
        scale = sum(map(abs, vector)) / len(vector)
        np.testing.assert_allclose(served, [first, *(scale if v >= 0 else -scale for v in vector)], rtol=1e-6)


def test_the_scale_is_the_best_of_all():
    method, before = filled()
    method.finish()
    served, vectors = rows_of(method, SIZE)[:, 1:], before[:, 1:]
    best = (served - vectors).square().sum(1)
    for factor in (0.9, 1.1):
        assert bool((best <= (factor * served - vectors).square().sum(1)).all())


def test_the_gradient_passes_the_sign_unchanged():
    method, _ = filled()
    method.train()
    method.tables[0].table.start_training()
    ids = torch.tensor([[5], [0], [5], [300]], dtype=torch.int32)
    rows, direction = method(ids)[:, 0], torch.randn(4, W)
    (rows * direction).sum().backward()
    unique, held = method.tables[0].table._pending
    for row, grad in zip(unique.tolist(), held.grad, strict=True):
        torch.testing.assert_close(grad, direction[ids[:, 0] == row].sum(0))
    assert torch.equal(rows.detach(), rows_of(method, SIZE)[ids[:, 0].long()])


def test_a_server_holds_one_bit_per_dimension_and_two_floats_per_value():
    method, before = filled()
    sizes = {"codes": (SIZE * 6 + 7) // 8, "codebooks": 0, "rows": SIZE * 2 * 4, "index": 0, "other": 0}
    assert method.serving_bytes() == sizes
    method.finish()
    codes = method.export().arrays["f/codes"].tensor.numpy()
    bits = np.unpackbits(codes, bitorder="little")[: SIZE * 6].reshape(SIZE, 6)
    np.testing.assert_array_equal(bits, before[:, 1:].numpy() >= 0)
    assert method.export().num_bytes() == sizes
