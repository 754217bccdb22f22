"""The quantize step on hand-made tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mec.bundle import open_bundle
from mec.config import QuantizeConfig
from mec.errors import BundleError, ConfigError, TrainingError
from mec.quantize.codebook import Codebooks
from mec.quantize.codes import Codes
from mec.quantize.plan import VocabularyPlan
from mec.quantize.quantizing import quantize_step
from tests.quantize.tables import SPACE, Made, clustered, make_bundles, zipf_counts

Table = NDArray[np.float32]


def run(made: Made, out: Path, *, seed: int = 0, **changes: Any) -> tuple[Codebooks, Codes]:
    quantize = QuantizeConfig.model_validate({"num_codewords": 16, "min_values": 100, **changes})
    quantize_step(
        quantize=quantize,
        pretrained=made.pretrained,
        vocabulary=made.vocabulary,
        seed=seed,
        out_codebook=out / "codebook",
        out_codes=out / "codes",
    )
    codebooks = Codebooks.open(out / "codebook")
    return codebooks, Codes.open(out / "codes", codebooks)


@pytest.fixture
def made(tmp_path: Path) -> Made:
    tables = {"user": clustered(700, 9), "colour": clustered(5, 9, seed=1), "item": clustered(300, 9)}
    return make_bundles(tmp_path, tables)


@pytest.mark.parametrize(("structure", "num_codes"), [("residual", 1), ("residual", 2), ("product", 4)])
def test_codes_decode_to_what_the_codebook_finds(tmp_path: Path, made: Made, structure: str, num_codes: int) -> None:
    codebooks, codes = run(made, tmp_path, structure=structure, num_codes=num_codes, chunk_rows=256)
    assert list(codebooks.coded) == ["user", "item"]
    assert list(codebooks.exact) == ["colour"]
    assert np.array_equal(codebooks.exact["colour"].numpy(), made.tables["colour"].astype(np.float16))
    for name in codebooks.coded:
        rows = torch.from_numpy(made.tables[name])
        unpacked = torch.from_numpy(codes.unpacked(name))
        assert torch.equal(unpacked.long(), codebooks.encode(name, rows))
        decoded = codebooks.decode(name, unpacked)
        known = rows[1:]
        assert (known - decoded[1:]).square().sum() < 0.7 * (known - known.mean(0)).square().sum()
    extra = open_bundle(tmp_path / "codebook").extra
    assert extra["coded"]["user"]["oov_code"] == codes.unpacked("user")[0].tolist()
    assert extra["space"] == codes.codebooks.space == SPACE


def test_bundles_state_parents_and_diagnostics(tmp_path: Path, made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    run(made, tmp_path, weights="sqrt")
    codebook, codes = open_bundle(tmp_path / "codebook", "codebook"), open_bundle(tmp_path / "codes", "codes")
    pretrained, vocabulary = open_bundle(made.pretrained), open_bundle(made.vocabulary)
    assert codebook.manifest.parents == {"pretrained": pretrained.uuid, "vocabulary": vocabulary.uuid}
    assert codes.manifest.parents == {"codebook": codebook.uuid, "vocabulary": vocabulary.uuid}
    assert codes.manifest.data_version == "made"
    assert (codes.extra["generation"], codes.extra["parent_generation"]) == (0, None)
    quality = codebook.extra["diagnostics"]["user"]
    books = Codebooks.open(codebook)
    rows, weights = torch.from_numpy(made.tables["user"]), torch.from_numpy(np.sqrt(made.counts["user"]))
    errors = (rows - books.decode("user", books.encode("user", rows))).square().sum(1)
    center = (weights[:, None] * rows).sum(0) / weights.sum()
    variance = (weights * (rows - center).square().sum(1)).sum()
    assert quality["explained_variance"] == pytest.approx(1 - float((weights * errors).sum() / variance), abs=1e-4)
    assert quality["size"] == 700
    assert quality["live_codewords"] == [16]
    assert 1 < quality["perplexity"][0] <= 16
    assert quality["code_bytes"] == 700 * 4 // 8
    assert quality["codebook_bytes"] == 16 * 9 * 2
    assert (quality["head"], quality["coded"], quality["row_bytes"]) == (0, 700, 0)
    summary = json.loads((tmp_path / "codebook" / "step.json").read_text())["summary"]
    assert summary.startswith("2 of 3 vocabularies coded, residual 1x16, ")
    assert summary.endswith(" % of variance, 0.00 MiB")
    assert f"| {summary}" in capsys.readouterr().out


def test_same_inputs_same_bytes(tmp_path: Path, made: Made) -> None:
    for name, seed in (("first", 5), ("again", 5), ("other", 6)):
        run(made, tmp_path / name, seed=seed, num_codes=2)
    first, again, other = (open_bundle(tmp_path / name / "codes") for name in ("first", "again", "other"))
    assert first.uuid == again.uuid
    assert first.manifest.files == again.manifest.files
    assert open_bundle(tmp_path / "first" / "codebook").uuid == open_bundle(tmp_path / "again" / "codebook").uuid
    assert first.uuid != other.uuid


def test_chunks_do_not_change_codes(tmp_path: Path, made: Made) -> None:
    streams = [run(made, tmp_path / str(rows), chunk_rows=rows, num_codes=2)[1].packed for rows in (256, 65_536)]
    assert all((streams[0][name] == streams[1][name]).all() for name in streams[0])


def test_small_vocabularies_stay_exact(tmp_path: Path, made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    codebooks, codes = run(made, tmp_path / "a", min_values=301)
    assert (list(codebooks.coded), list(codes.packed)) == (["user"], ["user"])
    codebooks, _ = run(made, tmp_path / "b", min_values=1, num_codewords=300)
    assert list(codebooks.exact) == ["colour", "item"]
    codebooks, codes = run(made, tmp_path / "c", min_values=10_000)
    assert not codebooks.coded
    assert not codes.packed
    assert "0 of 3 vocabularies coded" in capsys.readouterr().out


@pytest.mark.parametrize(("size", "exact"), [(307, True), (308, False)])
def test_codes_that_would_take_no_fewer_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], size: int, exact: bool
) -> None:
    made = make_bundles(tmp_path, {"user": clustered(size, 9), "item": clustered(700, 9), "colour": clustered(5, 9)})
    codebooks, codes = run(made, tmp_path, num_codes=4, num_codewords=64)
    assert (size * 4 * 6 // 8 + 4 * 64 * 9 * 2 >= size * 9 * 2) == exact
    assert set(codebooks.coded) == set(codes.packed) == ({"item"} if exact else {"user", "item"})
    out = capsys.readouterr().out
    told = "[quantize] note: user: all rows kept exact, for codes, codebook and head would take no fewer bytes\n"
    assert (told in out) == exact
    assert ("note" in out) == exact  # a vocabulary below min_values is exact without a word


def test_a_head_that_leaves_nothing_to_code_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = make_bundles(tmp_path, {"user": clustered(700, 9), "item": clustered(300, 9)})
    codebooks, _ = run(made, tmp_path, head=10_000_000)
    assert list(codebooks.exact) == ["user", "item"]
    assert "[quantize] note: user, item: all rows kept exact" in capsys.readouterr().out


def test_rows_that_float16_would_round_to_nothing(tmp_path: Path, made: Made) -> None:
    tables = {**made.tables, "user": made.tables["user"] * np.float32(1e-9)}
    with pytest.raises(ConfigError, match=r"the rows of vocabulary 'user' are too small for float16.*pretrain\.l2"):
        run(make_bundles(tmp_path / "made", tables), tmp_path)
    assert not (tmp_path / "codebook").exists()
    run(make_bundles(tmp_path / "again", tables), tmp_path, floats="float32")


def test_a_small_field_that_says_nothing_is_no_reason_to_stop(tmp_path: Path, made: Made) -> None:
    tables = {**made.tables, "colour": made.tables["colour"] * np.float32(1e-9)}
    codebooks, _ = run(make_bundles(tmp_path / "made", tables), tmp_path)
    assert not codebooks.exact["colour"].any()


@pytest.mark.parametrize("same", [0.0, 0.1, 3000.7])
def test_equal_rows_lose_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str], same: float) -> None:
    run(make_bundles(tmp_path, {"user": np.full((700, 9), same, np.float32)}), tmp_path)
    quality = open_bundle(tmp_path / "codebook").extra["diagnostics"]["user"]
    assert quality["explained_variance"] == 1
    assert {part["explained_variance"] for part in quality["slices"].values()} == {None}
    assert " 100 % of variance" in capsys.readouterr().out


def test_rows_that_float16_cannot_tell_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(make_bundles(tmp_path, {"user": 3000 + 0.1 * clustered(700, 9)}), tmp_path)
    assert open_bundle(tmp_path / "codebook").extra["diagnostics"]["user"]["explained_variance"] == 0
    assert " 0 % of variance" in capsys.readouterr().out


def test_popularity_weights_favour_popular_values(tmp_path: Path, made: Made) -> None:
    def popular_error(weights: str) -> float:
        codebooks, codes = run(made, tmp_path / weights, weights=weights)
        rows = torch.from_numpy(made.tables["user"])[1:30]
        return float((rows - codebooks.decode("user", torch.from_numpy(codes.unpacked("user")))[1:30]).square().sum())

    assert popular_error("raw") < 0.7 * popular_error("none")


@pytest.mark.parametrize("structure", ["product", "residual"])
@pytest.mark.parametrize("num_distinct", [1, 5])
def test_few_distinct_rows(tmp_path: Path, structure: str, num_distinct: int) -> None:
    rows = np.tile(clustered(num_distinct, 6), (200, 1))
    shape = {"structure": structure, "num_codes": 2, "floats": "float32"}
    codebooks, codes = run(make_bundles(tmp_path, {"user": rows}), tmp_path, **shape)
    decoded = codebooks.decode("user", torch.from_numpy(codes.unpacked("user")))
    np.testing.assert_allclose(decoded.numpy(), rows, atol=1e-5)
    quality = open_bundle(tmp_path / "codebook").extra["diagnostics"]["user"]
    assert quality["explained_variance"] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("name", ["user", "colour"])
def test_rows_that_are_not_finite(tmp_path: Path, bad: float, name: str) -> None:
    tables = {"user": clustered(200, 4), "colour": clustered(5, 4)}
    tables[name][[1, 3], [0, 2]] = bad
    with pytest.raises(TrainingError, match=f"vocabulary '{name}' .*found: 2 of {len(tables[name])} rows"):
        run(make_bundles(tmp_path, tables), tmp_path)
    assert not (tmp_path / "codebook").exists()
    assert not (tmp_path / "codes").exists()


def test_nothing_seen_in_training(tmp_path: Path) -> None:
    made = make_bundles(tmp_path, {"user": clustered(200, 4)}, {"user": np.zeros(200, np.int64)})
    with pytest.raises(TrainingError, match="no value of vocabulary 'user' was seen"):
        run(made, tmp_path)


def test_oov_with_a_count_weighs_in(tmp_path: Path) -> None:
    rows = clustered(300, 4)
    rows[0] = 9.0
    counts = zipf_counts(300)
    unseen, _ = run(make_bundles(tmp_path / "a", {"user": rows}, {"user": counts}), tmp_path / "a")
    counts[0] = 1_000_000
    seen, _ = run(make_bundles(tmp_path / "b", {"user": rows}, {"user": counts}), tmp_path / "b")
    oov = torch.from_numpy(rows[:1])
    assert torch.allclose(seen.decode("user", seen.encode("user", oov)), oov, atol=0.1)
    assert not torch.allclose(unseen.decode("user", unseen.encode("user", oov)), oov, atol=1)


def test_settings_that_no_codebook_can_have(tmp_path: Path, made: Made) -> None:
    with pytest.raises(ConfigError, match="num_codes"):
        run(made, tmp_path, structure="product", num_codes=10)


def test_another_vocabulary(tmp_path: Path, made: Made) -> None:
    other = make_bundles(tmp_path / "other", {**made.tables, "user": clustered(500, 9)})
    mixed = Made(other.vocabulary, made.pretrained, made.tables, other.counts)
    with pytest.raises(BundleError, match="vocabulary 'user' has 500 values"):
        run(mixed, tmp_path)


def test_head_and_tail_of_the_bundles(tmp_path: Path, made: Made) -> None:
    codebooks, codes = run(made, tmp_path, head=20, tail_count=200, structure="product", num_codes=3)
    bundle = open_bundle(tmp_path / "codes")
    for name, size in (("user", 700), ("item", 300)):
        tail_start = 1 + sum(int(n) >= 200 for n in made.counts[name][1:])
        assert 21 < tail_start < size
        facts = {"size": size, "num_codes": 3, "bits_per_code": 4, "head": 20, "coded": tail_start - 20}
        assert bundle.extra["vocabularies"][name] == codes.facts(name) == facts
        assert codes.plan(name) == VocabularyPlan("product", 3, 16, 20, tail_start)
        rows = torch.from_numpy(made.tables[name])
        assert torch.equal(codes.head[name], rows[1:21].half())
        unpacked = torch.from_numpy(codes.unpacked(name)).long()
        own = slice(21, tail_start)
        assert torch.equal(unpacked[own], codebooks.encode(name, rows[own]))
        assert (unpacked[tail_start:] == unpacked[0]).all()
        coded = open_bundle(tmp_path / "codebook").extra["coded"][name]
        assert coded["structure"] == "product"
        assert coded["oov_code"] == unpacked[0].tolist()


def test_ids_out_of_order_have_no_head_and_no_tail(tmp_path: Path) -> None:
    counts = zipf_counts(200)
    counts[150] = 10**6
    made = make_bundles(tmp_path, {"user": clustered(200, 4)}, {"user": counts})
    run(made, tmp_path / "plain")
    for changes in ({"head": 1}, {"tail_count": 500}, {"budget": "20%"}):
        if "budget" in changes:
            changes |= {"num_codewords": 64, "min_values": 1000}  # their defaults, which no budget refuses
        with pytest.raises(BundleError, match="ids of vocabulary 'user' are not in order"):
            run(made, tmp_path / "refused", **changes)


@pytest.mark.parametrize("floats", ["float16", "float32"])
def test_a_budget_is_kept_by_the_files(tmp_path: Path, made: Made, floats: str) -> None:
    defaults = {"num_codewords": 64, "min_values": 1000}
    codebooks, codes = run(made, tmp_path, budget="12%", floats=floats, max_points=256, iterations=5, **defaults)
    full_bytes = sum(table.nbytes for table in made.tables.values())
    files = [(tmp_path / kind / f"{name}.safetensors") for kind, name in (
        ("codebook", "codebook"), ("codebook", "exact"), ("codes", "codes"), ("codes", "head"),
    )]  # fmt: skip
    taken = sum(tensor_bytes(file) for file in files)
    assert 0.6 * 0.12 * full_bytes < taken <= 0.12 * full_bytes
    allocation = open_bundle(tmp_path / "codebook").extra["allocation"]
    assert (allocation["budget"], allocation["full_bytes"]) == ("12%", full_bytes)
    plans = {name: codes.plan(name) for name in codebooks.coded}
    assert plans
    sizes = {name: len(rows) for name, rows in made.tables.items()}
    float_bytes = 2 if floats == "float16" else 4
    stated = sum(sum(p.serving_bytes(sizes[n], 9, float_bytes).values()) for n, p in plans.items())
    assert taken == stated + sum(rows.nbytes for rows in codebooks.exact.values())


def tensor_bytes(file: Path) -> int:
    """What a safetensors file takes without its header."""
    header = int.from_bytes(file.read_bytes()[:8], "little")
    return file.stat().st_size - 8 - header
