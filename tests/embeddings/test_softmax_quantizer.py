"""DPQ-SX without the responses held: the same values and gradients as dense layers give, in any batch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mec.embeddings import quantizers
from mec.embeddings.methods import build_method
from mec.embeddings.quantizers import VectorQuantizer
from mec.embeddings.softmax_quantizer import SoftmaxQuantizer
from mec.models.batch_norm import BatchNorm
from mec.quantize.product import join_parts
from mec.testing_method_data import inputs

N, W, M, K, TEMPERATURE = 40, 7, 3, 5, 0.5


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def quantizer(batch_norm: bool = True) -> SoftmaxQuantizer:
    return SoftmaxQuantizer(W, M, K, 1.0, batch_norm, generator(), temperature=TEMPERATURE)


def rows(num_rows: int = N) -> Tensor:
    """Away from the origin, and of another spread in each column."""
    return torch.randn(num_rows, W, generator=generator(1)) * torch.linspace(0.1, 2, W) + 1


def dense(q: SoftmaxQuantizer, x: Tensor, norm: BatchNorm, excluded: Tensor | None = None) -> Tensor:
    """The definition: every response, batch normalisation of them, one-hot forward and softmax backward."""
    flat = norm(torch.cat([x[:, part] @ q.keys[:, part].T for part in q.parts], dim=1))
    out = []
    for m, part in enumerate(q.parts):
        responses = flat[:, m * K : (m + 1) * K]
        if excluded is not None:
            responses = responses.masked_fill(excluded, -torch.inf)
        soft = torch.softmax(responses / TEMPERATURE, dim=1)
        hard = functional.one_hot(responses.argmax(dim=1), K).float()
        values = q.codewords[:, part]
        out.append(hard @ values + (soft - soft.detach()) @ values.detach())
    return torch.cat(out, dim=1)


def compared(q: SoftmaxQuantizer, x: Tensor, expected: Tensor, leaf: Tensor, found: Tensor) -> None:
    """Values and gradients of both."""
    upstream = torch.randn(found.shape, generator=generator(2))
    wanted = torch.autograd.grad((expected * upstream).sum(), [leaf, q.keys, q.codewords])
    given = torch.autograd.grad((found * upstream).sum(), [x, q.keys, q.codewords])
    torch.testing.assert_close(found, expected)
    for theirs, ours in zip(wanted, given, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tile_scores", [1 << 17, 80])
@pytest.mark.parametrize("limited", [False, True])
def test_normalised_responses_and_gradients_are_those_of_dense_layers(limited, tile_scores, monkeypatch):
    monkeypatch.setattr("mec.embeddings.softmax_quantizer.TILE_SCORES", tile_scores)  # 80: tiles of 16 of 40 rows
    q, norm, x = quantizer(), BatchNorm(M * K, affine=False), rows().requires_grad_()
    first = torch.arange(N) % 4 + 2 if limited else None
    excluded = torch.arange(K) >= first[:, None] if first is not None else None
    found, term = q(x, first)
    assert term is None
    leaf = x.detach().clone().requires_grad_()
    compared(q, x, dense(q, leaf, norm, excluded), leaf, found)
    torch.testing.assert_close(q.norm.running_mean, norm.running_mean)
    torch.testing.assert_close(q.norm.running_var, norm.running_var)


def test_rows_that_are_there_several_times_count_several_times():
    times = torch.arange(N) % 5 + 1
    q, other, norm = quantizer(), quantizer(), BatchNorm(M * K, affine=False)
    other.load_state_dict(q.state_dict())
    x, leaf = rows().requires_grad_(), rows().requires_grad_()
    found = q(x, None, times)[0].repeat_interleave(times, dim=0)
    compared(q, x, dense(q, leaf.repeat_interleave(times, dim=0), norm), leaf, found)
    torch.testing.assert_close(q.norm.running_var, norm.running_var)


def test_a_batch_of_one_row_reads_the_running_statistics():
    q, x = quantizer(), rows()
    q(x)
    norm = BatchNorm(M * K, affine=False)
    norm.load_state_dict(q.norm.state_dict())
    one, leaf = x[:1].clone().requires_grad_(), x[:1].clone().requires_grad_()
    compared(q, one, dense(q, leaf, norm), leaf, q(one)[0])
    assert torch.equal(q.norm.running_mean, norm.running_mean)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_the_vector_quantizers_term_and_codes_count_repeated_rows(batch_norm):
    times = torch.arange(N) % 5 + 1
    weights = {"codebook": 2.0, "commitment": 0.25}
    one, all_rows = (VectorQuantizer(W, M, K, 1.0, batch_norm, generator(), **weights) for _ in range(2))
    x, y = rows().requires_grad_(), rows().requires_grad_()
    first = torch.arange(N) % 4 + 2
    found, term = one(x, first, times)
    expected, wanted = all_rows(y.repeat_interleave(times, dim=0), first.repeat_interleave(times))
    torch.testing.assert_close(found.repeat_interleave(times, dim=0), expected)
    torch.testing.assert_close(term, wanted)
    term.backward()
    wanted.backward()
    torch.testing.assert_close(x.grad, y.grad)
    torch.testing.assert_close(one.codewords.grad, all_rows.codewords.grad)


def test_nearest_codewords_are_found_tile_by_tile(monkeypatch):
    q, x = VectorQuantizer(W, M, K, 1.0, False, generator(), codebook=1.0, commitment=0.0), rows()
    whole = q.codes(x)
    monkeypatch.setattr(quantizers, "TILE_SCORES", 80)
    assert torch.equal(q.codes(x), whole)
    assert torch.equal(whole, q.responses(x).argmax(dim=2))


@pytest.mark.parametrize("name", ["dpq_vq", "dpq_sx", "mgqe"])
def test_a_value_is_coded_once_however_often_it_is_in_the_batch(name):
    """A batch of repeated values gives each the row, and the table the gradient, of a batch that is not sorted out."""
    method = build_method(name, inputs(), {"num_codes": 3, "num_codewords": 16}).train()
    table = method.tables[0]
    table.table.start_training()
    table.table.weight.normal_(generator=generator(3))
    ids = torch.randint(700, (300,), generator=generator(4)) % 50
    asked: list[int] = []
    quantizer = table.quantizers[0]
    quantizer.register_forward_pre_hook(lambda _, given: asked.append(len(given[0])))
    found = table(ids)
    assert asked == [len(ids.unique())]
    codes = quantizer.eval().codes(table.table.weight[ids])
    assert found.shape == (300, W)
    if name != "dpq_sx":  # whose codes in training are normalised by the batch
        torch.testing.assert_close(found, join_parts(quantizer.codewords, codes))
    same = (ids[:, None] == ids).float().argmax(dim=1)
    assert torch.equal(found, found[same])


@pytest.mark.parametrize("batch_norm", [False, True])
def test_the_first_step_moves_rows_where_their_values_should_go(batch_norm):
    """Row by row the gradient of the choice has an angle below 90 degrees to that of the value, in nearly all."""
    q = SoftmaxQuantizer(8, 2, 64, 0.01, batch_norm, generator(), temperature=1.0)
    x = (0.01 * torch.randn(400, 8, generator=generator(1))).requires_grad_()
    upstream = torch.randn(400, 8, generator=generator(2))
    (q(x)[0] * upstream).sum().backward()
    aligned = functional.cosine_similarity(x.grad, upstream, dim=1) > 0
    assert float(aligned.float().mean()) > 0.95
