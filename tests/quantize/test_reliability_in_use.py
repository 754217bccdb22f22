"""Weights, bytes and the report follow the reliability of vectors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from mec.bundle import open_bundle, write_bundle
from mec.config import QuantizeConfig
from mec.data.layout import FieldLayout
from mec.data.vocabulary import Vocabularies
from mec.errors import ConfigError
from mec.evaluation.compression_tables import reliability_table
from mec.evaluation.evaluating import _diagnose
from mec.fold_training import save_fold
from mec.quantize.pretrained_tables import PretrainedTables
from mec.quantize.quantizing import quantize_step
from mec.quantize.weights import popularity_weights
from tests.quantize.tables import Made, clustered, make_bundles
from tests.quantize.test_reliability import halves


def with_folds(
    made: Made, folds: Sequence[Mapping[str, Tensor]], counts: Sequence[Mapping[str, NDArray[np.int64]]]
) -> Path:
    """The made tables again, with out-of-fold tables and counts beside them."""
    old, path = open_bundle(made.pretrained), made.pretrained.parent / "folded"
    with write_bundle(path, "pretrained", parents={"vocabulary": "v"}) as draft:
        save_file(
            {name: torch.from_numpy(rows.copy()) for name, rows in made.tables.items()},
            draft.path / "tables.safetensors",
        )
        for fold, (rows, counted) in enumerate(zip(folds, counts, strict=True)):
            save_fold(draft.path, fold, rows, counted)
        draft.extra = old.extra | {"folds": {"num": len(folds), "seed": 0, "fits": []}}
    return path


def opened(made: Made, pretrained: Path, **settings: object) -> PretrainedTables:
    quantize = QuantizeConfig.model_validate(settings)
    return PretrainedTables(open_bundle(pretrained), Vocabularies.open(made.vocabulary), quantize)


@pytest.fixture(scope="module")
def folded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Made, Path]:
    """Rare values of noise, popular ones of signal; the last fifty never seen, and some seen in one fold only."""
    size, rng = 1500, np.random.default_rng(11)
    counts = np.concatenate([[0], np.full(600, 100), np.full(849, 6), np.zeros(50)]).astype(np.int64)
    made = make_bundles(tmp_path_factory.mktemp("folded"), {"user": clustered(size, 5)}, {"user": counts})
    scale = np.where(counts > 50, 0.3, 3.0)[:, None]
    rows = [{"user": torch.from_numpy(made.tables["user"] + rng.normal(0, scale, (size, 5))).float()} for _ in range(2)]
    halved = [{"user": counts // 2}, {"user": counts - counts // 2}]
    halved[1]["user"][1440:1450] = 0
    return made, with_folds(made, rows, halved)


@pytest.mark.parametrize("weighting", ["sqrt", "none", "log2", "raw"])
def test_a_weight_is_popularity_times_reliability(folded: tuple[Made, Path], weighting: str) -> None:
    made, pretrained = folded
    tables = opened(made, pretrained, weights=weighting)
    counts = made.counts["user"]
    by_popularity = popularity_weights(counts, weighting)  # type: ignore[arg-type]
    fold_rows = [load_file(pretrained / f"fold-{fold}.safetensors")["user"] for fold in range(2)]
    for own in (slice(1, 601), slice(601, 1440)):
        a, b = (rows_of[own].double().numpy() for rows_of in fold_rows)
        a, b = a - a.mean(0), b - b.mean(0)
        r = (a * b).sum() / math.sqrt((a * a).sum() * (b * b).sum())
        wanted = by_popularity[own] * (2 * r / (1 + r))
        np.testing.assert_allclose(tables.weights("user")[own].numpy(), wanted, rtol=1e-5)
    assert not tables.weights("user")[1450:].any()
    weights = tables.weights("user")
    weights *= 0  # the caller's own
    assert tables.weights("user").any()


@pytest.mark.parametrize("wanted", [None, False])
def test_weights_without_folds_are_by_popularity_alone(folded: tuple[Made, Path], wanted: bool | None) -> None:
    made, _ = folded
    tables = opened(made, made.pretrained, reliability=wanted)
    assert tables.reliability("user") is None
    assert np.array_equal(tables.weights("user").numpy(), popularity_weights(made.counts["user"], "sqrt"))


def test_folds_can_be_left_out(folded: tuple[Made, Path]) -> None:
    made, pretrained = folded
    tables = opened(made, pretrained, reliability=False)
    assert tables.reliability("user") is None
    assert np.array_equal(tables.weights("user").numpy(), popularity_weights(made.counts["user"], "sqrt"))


def test_wanted_without_folds_is_refused(folded: tuple[Made, Path]) -> None:
    made, pretrained = folded
    with pytest.raises(ConfigError, match=r"quantize\.reliability compares models trained without a fold") as error:
        opened(made, made.pretrained, reliability=True).weights("user")
    assert "set pretrain.folds to 2" in error.value.fix
    by_default = opened(made, pretrained).weights("user")
    assert torch.equal(opened(made, pretrained, reliability=True).weights("user"), by_default)


def test_large_vocabularies_are_sampled(tmp_path: Path) -> None:
    """The popular are fewer than a stride: without a sample of their own, none of them would be drawn."""
    size, width = 70_000, 4
    counts = np.full(size, 3)
    counts[0], counts[1:257] = 0, 1000
    made = make_bundles(tmp_path, {"user": np.zeros((size, width), np.float32)}, {"user": counts})
    rows = halves((size, width), 1.0, seed=12)
    for half, signal in zip(rows, halves((256, width), 0.05, seed=13), strict=True):
        half[1:257] = signal
    pretrained = with_folds(made, [{"user": half} for half in rows], [{"user": counts}] * 2)
    found = [opened(made, pretrained, max_points=num).reliability("user") for num in (size, 256)]
    assert found[0] is not None
    assert found[1] is not None
    (ranges, shares), (sampled_ranges, sampled) = found[0], found[1]
    assert np.array_equal(ranges, sampled_ranges)
    r = 1 / 3  # of the rare ones
    error = 2 / (1 + r) ** 2 * (1 - r**2) / math.sqrt(256 * width)
    assert sampled[0] == pytest.approx(shares[0], abs=4 * error)
    assert sampled[0] != shares[0], "not all were looked at"
    assert sampled[1] == shares[1], "all of the popular were"


def test_unreliable_vocabularies_come_last_under_a_budget(tmp_path: Path) -> None:
    size, width = 600, 5
    table = clustered(size, width)
    names = ("noise", "half", "signal")
    made = make_bundles(tmp_path, dict.fromkeys(names, table))
    counts, rng = made.counts["noise"], np.random.default_rng(14)
    folds = []
    for _ in range(2):
        own = torch.from_numpy(rng.normal(0, 1, table.shape)).float()
        rows = torch.from_numpy(table)
        folds.append({"noise": own, "half": rows + 3 * own.flip(0), "signal": rows + 0.1 * own.flip(1)})
    pretrained = with_folds(made, folds, [dict.fromkeys(names, counts)] * 2)
    given = {}
    for wanted in (None, False):
        out = tmp_path / f"{wanted}"
        quantize_step(
            quantize=QuantizeConfig(budget="10%", reliability=wanted, iterations=5), pretrained=pretrained,
            vocabulary=made.vocabulary, seed=0, out_codebook=out / "codebook", out_codes=out / "codes",
        )  # fmt: skip
        extra = open_bundle(out / "codebook").extra
        shares = extra["allocation"]["vocabularies"]
        given[wanted] = [sum(shares[name]["bytes"].values()) for name in names]
        assert ("reliability" in extra) == (wanted is None)
    noise, half, signal = given[None]
    assert noise < half < signal
    assert noise < min(given[False]) / 2, "the same table and counts three times"


def test_the_codebook_says_how_far_it_trusted_whom(folded: tuple[Made, Path], tmp_path: Path) -> None:
    made, pretrained = folded
    quantize_step(
        quantize=QuantizeConfig(num_codewords=16, min_values=100), pretrained=pretrained, vocabulary=made.vocabulary,
        seed=0, out_codebook=tmp_path / "codebook", out_codes=tmp_path / "codes",
    )  # fmt: skip
    bundle, layout = open_bundle(tmp_path / "codebook"), FieldLayout.from_json(open_bundle(pretrained).extra["layout"])
    rare, popular = bundle.extra["reliability"]["user"]
    assert (rare["count_from"], rare["values"]) == (6, 849)
    assert (popular["count_from"], popular["values"]) == (100, 600)
    weights = opened(made, pretrained).weights("user")
    assert [rare["reliability"], popular["reliability"]] == pytest.approx(
        [float(weights[700]) / math.sqrt(6), float(weights[5]) / 10], rel=1e-6
    )
    assert rare["reliability"] < 0.4 < 0.9 < popular["reliability"]
    told = _diagnose(bundle, {}, layout, made.counts)
    assert told["reliability"] == bundle.extra["reliability"]
    page = reliability_table({"compression_diagnostics": told})
    assert page is not None
    assert [row.cells[:3] for row in page.rows] == [["user", "100", "600"], ["", "6", "849"]]


def test_exact_vocabularies_without_a_budget_are_not_weighted(folded: tuple[Made, Path], tmp_path: Path) -> None:
    made, pretrained = folded
    quantize_step(
        quantize=QuantizeConfig(min_values=5000), pretrained=pretrained, vocabulary=made.vocabulary,
        seed=0, out_codebook=tmp_path / "codebook", out_codes=tmp_path / "codes",
    )  # fmt: skip
    assert "reliability" not in open_bundle(tmp_path / "codebook").extra
