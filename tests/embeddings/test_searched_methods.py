"""AutoEmb, AutoDPQ and xLightFM: what they hold, against their equations, and what a wider plan costs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import batch_norm

from mec.config import OptimizerConfig
from mec.ctr_model import CtrModel
from mec.embeddings import searched
from mec.embeddings.autodpq import AutoDPQ, AutoDPQSettings
from mec.embeddings.code_plan import Coding
from mec.embeddings.method import Method
from mec.embeddings.methods import build_method
from mec.embeddings.prefix_supernet import PrefixSupernet
from mec.embeddings.sizing import BudgetError
from mec.embeddings.xlightfm import CodewordsSupernet, FixedCodesTable, XLightFM, XLightFMSettings
from mec.errors import ConfigError
from mec.models import build_backbone
from mec.quantize.packing import unpack
from mec.quantize.product import ProductCodebook, join_parts
from mec.testing_method_data import every_id, inputs

W = 7


@pytest.mark.parametrize("per_value", [False, True])
def test_prefixes_are_normalised_as_if_each_were_looked_at_by_itself(per_value):
    draw = torch.Generator().manual_seed(0)
    supernet = PrefixSupernet(30, 5, [1, 2, 5], 1.0, draw).double()
    with torch.no_grad():
        supernet.scale.copy_(torch.arange(1.0, 6.0))
        supernet.shift.copy_(torch.arange(5.0))
    rows = (torch.randn(20, 5, generator=draw) + 100.0).double().requires_grad_()
    batch = torch.cat([torch.arange(20), torch.randint(20, (30,), generator=draw)])  # which row each place has
    weights = torch.rand((20, 3) if per_value else (3,), generator=draw).double().requires_grad_()
    upstream = torch.randn(50, 5, generator=draw).double()

    def with_gradients(found: torch.Tensor) -> list[torch.Tensor]:
        read = [rows, weights, *supernet.projections, supernet.scale, supernet.shift]
        return [found, *torch.autograd.grad(found, read, upstream)]

    in_batch = weights[batch] if per_value else weights
    normalised = [
        batch_norm(rows[batch][:, : len(q)] @ q, None, None, training=True) * in_batch[..., i : i + 1]
        for i, q in enumerate(supernet.projections)
    ]
    expected = with_gradients(sum(normalised) * supernet.scale + supernet.shift)
    found = with_gradients(supernet.mixed(rows, torch.bincount(batch), weights)[batch])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", ["autodim", "autoemb"])
def test_values_of_a_batch_are_mixed_once_each_and_in_their_places(name):
    method = build_method(name, inputs(), {})
    net = method.make_supernet("user", method.inputs, method.settings).train()
    net.table.start_training()
    ids = torch.tensor([5, 600, 5, 0, 31, 600, 600])
    torch.manual_seed(0)
    found = net(ids)
    distinct, _, inverse = net.table.distinct(ids)
    assert sorted(distinct.tolist()) == [0, 5, 31, 600]
    torch.manual_seed(0)
    mixed = net.mixed(net.table.weight[distinct], torch.bincount(inverse), net.weights_of(distinct))
    assert torch.equal(found, mixed[inverse])
    assert torch.equal(distinct[inverse], ids)


def test_candidates_of_autoemb_are_weighed_by_a_values_popularity():
    method = build_method("autoemb", inputs(), {})
    net = method.make_supernet("user", method.inputs, method.settings)
    torch.nn.init.normal_(net.controller[-1].weight, generator=torch.Generator().manual_seed(0))
    bits = torch.tensor([int(n).bit_length() for n in inputs().counts["user"]])
    ids = torch.stack([(bits == group).nonzero()[0, 0] for group in bits.unique()]).flip(0)
    weights = net.weights_of(ids)
    expected = torch.softmax(net.controller(net.features), dim=1).flip(0)
    torch.testing.assert_close(weights, expected)
    assert len(weights.unique(dim=0)) == len(ids) > 1


def test_a_variance_that_rounds_below_zero_is_none():
    """Of two distinct rows all directions but one have no variance."""
    draw = torch.Generator().manual_seed(0)
    for _ in range(300):
        supernet = PrefixSupernet(2, 17, [1, 2, 4, 8, 17], 1.0, draw)
        rows = supernet.mixed(1000 * torch.randn(2, 17, generator=draw), torch.tensor([3, 1]), supernet.weights())
        assert bool(rows.isfinite().all())


def test_rows_that_do_not_differ_are_normalised_to_nothing():
    supernet = PrefixSupernet(30, 5, [2, 5], 1.0, torch.Generator().manual_seed(0))
    supernet.table.start_training()
    rows = supernet(torch.tensor([3, 3]))
    assert torch.equal(rows, torch.zeros(2, 5))
    rows.sum().backward()
    assert all(bool(q.grad.isfinite().all()) for q in supernet.projections)


def emb(dims_of: dict[str, tuple[int, ...]], **settings: object):
    return build_method("autoemb", inputs(), {"found": dims_of, **settings})


def autoemb_groups() -> dict[str, int]:
    method = build_method("autoemb", inputs(), {})
    return {name: method.num_items(name, method.inputs, method.settings) for name in method.large}


def test_autoemb_gives_values_of_one_popularity_one_length():
    groups = autoemb_groups()
    dims_of = {name: tuple((1, 2, 6)[i % 3] for i in range(num)) for name, num in groups.items()}
    method = emb(dims_of, floats="float32").eval()
    table = method.tables[method.large.index("user")]
    table.table.weight.normal_()
    counts = inputs().counts["user"]
    bits = [int(n).bit_length() for n in counts]
    rank = {b: i for i, b in enumerate(sorted(set(bits)))}
    dims = [dims_of["user"][rank[b]] for b in bits]
    before = method(every_id())[:, 0].detach()
    for i, dim in enumerate(dims):
        projection = table.projections[table.lengths.index(dim)]
        torch.testing.assert_close(before[i], table.table.weight[i, :dim] @ projection)
    sums = dict.fromkeys(groups, 0)
    for name in groups:
        own = [int(n).bit_length() for n in inputs().counts[name]]
        ranks = {b: i for i, b in enumerate(sorted(set(own)))}
        sums[name] = sum(dims_of[name][ranks[b]] for b in own)
    index = sum(-(-size * 2 // 8) + 4 * -(-size // 32) for size in (700, 500))
    assert method.serving_bytes() == {
        "codes": 0, "codebooks": 0, "rows": 4 * (sum(sums.values()) + 7 * W), "index": index,
        "other": 4 * 2 * (1 + 2 + 6) * W,
    }  # fmt: skip
    method.finish()
    rows, seen = method(every_id())[:, 0], torch.from_numpy(counts > 0)
    torch.testing.assert_close(rows[seen], before[seen])


def test_autoemb_fills_unseen_values_as_near_to_the_mean_as_their_length_allows():
    groups = autoemb_groups()
    counts = inputs().counts["user"]
    seen = torch.from_numpy(counts > 0)
    for dim in (2, W):
        method = emb({name: (dim, *[4] * (num - 1)) for name, num in groups.items()}, floats="float32").eval()
        table = method.tables[method.large.index("user")]
        table.table.weight.normal_()
        torch.nn.init.normal_(table.projections[table.lengths.index(dim)])
        basis = table.projections[table.lengths.index(dim)].detach().numpy()
        mean = method(every_id())[:, 0][seen].mean(dim=0).detach().numpy()
        nearest = np.linalg.lstsq(basis.T, mean, rcond=None)[0] @ basis
        method.finish()
        rows = method(every_id())[:, 0][~seen]
        np.testing.assert_allclose(rows.numpy(), np.tile(nearest, (len(rows), 1)), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("in_order", [True, False])
def test_autodpq_codes_values_of_low_frequency_alone(in_order):
    own = inputs(in_order=in_order)
    method = build_method("autodpq", own, {"min_count": 10, "num_codewords": 4, "floats": "float32"}).eval()
    table = method.tables[0]
    table.table.weight.normal_()
    for quantizer in table.quantizers:
        torch.nn.init.normal_(quantizer.codewords)
    weight = table.table.weight.clone()
    head = [i for i in range(1, 700) if own.counts["user"][i] >= 10]
    rest = sorted(set(range(700)) - set(head))
    rows = method(every_id())[:, 0].detach()
    assert torch.equal(rows[head], weight[head])
    assert len(rows[rest].unique(dim=0)) <= 4**2
    method.finish()
    assert torch.equal(method(every_id())[:, 0][head], weight[head])
    codes = unpack(method.export().arrays["user/codes_rest"].tensor.numpy(), len(rest), 2, 2)
    assert codes.shape == (len(rest), 2)
    sizes = [(size, int((own.counts[n][1:] >= 10).sum())) for n, size in (("user", 700), ("item", 500))]
    assert method.serving_bytes() == {
        "codes": sum(-(-(size - k) * 2 * 2 // 8) for size, k in sizes),
        "codebooks": 2 * 4 * W * 4,
        "rows": (sum(k for _, k in sizes) + 7) * W * 4,
        "index": 0 if in_order else 4 * sum(k for _, k in sizes),
        "other": 0,
    }


@pytest.mark.parametrize("in_order", [True, False])
def test_autodpq_searches_codes_of_values_of_low_frequency_alone(in_order):
    own = inputs(in_order=in_order)
    method = build_method("autodpq", own, {"min_count": 10})
    net = method.make_supernet("user", own, method.settings).train()
    net.table.start_training()
    with torch.no_grad():
        net.scale.copy_(torch.arange(1.0, W + 1))
        net.shift.copy_(torch.arange(float(W)))
    head = torch.from_numpy(own.counts["user"]) >= 10
    head[0] = False
    ids = torch.cat([torch.arange(699, -1, -1), torch.arange(400)])  # many of them twice
    torch.manual_seed(0)
    rows = net(ids)
    assert torch.equal(rows[head[ids]], net.table.weight[ids[head[ids]]])
    distinct, times = ids[~head[ids]].unique(return_counts=True)
    torch.manual_seed(0)
    mixed, term = net.mixture(net.table.weight[distinct], times / times.sum(), net.weights())
    expected = torch.zeros(700, W).index_copy(0, distinct, mixed * net.scale + net.shift)
    torch.testing.assert_close(rows[~head[ids]], expected[ids[~head[ids]]])
    torch.testing.assert_close(net.term, term)


def test_autodpq_searches_its_candidates_with_its_settings():
    settings = {
        "candidates": ((300, 1), (5, 2)),
        "codebook": 0.7,
        "commitment": 0.3,
        "batch_norm": True,
        "init_std": 0.02,
    }
    method = build_method("autodpq", inputs(), {"min_count": 10, **settings})
    net = method.make_supernet("user", method.inputs, method.settings)
    codings = [(coding.num_codewords, coding.num_codes) for coding in net.mixture.codings]
    assert codings == method.candidates("user", method.inputs, method.settings) == [(300, 1), (5, 2)]
    assert net.scores().shape == (1, 2)
    assert net.mixture.term_weights == (0.7, 0.3)
    assert net.mixture.batch_norm
    assert float(net.mixture.codewords[:300].detach().std()) == pytest.approx(0.02, rel=0.1)
    assert float(net.table.weight[:, 1:].std()) == pytest.approx(0.02, rel=0.1)
    torch.testing.assert_close(net.scale.detach(), torch.full((W,), searched.FIRST_SCALE))


def test_autodpq_passes_the_task_to_the_head_and_the_term_to_codewords():
    method = build_method("autodpq", inputs(), {"min_count": 10})
    net = method.make_supernet("user", method.inputs, method.settings).train()
    net.table.start_training()
    rows = net(torch.arange(700))
    upstream = torch.randn(700, W, generator=torch.Generator().manual_seed(0))
    rows.backward(upstream, retain_graph=True)
    assert net.mixture.codewords.grad is None
    assert bool(net.logits.grad.any())
    ids, used = net.table._pending
    head = torch.from_numpy(inputs().counts["user"])[ids] >= 10
    head[ids == 0] = False
    assert torch.equal(used.grad[head], upstream[ids[head]])
    assert bool(used.grad[~head].any(dim=1).all())
    net.term.backward()
    assert bool(net.mixture.codewords.grad.any())


def test_a_batch_of_frequent_values_alone_leaves_a_search_something_to_differentiate():
    method = build_method("autodpq", inputs(), {"min_count": 10})
    net = method.make_supernet("user", method.inputs, method.settings).train()
    net.table.start_training()
    ids = torch.tensor([1, 2, 1])
    rows = net(ids)
    assert torch.equal(rows, net.table.weight[ids])
    assert not bool(torch.autograd.grad(rows.sum(), net.logits)[0].any())


def test_xlightfm_codes_are_the_product_codebooks_and_stay():
    own = inputs()
    method = build_method("xlightfm", own, {"num_codes": 3, "num_codewords": 8})
    table = method.tables[method.large.index("item")]
    codes = torch.from_numpy(unpack(table.codes.numpy(), 500, 3, 3)).long()
    book = ProductCodebook(table.codewords.detach(), 3)
    assert torch.equal(codes, book.encode(own.pretrained["item"]))
    assert torch.equal(method.eval()(every_id())[:500, 1].detach(), join_parts(table.codewords.detach(), codes))
    error = (own.pretrained["item"] - book.decode(codes)).square().sum()
    assert float(error) < 0.2 * float((own.pretrained["item"] - own.pretrained["item"].mean(0)).square().sum())
    table.train()(torch.arange(500)).sum().backward()
    assert bool(table.codewords.grad.any())
    assert method.serving_bytes() == {
        "codes": -(-700 * 9 // 8) + -(-500 * 9 // 8), "codebooks": 2 * 8 * W * 2, "rows": 7 * W * 2, "index": 0,
        "other": 0,
    }  # fmt: skip


def test_xlightfm_mixes_its_candidates_by_their_weights():
    own = inputs()
    tables = [
        FixedCodesTable(own.pretrained["user"], torch.ones(700, dtype=torch.bool), Coding(3, k), 0)
        for k in (4, 16, 300)
    ]
    net = CodewordsSupernet(tables, 700).eval()
    with torch.no_grad():
        net.logits.copy_(torch.tensor([0.0, np.log(3.0), np.log(4.0)]))
    ids = torch.arange(700).flip(0)
    expected = sum(share * table(ids) for share, table in zip((0.125, 0.375, 0.5), tables, strict=True))
    found, upstream = net(ids), torch.randn(700, W, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(found, expected)
    trained = [table.codewords for table in tables]
    assert [id(codewords) for codewords in net.codewords] == [id(codewords) for codewords in trained]
    gradients = torch.autograd.grad(found, trained, upstream)
    for one, other in zip(gradients, torch.autograd.grad(expected, trained, upstream), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("start", "around"), [(64, [16, 64, 256]), (2, [2, 8]), (8, [2, 8, 32]), (256, [64, 256]), (700, [175, 700])]
)
def test_xlightfm_chooses_around_what_there_is_before_the_search(start, around):
    own, settings = inputs(), XLightFMSettings(num_codewords=start)
    assert XLightFM.candidates("user", own, settings) == [(k,) for k in around]  # of 700 values
    assert XLightFM.unsearched("user", own, settings) in XLightFM.candidates("user", own, settings)


def test_exact_rows_of_xlightfm_start_from_the_trained_ones_before_and_after_the_search(monkeypatch):
    own = inputs()
    method = build_method("xlightfm", own, {"candidates": (4, 16), "search_epochs": 0.1})
    small = [name for name, _ in own.layout.vocabularies if name not in method.large]
    assert small
    seen: list[Method] = []
    monkeypatch.setattr(searched, "alternate", lambda model, *_, **__: seen.append(model.embedding) or iter(()))
    model = CtrModel(own.layout, method, build_backbone("fm", own.layout.num_fields, own.embedding_dim, {}))
    found = method.search(model, None, OptimizerConfig(), None)
    for embedding in (method, *seen, found):
        for name in small:
            assert torch.equal(embedding.exact.rows()[name], own.pretrained[name])
    assert len(seen) == 1


def test_noise_follows_the_temperature():
    net = build_method("autodim", inputs(), {})
    net = net.make_supernet("user", net.inputs, net.settings).train()
    sharpest = []
    for net.temperature in (5.0, 1.0, 0.1):
        torch.manual_seed(0)
        draws = torch.stack([net.weights() for _ in range(200)]).detach()
        torch.testing.assert_close(draws.sum(dim=1), torch.ones(200))
        sharpest.append(float(draws.max(dim=1).values.mean()))
    assert sharpest[0] < sharpest[1] < sharpest[2]
    assert torch.allclose(net.eval().weights(), torch.full((len(net.logits),), 1 / len(net.logits)))


@pytest.mark.parametrize(
    ("name", "settings", "found"),
    [("autodpq", {"num_codes": 8}, "8 codes"), ("xlightfm", {"num_codes": 8}, "num_codes=8")],
)
def test_more_codes_than_floats_are_refused(name, settings, found):
    with pytest.raises(ConfigError, match=rf"{name} codes 7 floats.*found: {found}"):
        build_method(name, inputs(), settings)


def test_what_is_found_within_the_bytes_counts_projections_and_exact_rows_too():
    method = build_method("autoemb", inputs(), {"dim": 4})
    groups, rng = autoemb_groups(), np.random.default_rng(0)
    allowed = sum(method.serving_bytes().values())
    shares = []
    for _ in range(20):
        scores = {name: np.log(rng.dirichlet(np.full(4, 0.3), num)) for name, num in groups.items()}
        found = method.derived(scores)
        shares.append(sum(emb(found).serving_bytes().values()) / allowed)
    assert max(shares) <= 1
    assert np.max(shares) > 0.9


def test_sizes_that_were_found_are_kept_or_refused_by_a_budget():
    settings = AutoDPQSettings(found={"user": (16, 1), "item": (64, 2)}, min_count=10_000)
    needed = sum(AutoDPQ.planned_bytes(inputs(), settings).values())
    assert AutoDPQ.for_budget(inputs(), needed, settings) is settings
    with pytest.raises(BudgetError, match=rf"autodpq's setting found take {needed:,} bytes; found: a budget of"):
        AutoDPQ.for_budget(inputs(), needed - 1, settings)
    free = settings.model_copy(update={"found": None})
    assert AutoDPQ.for_budget(inputs(), needed, free).found is None
