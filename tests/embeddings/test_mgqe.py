"""MGQE: who is head, which codewords the tail may use, and bytes by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mec.embeddings.code_plan import CodePlan, Coding
from mec.embeddings.methods import build_method
from mec.errors import ConfigError
from mec.quantize.packing import pack, unpack
from mec.testing_method_data import every_id, inputs

W = 7


def built(variant: str, *, in_order: bool = True):
    settings = {"variant": variant, "head": 0.2, "num_codes": 3, "num_codewords": 16}
    coarse = {"tail_codes": 1} if variant == "unshared_codes" else {"tail_codewords": 4}
    method = build_method("mgqe", inputs(in_order=in_order), settings | coarse)
    for table in method.tables:
        table.table.start_training()
        table.table.weight.normal_(generator=torch.Generator().manual_seed(0))
        for quantizer in table.quantizers:
            torch.nn.init.normal_(quantizer.codewords, generator=torch.Generator().manual_seed(1))
    return method


def head_of(vocabulary: str, *, in_order: bool) -> list[int]:
    counts = inputs(in_order=in_order).counts[vocabulary]
    popular = sorted(range(1, len(counts)), key=lambda i: (-counts[i], i))
    return sorted(popular[: int(0.2 * (len(counts) - 1))])


@pytest.mark.parametrize("in_order", [True, False])
def test_the_tail_uses_its_first_codewords_alone_and_the_same_ones(in_order):
    method = built("shared", in_order=in_order).train()
    table = method.tables[0]
    codewords = table.quantizers[0].codewords.detach()
    head = head_of("user", in_order=in_order)
    tail = sorted(set(range(700)) - set(head))
    ids = torch.arange(700)
    for rows in (table(ids).detach(), table.eval()(ids).detach()):
        parts = [rows[:, p] for p in (slice(0, 3), slice(3, 5), slice(5, 7))]
        words = [codewords[:, p] for p in (slice(0, 3), slice(3, 5), slice(5, 7))]
        used = torch.stack([torch.cdist(x, c).argmin(dim=1) for x, c in zip(parts, words, strict=True)], dim=1)
        assert int(used[tail].max()) == 3
        assert int(used[head].max()) > 3
    method.finish()
    arrays = method.export().arrays
    assert unpack(arrays["user/codes_rest"].tensor.numpy(), len(tail), 3, 2).shape == (len(tail), 3)
    assert unpack(arrays["user/codes_head"].tensor.numpy(), len(head), 3, 4).max() > 3
    assert [name for name in arrays if name.startswith("user/codewords")] == ["user/codewords_0"]


@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("variant", ["shared", "unshared_codewords", "unshared_codes"])
def test_bytes_by_hand(variant, in_order):
    method = built(variant, in_order=in_order)
    codes, codebooks, index = 0, 0, 0
    for size in (700, 500):
        head = int(0.2 * (size - 1))
        tail_bits = 1 * 4 if variant == "unshared_codes" else 3 * 2
        codes += -(-head * 3 * 4 // 8) + -(-(size - head) * tail_bits // 8)
        codebooks += (16 + {"shared": 0, "unshared_codewords": 4, "unshared_codes": 16}[variant]) * W * 2
        index += 0 if in_order else 4 * head
    expected = {"codes": codes, "codebooks": codebooks, "rows": 7 * W * 2, "index": index, "other": 0}
    assert method.serving_bytes() == expected == method.export().num_bytes()


@pytest.mark.parametrize("variant", ["unshared_codewords", "unshared_codes"])
def test_unshared_groups_do_not_train_each_others_codewords(variant):
    method = built(variant).train()
    table = method.tables[0]
    table(torch.tensor(head_of("user", in_order=True)[:50]))
    table.term.backward()
    head, tail = (q.codewords.grad for q in table.quantizers)
    assert bool(head.any())
    assert tail is None


def test_rows_of_a_plan_by_brute_force():
    rng = np.random.default_rng(0)
    head, values = 5, 40
    index = torch.tensor([3, 8, 20, 21, 39], dtype=torch.int32)
    plan = CodePlan(head, Coding(3, 16, 0), Coding(1, 4, 1))
    codes_head, codes_rest = rng.integers(0, 16, (head, 3)), rng.integers(0, 4, (values - head, 1))
    books = [torch.randn(16, W), torch.randn(4, W)]
    arrays = {
        "codes_head": torch.from_numpy(pack(codes_head, 4)),
        "codes_rest": torch.from_numpy(pack(codes_rest, 2)),
        "codewords_0": books[0],
        "codewords_1": books[1],
    }
    for own, of_head in ((index, index.tolist()), (None, [1, 2, 3, 4, 5])):
        found = plan.rows(arrays if own is None else arrays | {"index": own}, torch.arange(values))
        rest = [i for i in range(values) if i not in of_head]
        for i in range(values):
            if i in of_head:
                a, b, c = codes_head[of_head.index(i)]
                expected = torch.cat([books[0][a, :3], books[0][b, 3:5], books[0][c, 5:]])
            else:
                expected = books[1][codes_rest[rest.index(i), 0]]
            assert torch.equal(found[i], expected), i


def test_settings_of_another_variant_are_refused():
    with pytest.raises(ConfigError, match=r"tail_codes=1 has no effect with variant='shared'"):
        build_method("mgqe", inputs(), {"tail_codes": 1})
    with pytest.raises(ConfigError, match=r"tail_codewords=16 has no effect with variant='unshared_codes'"):
        build_method("mgqe", inputs(), {"variant": "unshared_codes", "tail_codewords": 16})


def test_finishing_keeps_the_rows_of_eval_mode():
    method = built("unshared_codes").eval()
    seen = torch.from_numpy(inputs().counts["user"] > 0)
    before = method(every_id())[:, 0].detach()
    method.finish()
    torch.testing.assert_close(method(every_id())[:, 0][seen], before[seen], rtol=0, atol=2e-3)
