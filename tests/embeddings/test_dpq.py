"""DPQ: the gradients of both quantizers against their definitions, and codes against brute force."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from mec.embeddings.code_plan import Coding, codes_of_size, num_code_sizes
from mec.embeddings.methods import build_method
from mec.embeddings.quantizers import VectorQuantizer
from mec.embeddings.softmax_quantizer import SoftmaxQuantizer
from mec.errors import ConfigError
from mec.quantize.packing import unpack
from mec.quantize.product import join_parts
from mec.testing_method_data import every_id, inputs

N, W, M, K = 40, 7, 3, 5
PARTS = [slice(0, 3), slice(3, 5), slice(5, 7)]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows() -> torch.Tensor:
    return torch.randn(N, W, generator=generator(1)).requires_grad_()


def vector_quantizer(batch_norm: bool = False, codebook: float = 2.0, commitment: float = 0.25) -> VectorQuantizer:
    return VectorQuantizer(W, M, K, 1.0, batch_norm, generator(), codebook=codebook, commitment=commitment)


def test_vq_codes_are_the_nearest_codewords_of_each_part():
    quantizer, x = vector_quantizer(), rows()
    codes = quantizer.codes(x)
    for m, part in enumerate(PARTS):
        for i in range(N):
            distances = (quantizer.codewords[:, part] - x[i, part]).square().sum(dim=1)
            assert codes[i, m] == distances.argmin()
    first = torch.full((N,), 2)
    first[:7] = K
    limited = quantizer.codes(x, first)
    assert int(limited[7:].max()) == 1
    assert torch.equal(limited[:7], codes[:7])
    for m, part in enumerate(PARTS):
        distances = torch.cdist(x[7:, part], quantizer.codewords[:2, part])
        assert torch.equal(limited[7:, m], distances.argmin(dim=1))


def test_vq_gradients_are_those_defined():
    quantizer, x = vector_quantizer(), rows()
    upstream = torch.randn(N, W, generator=generator(2))
    out, term = quantizer(x)
    chosen = join_parts(quantizer.codewords, quantizer.codes(x)).detach()
    torch.testing.assert_close(out, chosen)
    size = N * W
    torch.testing.assert_close(term, (2.0 + 0.25) * (chosen - x).square().sum() / size)
    ((out * upstream).sum() + term).backward()
    # the task's gradient passes as it is; commitment adds 2 * 0.25 (x - q) / size
    torch.testing.assert_close(x.grad, upstream + 2 * 0.25 * (x - chosen).detach() / size)
    expected = torch.zeros(K, W)
    codes = quantizer.codes(x)
    for i in range(N):
        for m, part in enumerate(PARTS):
            expected[codes[i, m], part] += 2 * 2.0 * (chosen[i, part] - x[i, part].detach()) / size
    torch.testing.assert_close(quantizer.codewords.grad, expected)


def test_without_commitment_the_term_moves_no_rows():
    quantizer, x = vector_quantizer(commitment=0.0), rows()
    quantizer(x)[1].backward()
    assert x.grad is None or not bool(x.grad.any())
    assert bool(quantizer.codewords.grad.any())


def test_sx_gradients_are_those_of_the_softmax_and_of_the_chosen_value():
    quantizer, x = SoftmaxQuantizer(W, M, K, 1.0, False, generator(), temperature=0.5), rows()
    upstream = torch.randn(N, W, generator=generator(2))
    out, _ = quantizer(x)
    (out * upstream).sum().backward()
    keys, values = quantizer.keys.detach().clone().requires_grad_(), quantizer.codewords.detach().clone()
    y = x.detach().clone().requires_grad_()
    soft, hard, value_gradient = [], [], torch.zeros(K, W)
    for part in PARTS:
        responses = y[:, part] @ keys[:, part].T
        soft.append(torch.softmax(responses / 0.5, dim=1) @ values[:, part])
        onehot = functional.one_hot(responses.argmax(dim=1), K).float()
        hard.append(onehot @ values[:, part])
        value_gradient[:, part] = onehot.T @ upstream[:, part]
    (torch.cat(soft, dim=1) * upstream).sum().backward()
    torch.testing.assert_close(out.detach(), torch.cat(hard, dim=1))
    torch.testing.assert_close(x.grad, y.grad)
    torch.testing.assert_close(quantizer.keys.grad, keys.grad)
    torch.testing.assert_close(quantizer.codewords.grad, value_gradient)


def test_normalised_responses_leave_no_codeword_out():
    """Codewords far from all rows but two: by distance those two take all, normalised each is used."""
    plain, normalised = vector_quantizer(), vector_quantizer(batch_norm=True)
    used = []
    for quantizer in (plain, normalised):
        with torch.no_grad():
            quantizer.codewords[2:] += 30.0
        used.append(len(quantizer.codes(rows())[:, 0].unique()))
    assert used[0] <= 2
    assert used[1] == K
    mean, var = normalised.norm.running_mean.clone(), normalised.norm.running_var.clone()
    normalised.eval().codes(rows())
    assert torch.equal(mean, normalised.norm.running_mean)
    assert torch.equal(var, normalised.norm.running_var)


@pytest.mark.parametrize("name", ["dpq_vq", "dpq_sx"])
def test_the_training_table_goes_and_codes_name_codewords(name):
    method = build_method(name, inputs(), {"num_codes": 3, "num_codewords": 10})
    for table in method.tables:
        table.table.weight.normal_(generator=generator(3))
    method.eval()
    before = method(every_id()).detach()
    method.finish()
    assert not [key for key in method.state_dict() if key.startswith("tables.")]
    after = method(every_id())
    export = method.export()
    codes = unpack(export.arrays["user/codes_rest"].tensor.numpy(), 700, 3, 4)
    codewords = export.arrays["user/codewords_0"].tensor.float()
    assert torch.equal(after[:, 0], join_parts(codewords, torch.from_numpy(codes)))
    seen = torch.from_numpy(inputs().counts["user"] > 0)
    close = (after[:, 0] - before[:, 0]).abs().amax(dim=1) < 1e-2
    assert float(close[seen].float().mean()) > 0.95
    expected = {"codes": -(-700 * 3 * 4 // 8) + -(-500 * 3 * 4 // 8), "codebooks": 2 * 10 * W * 2, "rows": 7 * W * 2}
    assert method.serving_bytes() == {**expected, "index": 0, "other": 0}


def test_vocabularies_that_codes_would_not_shrink_keep_exact_rows():
    method = build_method("dpq_vq", inputs(), {"num_codes": 7, "num_codewords": 256})
    # user: 4,900 + 3,584 bytes of codes against 9,800 exact; item: 3,500 + 3,584 against 7,000
    assert method.large == ["user"]
    assert method.serving_bytes() == {
        "codes": 4900,
        "codebooks": 3584,
        "rows": (500 + 7) * W * 2,
        "index": 0,
        "other": 0,
    }


def test_sizes_are_bits_and_then_codes():
    assert [codes_of_size(i, 64) for i in (1, 5, 6, 7, 9)] == [(1, 2), (1, 32), (1, 64), (2, 64), (4, 64)]
    assert [codes_of_size(i, 33) for i in (5, 6)] == [(1, 32), (1, 33)]
    assert num_code_sizes(64, 16) == 6 + 16
    assert codes_of_size(num_code_sizes(64, 16), 64) == (17, 64)
    assert Coding(1, 33).bits == 6


def test_more_codes_than_floats_are_refused():
    with pytest.raises(
        ConfigError, match=r"dpq_vq codes 7 floats.*found: num_codes=8; fix: set num_codes to 7 or less"
    ):
        build_method("dpq_vq", inputs(), {"num_codes": 8})
