"""AMTL: masks are prefixes, their gradient is the soft mask's, and the bytes are met to the float."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from mec.embeddings.amtl import AMTLSettings, AMTLTable
from mec.embeddings.methods import build_method
from mec.errors import ConfigError
from mec.testing_method_data import every_id, inputs

W = 7


def built(counts: np.ndarray, num_floats: int, **settings: object) -> AMTLTable:
    generator = torch.Generator().manual_seed(0)
    table = AMTLTable(counts.astype(np.int64), W, num_floats, AMTLSettings(**settings), generator)
    for twin in (table.high, table.low) if table.low is not None else (table.high,):
        torch.nn.init.normal_(twin[2].weight, std=2.0, generator=generator)
    table.table.start_training()
    table.table.weight.normal_(generator=generator)
    return table


COUNTS = np.array([3, 90, 90, 40, 12, 12, 12, 5, 5, 1, 1, 1, 1, 0, 0])


def test_every_mask_is_a_prefix_and_keeps_the_first_order_weight():
    masks = built(COUNTS, 60).train().masks().detach()
    assert masks.shape == (len(np.unique(COUNTS)), W)
    for mask in masks.tolist():
        ones = round(sum(mask))
        assert mask == pytest.approx([1.0] * ones + [0.0] * (W - ones))
        assert ones >= 1
    assert len({round(sum(mask)) for mask in masks.tolist()}) > 1


def test_the_logits_are_the_twins_mixed_by_frequency():
    table = built(COUNTS, 60)
    logs = np.log1p(np.unique(COUNTS))
    all_logs = np.log1p(COUNTS)
    share = 1 / (1 + np.exp(-(logs - all_logs.mean()) / all_logs.std()))
    high, low = (twin(table.features).detach().numpy() for twin in (table.high, table.low))
    expected = share[:, None] * high + (1 - share[:, None]) * low
    np.testing.assert_allclose(table.logits().detach().numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("straight_through", [True, False])
def test_gradients_are_those_of_the_soft_mask(straight_through):
    table = built(COUNTS, 60, straight_through=straight_through, temperature=0.7).train()
    ids, upstream = torch.arange(len(COUNTS)), torch.randn(len(COUNTS), W)
    out = table(ids)
    (out * upstream).sum().backward()
    found = table.high[2].weight.grad.clone()
    table.zero_grad()
    chances = torch.softmax((table.logits() - table.price * torch.arange(1, W + 1)) / 0.7, dim=1)
    soft = torch.stack([chances[:, column:].sum(dim=1) for column in range(W)], dim=1)  # P(length > column)
    group = torch.from_numpy(np.unique(COUNTS, return_inverse=True)[1])
    (table.table.weight * soft[group] * upstream).sum().backward()
    torch.testing.assert_close(found, table.high[2].weight.grad, rtol=1e-3, atol=1e-5)
    kept = (out != 0).all(dim=1)
    assert bool(kept.all()) == (not straight_through)
    if not straight_through:
        torch.testing.assert_close(out, table.table.weight * soft[group])


@pytest.mark.parametrize("num_floats", [15, 16, 37, 60, 104, 105])
def test_lengths_add_up_and_are_the_best_at_their_price_but_for_one_step(num_floats):
    table = built(COUNTS, num_floats)
    lengths = table.lengths()
    assert lengths.sum() == num_floats
    assert (lengths.min() >= 1, lengths.max() <= W) == (True, True)
    high, low = table._fair_prices()
    logits, columns = table.logits().detach(), torch.arange(1, W + 1)
    group = np.unique(COUNTS, return_inverse=True)[1]
    short, long = ((1 + (logits - torch.tensor(p) * columns).argmax(dim=1)).numpy()[group] for p in (high, low))
    assert high - low < 1e-6
    assert np.all((short <= lengths) & (lengths <= long))
    # where lengths of the two prices differ, lower ids are longer
    partly = [i for i in range(len(COUNTS)) if short[i] < lengths[i]]
    left = [i for i in range(len(COUNTS)) if lengths[i] < long[i]]
    assert all(i < j for i, j in itertools.product(partly, left) if i != j)


def test_a_few_floats_and_all_floats():
    assert built(COUNTS, 15).lengths().tolist() == [1] * 15
    assert built(COUNTS, 105).lengths().tolist() == [W] * 15


def test_the_price_follows_the_mean_length():
    table = built(COUNTS, 60)
    for start, sign in ((50.0, -1), (-50.0, 1)):
        table.price.fill_(start)
        before = float(table.price)
        table.move_price()
        assert np.sign(float(table.price) - before) == sign


def test_eval_mode_gives_what_is_served():
    method = build_method("amtl", inputs(), {"mean_length": 2.5, "floats": "float32"})
    for table in method.tables:
        table.table.weight.normal_()
        torch.nn.init.normal_(table.high[2].weight, std=3.0)
    before = method.eval()(every_id())[:, 0].detach()
    lengths = method.tables[0].lengths()
    method.finish()
    rows = method(every_id())[:, 0]
    seen = torch.from_numpy(inputs().counts["user"] > 0)
    assert torch.equal(rows[seen], before[seen])
    for row, length in zip(rows, lengths, strict=True):
        assert not bool(row[length:].any())
    mean = before[seen].mean(dim=0)
    unseen = int((~seen).nonzero()[0])
    torch.testing.assert_close(rows[unseen, : lengths[unseen]], mean[: lengths[unseen]])
    assert method.serving_bytes() == {
        "codes": 0,
        "codebooks": 0,
        "rows": 4 * (1750 + 1250 + 7 * W),
        "index": -(-700 * 3 // 8) + 4 * 22 + -(-500 * 3 // 8) + 4 * 16,
        "other": 0,
    }


def test_a_mean_length_beyond_the_row_is_refused():
    with pytest.raises(
        ConfigError, match=r"amtl keeps more floats per value than the 7 there are; found: mean_length=8"
    ):
        build_method("amtl", inputs(), {"mean_length": 8})


def test_without_twins_the_logits_are_those_of_one_network_whatever_the_frequency():
    table = built(COUNTS, 60, twins=False)
    first, last = table.high[0], table.high[2]
    counts = np.unique(COUNTS)
    logs, all_logs = np.log1p(counts), np.log1p(COUNTS)
    rank = [2 * np.mean(count >= COUNTS) - 1 for count in counts]
    features = np.stack([(logs - all_logs.mean()) / all_logs.std(), rank], axis=1)
    weights = [parameter.detach().numpy() for parameter in (first.weight, first.bias, last.weight, last.bias)]
    expected = np.tanh(features @ weights[0].T + weights[1]) @ weights[2].T + weights[3]
    np.testing.assert_allclose(table.logits().detach().numpy(), expected, rtol=1e-4, atol=1e-5)
    assert len(list(table.parameters())) == 4


@pytest.mark.parametrize(("twins", "networks"), [(True, ["high", "low"]), (False, ["high"])])
def test_gradient_reaches_every_network_and_none_is_served(twins, networks):
    method = build_method("amtl", inputs(), {"twins": twins})
    table = method.tables[0]
    table.table.start_training()
    table.table.weight.normal_()
    (table.train()(torch.arange(700)) * torch.randn(700, W)).sum().backward()
    assert [name for name, _ in table.named_children()] == ["table", *networks]
    for name, parameter in table.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.any()), name
    method.finish()
    assert not list(table.parameters())
    assert method.serving_bytes() == build_method("amtl", inputs(), {}).serving_bytes()
    assert sorted(method.export().arrays) == sorted(build_method("amtl", inputs(), {}).export().arrays)


def test_the_first_of_the_twins_starts_as_the_only_network_does():
    twins, one = (build_method("amtl", inputs(), {"twins": twins}).tables[0] for twins in (True, False))
    assert torch.equal(twins.table.weight, one.table.weight)
    assert torch.equal(twins.high[0].weight, one.high[0].weight)
    assert not torch.equal(twins.low[0].weight, one.high[0].weight)
