"""AutoDPQ's mixture of quantizers against quantizers one by one, and batch normalisation as PyTorch has it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import batch_norm

from mec.embeddings.code_plan import Coding
from mec.embeddings.codes_mixture import CodesMixture, Groups
from mec.embeddings.quantizers import VectorQuantizer
from mec.quantize.product import column_parts

W = 7
CODINGS = [Coding(1, 3), Coding(3, 3), Coding(1, 16), Coding(3, 16), Coding(7, 4)]


def mixture_of(codings: list[Coding] = CODINGS, **settings: object) -> CodesMixture:
    """In float64."""
    given = {"batch_norm": False, "codebook": 1.0, "commitment": 0.0} | settings
    draw = torch.Generator().manual_seed(0)
    mixture = CodesMixture(codings, W, 1.0, given.pop("batch_norm"), draw, **given)
    return mixture.double()


def one_by_one(mixture: CodesMixture, **weights: float) -> list[VectorQuantizer]:
    found, first = [], 0
    for coding in mixture.codings:
        num_codes, num_codewords = coding.num_codes, coding.num_codewords
        own = mixture.codewords.detach()[first : first + num_codes * num_codewords].view(num_codes, num_codewords, W)
        draw = torch.Generator().manual_seed(0)
        quantizer = VectorQuantizer(W, num_codes, num_codewords, 1.0, mixture.batch_norm, draw, **weights).double()
        quantizer.codewords = torch.nn.Parameter(own.sum(dim=0))
        found.append(quantizer)
        first += num_codes * num_codewords
    return found


@pytest.mark.parametrize("batch_norm_of_responses", [False, True])
@pytest.mark.parametrize("commitment", [0.0, 0.25])
@pytest.mark.parametrize("tile_scores", [1 << 17, 1])
def test_candidates_are_quantized_normalised_and_mixed_as_each_by_itself(
    batch_norm_of_responses, commitment, tile_scores, monkeypatch
):
    monkeypatch.setattr("mec.embeddings.codes_mixture.TILE_SCORES", tile_scores)  # 1: tiles of 16 of 40 rows
    weights_of_terms = {"codebook": 0.7, "commitment": commitment}
    mixture = mixture_of(batch_norm=batch_norm_of_responses, **weights_of_terms)
    quantizers = one_by_one(mixture, **weights_of_terms)
    draw = torch.Generator().manual_seed(1)
    rows = (torch.randn(40, W, generator=draw) + 1).double().requires_grad_()
    batch = torch.cat([torch.arange(40), torch.randint(10, (60,), generator=draw)])  # which row each place has
    weights = torch.rand(len(CODINGS), generator=draw).double().requires_grad_()
    upstream = torch.randn(100, W, generator=draw).double()

    mixed, term = mixture(rows, torch.bincount(batch).double() / len(batch), weights)
    pairs = [quantizer(rows[batch]) for quantizer in quantizers]
    expected = sum(w * batch_norm(q, None, None, training=True) for w, (q, _) in zip(weights, pairs, strict=True))
    expected_term = sum(own for _, own in pairs)
    torch.testing.assert_close(mixed[batch], expected)
    torch.testing.assert_close(term, expected_term)

    found = torch.autograd.grad(mixed[batch], [rows, weights], upstream, retain_graph=True)
    for one, other in zip(
        found, torch.autograd.grad(expected, [rows, weights], upstream, retain_graph=True), strict=True
    ):
        torch.testing.assert_close(one, other)
    if commitment:
        of_rows = [torch.autograd.grad(each, rows, retain_graph=True)[0] for each in (term, expected_term)]
        torch.testing.assert_close(*of_rows)
    of_codewords = torch.autograd.grad(term, mixture.codewords)[0].split([len(c) for c in blocks(mixture)])
    expected_of = torch.autograd.grad(expected_term, [quantizer.codewords for quantizer in quantizers])
    for coding, one, other in zip(CODINGS, of_codewords, expected_of, strict=True):
        torch.testing.assert_close(one.view(coding.num_codes, coding.num_codewords, W).sum(dim=0), other)


def blocks(mixture: CodesMixture) -> list[torch.Tensor]:
    """Each candidate's codewords."""
    return list(mixture.codewords.split([c.num_codes * c.num_codewords for c in mixture.codings]))


def test_the_task_moves_no_codeword():
    mixture, rows = mixture_of(), torch.randn(20, W).double().requires_grad_()
    mixed, _ = mixture(rows, torch.full((20,), 0.05).double(), torch.ones(len(CODINGS)).double())
    assert torch.autograd.grad(mixed.sum(), mixture.codewords, allow_unused=True) == (None,)


def test_codewords_stay_within_their_columns():
    mixture, draw = mixture_of(), torch.Generator().manual_seed(1)
    adam = torch.optim.Adam(mixture.parameters(), lr=0.1)
    before = mixture.codewords.detach().clone()
    for _ in range(3):
        rows = torch.randn(30, W, generator=draw).double()
        _, term = mixture(rows, torch.full((30,), 1 / 30).double(), torch.ones(len(CODINGS)).double())
        adam.zero_grad()
        term.backward()
        adam.step()
    for coding, own, old in zip(CODINGS, blocks(mixture), before.split([len(b) for b in blocks(mixture)]), strict=True):
        parts = own.view(coding.num_codes, coding.num_codewords, W)
        for m, part in enumerate(column_parts(W, coding.num_codes)):
            outside = torch.ones(W, dtype=torch.bool)
            outside[part] = False
            assert not bool(parts[m][:, outside].any())
            assert bool(parts[m][:, part].any(dim=1).all())
        assert not torch.equal(own, old)


@pytest.mark.parametrize("batch_norm_of_responses", [False, True])
def test_one_row_alone_is_normalised_to_nothing(batch_norm_of_responses):
    mixture, rows = mixture_of(batch_norm=batch_norm_of_responses), torch.randn(1, W).double().requires_grad_()
    mixed, term = mixture(rows, torch.ones(1).double(), torch.ones(len(CODINGS)).double())
    assert torch.equal(mixed, torch.zeros_like(mixed))
    mixed.sum().backward()
    assert torch.equal(rows.grad, torch.zeros_like(rows))
    assert float(term.detach()) > 0
    if batch_norm_of_responses:  # responses of one row say nothing, and the first of equals is chosen
        assert torch.equal(mixture.codes(rows.detach(), torch.ones(1).double()), mixture.firsts)


@pytest.mark.parametrize("batch_norm_of_responses", [False, True])
def test_small_rows_choose_as_they_would_in_float64(batch_norm_of_responses):
    draw = torch.Generator().manual_seed(0)
    mixture = CodesMixture(CODINGS, W, 0.001, batch_norm_of_responses, draw, codebook=1.0, commitment=0.0)
    rows, share = 0.001 * torch.randn(900, W, generator=draw), torch.full((900,), 1 / 900)
    codes = mixture.codes(rows, share)
    same = codes == mixture.double().codes(rows.double(), share.double())
    assert float(same.float().mean()) > 0.999


def test_codewords_are_what_a_checkpoint_holds():
    assert list(mixture_of().state_dict()) == ["codewords"]


@pytest.mark.parametrize("num_codewords", [50, 32_767, 32_768, 32_769, 40_000])  # 16 bits hold up to 32,767
def test_rows_are_added_up_by_codeword(num_codewords):
    draw = torch.Generator().manual_seed(0)
    codes = torch.randint(num_codewords, (3, 200), generator=draw)
    codes[0, :40] = num_codewords - 1
    codes[1, :40] = num_codewords // 2
    values = torch.randn(200, 4, generator=draw)
    expected = np.zeros((num_codewords, 4))
    np.add.at(expected, codes.flatten().numpy(), values.double().repeat(3, 1).numpy())
    np.testing.assert_allclose(Groups(codes, num_codewords).sums(values).numpy(), expected, atol=1e-5)
    one_book = Groups(codes[:1], num_codewords)
    for own in one_book.rows.tensor_split(one_book.starts[1:]):  # in the order of rows, which the last bits depend on
        assert own.tolist() == sorted(own.tolist())
