"""What each method computes, against its equation written out; hashes by their statistics."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from torch import Tensor

from mec.ctr_model import CtrModel
from mec.data.layout import FieldLayout, FieldSlots
from mec.data.splits import splitmix64
from mec.embeddings.full import FullEmbedding
from mec.embeddings.hash_functions import bucket, mix
from mec.embeddings.head import head_ids, in_order, index_bytes, places
from mec.embeddings.method import Method, MethodInputs
from mec.embeddings.methods import build_method
from mec.models import build_backbone
from mec.optimizer import CtrOptimizer
from mec.testing_method_data import LAYOUT, every_id, inputs
from mec.training import Batch, train_batch

W = 7


def one_vocabulary(size: int, counts: np.ndarray | None = None, seed: int = 0) -> MethodInputs:
    """A single field; its rows are ``rows_of(method, size)``."""
    layout = FieldLayout((FieldSlots("f", "categorical", "f", 0, 1, "none"),), (("f", size),))
    counts = np.arange(size, 0, -1) if counts is None else counts
    return MethodInputs(layout, W - 1, {"f": counts.astype(np.int64)}, seed=seed)


def rows_of(method: Method, size: int) -> Tensor:
    return method.eval()(torch.arange(size, dtype=torch.int32)[:, None])[:, 0].detach()


def table(method: Method) -> Tensor:
    """The weight of the only table, with first-order weights that are not all 0."""
    weight = method.tables[0].table.weight
    weight.normal_(generator=torch.Generator().manual_seed(0))
    return weight


def test_full_is_the_full_embedding_step_by_step():
    method = build_method("full", inputs(), {})
    reference = FullEmbedding(LAYOUT, 6)
    reference.table.weight.copy_(method.exact.table.weight)
    ids, label = every_id().numpy(), (np.arange(700) % 3 == 0).astype(np.float32)
    losses = []
    for embedding in (method, reference):
        model = CtrModel(LAYOUT, embedding, build_backbone("fm", 4, 6, {})).train()
        optimizer = CtrOptimizer(model, 0.05)
        batch = Batch(ids, np.ones(ids.shape, np.float32), label)
        losses.append([train_batch(model, optimizer, batch, 0.1, torch.device("cpu"), step) for step in range(1, 5)])
    assert losses[0] == losses[1]
    assert torch.equal(method.exact.table.weight, reference.table.weight)


def test_full_starts_from_pretrained_rows_and_fills_values_that_training_never_saw():
    own = inputs()
    method = build_method("full", own, {"start": "pretrained"})
    unseen = torch.from_numpy(own.counts["user"] == 0)
    assert bool(unseen.any())
    assert torch.equal(method.exact.rows()["user"], own.pretrained["user"])
    method.finish()
    rows = method.exact.rows()["user"]
    assert torch.equal(rows[~unseen], own.pretrained["user"][~unseen])
    torch.testing.assert_close(rows[unseen], own.pretrained["user"][~unseen].mean(dim=0).expand(int(unseen.sum()), -1))


def test_small_dim_is_as_wide_as_it_says():
    method = build_method("small_dim", inputs(), {"dim": 2, "floats": "float16"})
    assert (method.embedding_dim, method.eval()(every_id()).shape[2]) == (2, 3)
    assert method.serving_bytes()["rows"] == (700 + 7 + 500) * 3 * 2


def test_others_keeps_counts_at_the_threshold_and_shares_one_row_below():
    counts = np.array([90, 9, 3, 7, 7, 0, 8])
    method = build_method("others", one_vocabulary(7, counts), {"min_count": 7, "min_values": 2})
    weight = table(method)
    assert method.serving_bytes() == {"codes": 0, "codebooks": 0, "rows": 5 * W * 2, "index": 4 * 4, "other": 0}
    assert torch.equal(rows_of(method, 7), weight[[0, 1, 0, 2, 3, 0, 4]])


def test_the_head_needs_no_index_where_ids_are_in_order():
    ids = torch.arange(6)
    falling, mixed = np.array([1, 9, 9, 4, 0, 0]), np.array([9, 1, 9, 9, 0, 4])
    assert (in_order(falling), in_order(mixed)) == (True, False)
    assert (index_bytes(falling, 2), index_bytes(mixed, 2)) == (0, 8)
    assert head_ids(falling, 2) is None
    assert places(ids, 2, None).tolist() == [-1, 0, 1, -1, -1, -1]
    assert head_ids(mixed, 3).tolist() == [2, 3, 5]
    assert places(ids, 3, head_ids(mixed, 3)).tolist() == [-1, -1, 0, 1, -1, 2]
    assert places(ids, 0, head_ids(mixed, 0)).tolist() == [-1] * 6


def test_the_mixing_is_splitmix64():
    keys = np.random.default_rng(0).integers(0, 2**63, 1000)
    assert mix(torch.from_numpy(keys)).numpy().view(np.uint64).tolist() == splitmix64(keys.astype(np.uint64)).tolist()


@pytest.mark.parametrize("num_buckets", [2, 97, 1000, 65_536])
def test_hashes_of_consecutive_ids_are_uniform_and_two_salts_independent(num_buckets):
    ids = torch.arange(200_000)
    first, second = (bucket(ids, salt, num_buckets) for salt in (123, 2**63 - 5))
    for places_ in (first, second):
        assert_uniform(np.bincount(places_.numpy(), minlength=num_buckets))
    joint = (first * 16 // num_buckets) * 16 + second * 16 // num_buckets
    if num_buckets >= 1000:  # 16 equal shares need more buckets than that
        assert_uniform(np.bincount(joint.numpy(), minlength=256), slack=1.3)


def assert_uniform(counts: np.ndarray, slack: float = 1.0) -> None:
    """Pearson's chi-square, two-sided: as even as by lot, neither less nor more."""
    expected, freedom = counts.mean(), len(counts) - 1
    statistic = float(((counts - expected) ** 2 / expected).sum())
    assert chi2.ppf(1e-4, freedom) / slack < statistic < chi2.ppf(1 - 1e-4, freedom) * slack


def test_hashing_is_salted_by_vocabulary_and_seed():
    def grouping(seed: int, name: str) -> list[int]:
        own = one_vocabulary(2, seed=seed)
        return bucket(torch.arange(500), own.salt("hash", name, 0), 50).tolist()

    assert grouping(0, "f") == grouping(0, "f")
    same = [np.mean(np.equal(grouping(0, "f"), other)) for other in (grouping(1, "f"), grouping(0, "g"))]
    assert max(same) < 0.1


def test_hashing_shares_rows_and_keeps_row_0_for_id_0():
    own = one_vocabulary(1000)
    method = build_method("hashing", own, {"rows_share": 0.05})
    weight = table(method)
    buckets = 1 + bucket(torch.arange(1000), own.salt("hash", "f", 0), 49)
    buckets[0] = 0
    assert len(weight) == 50
    assert torch.equal(rows_of(method, 1000), weight[buckets])


@pytest.mark.parametrize("combine", ["add", "concat"])
def test_double_hashing_is_its_equation(combine):
    counts = np.random.default_rng(0).integers(0, 1000, 600)
    for own in (one_vocabulary(600), one_vocabulary(600, counts)):
        method = build_method("double_hashing", own, {"rows_share": 0.1, "head": 0.25, "combine": combine})
        weight = table(method)
        head = sorted(np.argsort(-own.counts["f"][1:], kind="stable")[:15] + 1)
        rows = rows_of(method, 600)
        hashes = [16 + bucket(torch.arange(600), own.salt("hash", "f", i), 44) for i in range(2)]
        for i in range(600):
            if i == 0:
                expected = weight[0]
            elif i in head:
                expected = weight[1 + head.index(i)]
            elif combine == "add":
                expected = weight[hashes[0][i]] + weight[hashes[1][i]]
            else:
                expected = torch.cat([weight[hashes[0][i]][:4], weight[hashes[1][i]][4:]])
            assert torch.equal(rows[i], expected), i
        index = 0 if in_order(own.counts["f"]) else 15 * 4
        assert method.serving_bytes() == {"codes": 0, "codebooks": 0, "rows": 60 * W * 2, "index": index, "other": 0}


@pytest.mark.parametrize("compose", ["multiply", "add", "concat"])
@pytest.mark.parametrize("size", [256, 1000, 1009])
def test_qr_gives_every_value_a_row_of_its_own(compose, size):
    for collisions in (1, 3.7, 8, 10_000):
        own = one_vocabulary(size)
        method = build_method("qr", own, {"collisions": collisions, "compose": compose, "min_values": 2})
        part = method.tables[0]
        part.remainder.weight.normal_()
        part.quotient.weight.normal_()
        assert len(torch.unique(rows_of(method, size), dim=0)) == size
        assert method.serving_bytes()["rows"] == 2 * (part.remainder.weight.numel() + part.quotient.weight.numel())
    assert len(part.remainder.weight) == int(np.ceil(size**0.5))


def test_qr_is_its_equation():
    method = build_method("qr", one_vocabulary(300), {"collisions": 5})
    part = method.tables[0]
    part.remainder.weight.normal_()
    part.quotient.weight.normal_()
    expected = torch.stack([part.remainder.weight[i % 60] * part.quotient.weight[i // 60] for i in range(300)])
    assert torch.equal(rows_of(method, 300), expected)


def test_low_rank_has_its_rank_and_its_bytes():
    method = build_method("low_rank", one_vocabulary(300), {"rank": 3})
    part = method.tables[0]
    torch.nn.init.normal_(part.projection)
    part.table.weight.normal_()
    rows = rows_of(method, 300)
    torch.testing.assert_close(rows, part.table.weight @ part.projection)
    assert torch.linalg.matrix_rank(rows) == 3
    assert method.serving_bytes() == {"codes": 0, "codebooks": 0, "rows": 300 * 3 * 2, "index": 0, "other": 3 * W * 2}
    assert build_method("low_rank", one_vocabulary(300), {"rank": 7}).serving_bytes()["rows"] == 300 * W * 2


def test_low_rank_starts_at_the_standard_deviation_asked_for():
    rows = rows_of(build_method("low_rank", one_vocabulary(5000), {"rank": 3, "init_std": 0.2}), 5000)
    assert float(rows[:, 1:].std()) == pytest.approx(0.2, rel=0.15)
    assert not bool(rows[:, 0].any())


def test_mixed_dimensions_fall_with_popularity():
    # popularities 4 : 1 at temperature .5 are dimensions 2 : 1
    layout = replace(LAYOUT, vocabularies=(("user", 400), ("colour", 4), ("item", 800)))
    counts = {"user": np.full(400, 40), "colour": np.full(4, 4000), "item": np.full(800, 10)}
    own = MethodInputs(layout, 6, counts)
    method = build_method("mde", own, {"base_dim": 5, "temperature": 0.5})
    assert [part.table.weight.shape[1] for part in method.tables] == [5, 3]  # 2.5 rounds up
    assert method.serving_bytes() == {
        "codes": 0,
        "codebooks": 0,
        "rows": 2 * (400 * 5 + 800 * 3 + 4 * W),
        "index": 0,
        "other": 2 * (5 * W + 3 * W),
    }
    level = build_method("mde", own, {"base_dim": 5, "temperature": 0})
    assert [part.table.weight.shape[1] for part in level.tables] == [5, 5]


def test_a_linear_fields_null_is_filled_with_zeros():
    fields = (FieldSlots("age", "linear", "age", 0, 1, "none"), FieldSlots("f", "categorical", "f", 1, 1, "none"))
    layout = FieldLayout(fields, (("age", 2), ("f", 3)))
    method = build_method("full", MethodInputs(layout, 2, {"age": np.array([0, 9]), "f": np.array([0, 8, 1])}), {})
    method.exact.table.weight.normal_()
    number, rare = method.exact.rows()["age"][1].clone(), method.exact.rows()["f"][1:].mean(dim=0)
    method.finish()
    assert torch.equal(method.exact.rows()["age"], torch.stack([torch.zeros(3), number]))
    assert torch.equal(method.exact.rows()["f"][0], rare)
