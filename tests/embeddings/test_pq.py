"""Product codes of pre-trained rows: PQ, OPQ and LightFM against the quantize step's parts and by brute force."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from mec.config import QuantizeConfig
from mec.embeddings.method import MethodInputs
from mec.embeddings.methods import build_method
from mec.embeddings.opq import learn_rotation
from mec.errors import ConfigError, TrainingError
from mec.optimizer import CtrOptimizer
from mec.quantize.fitting import fit_codebook
from mec.quantize.packing import unpack
from mec.quantize.plan import VocabularyPlan
from mec.quantize.product import ProductCodebook
from mec.quantize.weights import popularity_weights
from mec.testing_methods import exported
from tests.embeddings.test_methods import W, one_vocabulary, rows_of

SIZE, K = 400, 8
WARM = {"opq": {"codewords": "warm"}}
SETTINGS = {"num_codes": 3, "num_codewords": K, "floats": "float32", "iterations": 5}


def clustered(correlated: bool = False) -> MethodInputs:
    """One vocabulary with pre-trained rows; correlated ones differ in few directions that lie across all columns."""
    generator = torch.Generator().manual_seed(5)
    rows = torch.randn(SIZE, W, generator=generator)
    if correlated:
        mixing = torch.linalg.qr(torch.randn(W, W, generator=generator))[0]
        rows = rows * torch.tensor([3, 3, 2, 0.1, 0.1, 0.1, 0.1]) @ mixing
    counts = (5000 / np.arange(1, SIZE + 1)).astype(np.int64)
    return replace(one_vocabulary(SIZE, counts), pretrained={"f": rows})


def codes_of(method) -> np.ndarray:
    packed = method.export().arrays["f/codes"].tensor.numpy()
    return unpack(packed, SIZE, 3, 3)


@pytest.mark.parametrize("weighting", ["none", "sqrt", "raw"])
def test_pq_has_the_codebook_and_the_codes_of_the_quantize_step(weighting):
    own = clustered()
    method = build_method("pq", own, SETTINGS | {"weights": weighting})
    weights = torch.from_numpy(popularity_weights(own.counts["f"], weighting))
    quantize = QuantizeConfig(structure="product", num_codes=3, num_codewords=K, iterations=5, floats="float32")
    seed = own.salt("codebook", "f") >> 16
    book = fit_codebook(own.pretrained["f"], weights, VocabularyPlan("product", 3, K, 0, 0), quantize, seed=seed)
    assert torch.equal(method.tables[0].codewords, book.codewords)
    np.testing.assert_array_equal(codes_of(method), book.encode(own.pretrained["f"]).numpy())
    assert method.serving_bytes() == {
        "codes": SIZE * 9 // 8,
        "codebooks": K * W * 4,
        "rows": 0,
        "index": 0,
        "other": 0,
    }


def test_every_part_of_a_row_has_the_nearest_codeword():
    own = clustered()
    method = build_method("pq", own, SETTINGS)
    codewords, codes, rows = method.tables[0].codewords, codes_of(method), rows_of(method, SIZE)
    for m, part in enumerate((slice(0, 3), slice(3, 5), slice(5, 7))):
        distances = torch.cdist(
            own.pretrained["f"][:, part], codewords[:, part], compute_mode="donot_use_mm_for_euclid_dist"
        )
        np.testing.assert_array_equal(codes[:, m], distances.argmin(1).numpy())
        assert torch.equal(rows[:, part], codewords[codes[:, m]][:, part])


def test_weights_serve_the_values_that_occur_often():
    own = clustered()
    errors = {
        weighting: (rows_of(build_method("pq", own, SETTINGS | {"weights": weighting}), SIZE) - own.pretrained["f"])
        .square()
        .sum(1)
        for weighting in ("none", "raw")
    }
    counts = torch.from_numpy(own.counts["f"])
    assert float((errors["raw"] * counts).sum()) < float((errors["none"] * counts).sum())
    assert float(errors["raw"].sum()) > float(errors["none"].sum())


def stepped(name: str, settings: dict) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Codewords and codes before and after a step towards 0."""
    method = build_method(name, clustered(), settings)
    holder = torch.nn.Module()
    holder.method, holder.other = method, torch.nn.Parameter(torch.zeros(()))
    optimizer = CtrOptimizer(holder.train(), 0.1)
    before, codes = method.tables[0].codewords.detach().clone(), method.tables[0].packed.clone()
    loss = method(torch.arange(SIZE, dtype=torch.int32)[:, None]).square().sum()
    if loss.requires_grad:
        loss.backward()
    optimizer.step()
    return before, method.tables[0].codewords.detach(), codes, method.tables[0].packed


@pytest.mark.parametrize(
    ("name", "settings", "moves"),
    [
        ("pq", {"codewords": "frozen"}, False),
        ("pq", {"codewords": "warm"}, True),
        ("opq", {"codewords": "warm"}, True),
        ("lightfm", {}, True),
    ],
)
def test_codes_stay_and_codewords_move_where_they_are_trained(name, settings, moves):
    before, after, codes_before, codes_after = stepped(name, SETTINGS | settings)
    assert torch.equal(codes_before, codes_after)
    assert torch.equal(before, after) != moves
    if moves:
        assert float(after.norm()) < float(before.norm())


@pytest.mark.parametrize("name", ["lightfm", "opq"])
def test_trained_codewords_are_served_as_they_are_stored(name):
    own = clustered()
    method = build_method(name, own, {"num_codes": 3, "num_codewords": K, "iterations": 2} | WARM.get(name, {}))
    with torch.no_grad():
        method.tables[0].codewords.add_(0.1 * torch.randn(K, W))
    before = rows_of(method, SIZE)
    method.finish()
    served, export = exported(method)
    ids = torch.arange(SIZE, dtype=torch.int32)[:, None]
    assert torch.equal(served(ids), method(ids))
    torch.testing.assert_close(rows_of(method, SIZE), before, rtol=0, atol=5e-3)
    assert export.num_bytes() == method.serving_bytes()


def test_lightfm_starts_at_pq():
    assert torch.equal(
        rows_of(build_method("lightfm", clustered(), SETTINGS), SIZE),
        rows_of(build_method("pq", clustered(), SETTINGS), SIZE),
    )


def test_a_rotation_never_raises_the_distortion_and_is_orthogonal():
    own = clustered(correlated=True)
    weights = torch.from_numpy(own.counts["f"]).float()
    book = ProductCodebook.fit(own.pretrained["f"], weights, num_codes=3, num_codewords=K, iterations=25, seed=0)
    rotation, distortions = learn_rotation(own.pretrained["f"], weights, book, 15)
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(W), rtol=0, atol=1e-5)
    assert all(later <= earlier * (1 + 1e-5) for earlier, later in pairwise(distortions))
    assert distortions[-1] < 0.8 * distortions[0]
    errors = (own.pretrained["f"] - book.decode(book.encode(own.pretrained["f"]))).square().sum(1)
    assert distortions[0] == pytest.approx(float((errors * weights).sum()), rel=1e-5)


def test_opq_distorts_correlated_rows_less_than_pq():
    own = clustered(correlated=True)
    errors = {
        name: float((rows_of(build_method(name, own, SETTINGS), SIZE) - own.pretrained["f"]).square().sum())
        for name in ("pq", "opq")
    }
    assert errors["opq"] < 0.8 * errors["pq"]


def test_opq_is_product_codes_of_rotated_rows_rotated_back():
    own = clustered()
    method = build_method("opq", own, SETTINGS)
    table = method.tables[0]
    book = ProductCodebook(table.codewords, 3)
    codes = torch.from_numpy(codes_of(method).astype(np.int64))
    assert torch.equal(codes, book.encode(own.pretrained["f"] @ table.rotation))
    torch.testing.assert_close(rows_of(method, SIZE), book.decode(codes) @ torch.linalg.inv(table.rotation))
    assert method.serving_bytes()["other"] == W * W * 4


def test_a_vocabulary_has_no_more_codewords_than_values():
    method = build_method("pq", clustered(), SETTINGS | {"num_codewords": 1000})
    assert method.tables[0].codewords.shape == (SIZE, W)
    torch.testing.assert_close(rows_of(method, SIZE), clustered().pretrained["f"])


def test_what_cannot_be_coded_is_refused():
    with pytest.raises(ConfigError, match="pq: num_codes sub-vectors do not fit a row of 7 floats; found: 8"):
        build_method("pq", clustered(), {"num_codes": 8})
    with pytest.raises(ConfigError, match="'lightfm' compresses pre-trained tables"):
        build_method("lightfm", one_vocabulary(SIZE), {})
    with pytest.raises(ConfigError, match="num_codewords=300 is more than max_points=256"):
        build_method("opq", clustered(), {"num_codewords": 300, "max_points": 256})
    unseen = replace(clustered(), counts={"f": np.zeros(SIZE, np.int64)})
    with pytest.raises(TrainingError, match="no value of vocabulary 'f' was seen"):
        build_method("pq", unseen, {})
