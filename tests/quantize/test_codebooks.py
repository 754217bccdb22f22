"""Product and residual codebooks: what they code to, and their bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from mec.bundle import open_bundle, write_bundle
from mec.config import QuantizeConfig
from mec.data.layout import FieldLayout, FieldSlots
from mec.errors import BundleError, ConfigError
from mec.quantize import residual
from mec.quantize.codebook import Codebooks
from mec.quantize.fitting import Codebook, fit_codebook
from mec.quantize.plan import VocabularyPlan
from mec.quantize.product import ProductCodebook, column_parts
from mec.quantize.residual import ResidualCodebook
from tests.quantize.tables import SPACE, clustered, zipf_counts


def settings(**changes: object) -> QuantizeConfig:
    return QuantizeConfig.model_validate({"num_codewords": 16, "min_values": 1, **changes})


def fitted(rows: Tensor, weights: Tensor | None = None, **changes: object) -> Codebook:
    chosen = settings(**changes)
    plan = VocabularyPlan(chosen.structure, chosen.num_codes, chosen.num_codewords)
    return fit_codebook(rows, torch.ones(len(rows)) if weights is None else weights, plan, chosen, seed=0)


def distortion(book: Codebook, rows: Tensor, weights: Tensor | None = None) -> float:
    errors = (rows - book.decode(book.encode(rows))).square().sum(1)
    return float(errors.sum() if weights is None else (errors * weights).sum())


@pytest.mark.parametrize("width", [1, 2, 17])
@pytest.mark.parametrize("num_codes", [1, 2, 4, 5])
def test_column_parts_are_those_of_array_split(width: int, num_codes: int) -> None:
    columns = np.arange(width)
    expected = [part.tolist() for part in np.array_split(columns, num_codes)]
    assert [columns[part].tolist() for part in column_parts(width, num_codes)] == expected


@pytest.mark.parametrize("num_codes", [1, 3, 7])
def test_product_code_is_the_nearest_of_all_combinations(num_codes: int) -> None:
    rows = torch.from_numpy(clustered(400, 7))
    book = fitted(rows, structure="product", num_codes=num_codes, num_codewords=8)
    codes = book.encode(rows)
    assert codes.shape == (400, num_codes)
    assert book.codewords.shape == (8, 7)
    decoded = book.decode(codes)
    for part in column_parts(7, num_codes):  # the parts are independent, so the best combination is part by part
        distances = (rows[:, None, part] - book.codewords[None, :, part]).square().sum(2)
        own = (rows[:, part] - decoded[:, part]).square().sum(1)
        assert torch.allclose(own, distances.amin(1), atol=1e-5)


def test_residual_code_of_one_is_the_nearest_codeword() -> None:
    rows = torch.from_numpy(clustered(400, 7))
    book = fitted(rows, structure="residual", num_codes=1)
    distances = (rows[:, None] - book.codewords[0][None]).square().sum(2)
    assert torch.equal(book.encode(rows)[:, 0], distances.argmin(1))
    assert torch.equal(book.decode(book.encode(rows)), book.codewords[0][distances.argmin(1)])


def test_residual_code_of_two_is_nearly_the_best_of_all_pairs() -> None:
    rows = torch.from_numpy(clustered(500, 6))
    book = fitted(rows, structure="residual", num_codes=2, num_codewords=8)
    first, second = book.codewords
    pairs = (first[:, None] + second[None]).reshape(64, 6)
    best = (rows[:, None] - pairs[None]).square().sum(2).amin(1)
    own = (rows - book.decode(book.encode(rows))).square().sum(1)
    assert (own >= best - 1e-4).all()
    assert float(own.sum()) < 1.01 * float(best.sum())


def test_beam_search_beats_the_greedy_code(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.from_numpy(clustered(3000, 17, num_clusters=300))
    book = fitted(rows, structure="residual", num_codes=3, num_codewords=16)
    beam = distortion(book, rows)
    monkeypatch.setattr(residual, "_BEAM", 1)
    assert beam < 0.98 * distortion(book, rows)


def test_tiles_do_not_change_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.from_numpy(clustered(300, 6))
    book = fitted(rows, structure="residual", num_codes=2)
    whole = book.encode(rows)
    monkeypatch.setattr(residual, "_TILE_SCORES", {"cpu": 1})
    assert torch.equal(book.encode(rows), whole)


@pytest.mark.parametrize("structure", ["product", "residual"])
def test_more_codes_less_distortion(structure: str) -> None:
    rows = torch.from_numpy(clustered(2000, 12, num_clusters=200))
    one, two, four = (distortion(fitted(rows, structure=structure, num_codes=m), rows) for m in (1, 2, 4))
    assert four < two < one


@pytest.mark.parametrize("structure", ["product", "residual"])
def test_weights_lower_the_weighted_distortion(structure: str) -> None:
    rows = torch.from_numpy(clustered(2000, 8, num_clusters=150))
    weights = torch.from_numpy(zipf_counts(2000)).float()
    weighted = fitted(rows, weights, structure=structure, num_codes=2)
    plain = fitted(rows, structure=structure, num_codes=2)
    assert distortion(weighted, rows, weights) < 0.9 * distortion(plain, rows, weights)


def test_unseen_rows_do_not_shape_the_codebook() -> None:
    rows = torch.from_numpy(clustered(600, 5))
    weights = torch.ones(600)
    weights[0] = 0
    outlier = rows.clone()
    outlier[0] = 1e3
    one, other = fitted(rows, weights), fitted(outlier, weights)
    assert torch.equal(one.codewords, other.codewords)
    assert one.encode(outlier[:1]).shape == (1, 1)


def test_fit_on_a_sample_codes_all() -> None:
    rows = torch.from_numpy(clustered(5000, 6))
    sampled, full = fitted(rows, max_points=600), fitted(rows)
    assert len(sampled.encode(rows)) == 5000
    assert distortion(sampled, rows) < 1.3 * distortion(full, rows)


@pytest.mark.parametrize("structure", ["product", "residual"])
@pytest.mark.parametrize("num_codes", [1, 2])
def test_no_rows(structure: str, num_codes: int) -> None:
    rows = torch.from_numpy(clustered(200, 4))
    book = fitted(rows, structure=structure, num_codes=num_codes)
    assert book.encode(rows[:0]).shape == (0, num_codes)
    assert book.decode(book.encode(rows[:0])).shape == (0, 4)


def test_gradients_reach_the_codewords_that_are_used() -> None:
    book = ResidualCodebook(torch.randn(2, 8, 3, generator=torch.Generator().manual_seed(0)).requires_grad_())
    book.decode(torch.tensor([[1, 2]])).sum().backward()
    assert book.codewords.grad is not None
    assert book.codewords.grad.sum(2).nonzero().tolist() == [[0, 1], [1, 2]]


def test_more_sub_vectors_than_floats() -> None:
    with pytest.raises(ConfigError, match=r"do not fit a vector of 3 floats.*found: 4"):
        fitted(torch.zeros(100, 3), structure="product", num_codes=4)


def make_codebooks(structure: str) -> Codebooks:
    layout = FieldLayout(
        tuple(FieldSlots(n, "categorical", n, i, 1, "none") for i, n in enumerate(("user", "colour"))),
        (("user", 300), ("colour", 5)),
    )
    rows = torch.from_numpy(clustered(300, 6))
    book = fitted(rows, structure=structure, num_codes=2, num_codewords=20)
    return Codebooks(SPACE, layout, 5, {"user": book}, {"colour": torch.randn(5, 6)})


def write(codebooks: Codebooks, path: Path) -> Path:
    with write_bundle(path, "codebook") as draft:
        codebooks.write(draft, {"user": [3, 4]}, {"anything": 1.0})
    return path


@pytest.mark.parametrize("structure", ["product", "residual"])
def test_bundle_round_trip(tmp_path: Path, structure: str) -> None:
    written = make_codebooks(structure)
    bundle = open_bundle(write(written, tmp_path / "codebook"), "codebook")
    opened = Codebooks.open(bundle)
    assert opened.uuid == bundle.uuid
    assert (opened.space, opened.embedding_dim, opened.floats) == (SPACE, 5, "float32")
    assert opened.layout == written.layout
    assert isinstance(opened.coded["user"], ProductCodebook if structure == "product" else ResidualCodebook)
    assert torch.equal(opened.coded["user"].codewords, written.coded["user"].codewords)
    assert torch.equal(opened.exact["colour"], written.exact["colour"])
    assert (opened.num_codes("user"), opened.bits("user")) == (2, 5)
    rows = torch.from_numpy(clustered(50, 6, seed=1))
    codes = opened.encode("user", rows)
    assert torch.equal(codes, written.encode("user", rows))
    assert torch.equal(opened.decode("user", codes), written.decode("user", codes))
    facts = {"structure": structure, "num_codes": 2, "num_codewords": 20, "bits_per_code": 5, "oov_code": [3, 4]}
    assert bundle.extra["coded"] == {"user": facts}
    assert bundle.extra["exact"] == ["colour"]


@pytest.mark.parametrize("name", ["codebook.safetensors", "exact.safetensors"])
def test_tensors_that_the_manifest_does_not_state(tmp_path: Path, name: str) -> None:
    codebooks = make_codebooks("residual")
    with write_bundle(tmp_path / "codebook", "codebook") as draft:
        codebooks.write(draft, {"user": [3, 4]}, {})
        save_file({"user": torch.zeros(1, 2, 3)}, draft.path / name)
    with pytest.raises(BundleError, match=r"not those its manifest states.*'user': \(1, 2, 3\)"):
        Codebooks.open(tmp_path / "codebook")


def test_not_a_codebook(tmp_path: Path) -> None:
    with write_bundle(tmp_path / "codes", "codes"):
        pass
    with pytest.raises(BundleError, match="not a codebook bundle"):
        Codebooks.open(tmp_path / "codes")
