"""What the quantize step keeps for people, against loops over the values as they are read from the bundles."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mec.bundle import open_bundle, write_bundle
from mec.config import QuantizeConfig
from mec.evaluation.slices import POPULARITY, value_slices
from mec.quantize.codebook import Codebooks
from mec.quantize.codes import Codes
from mec.quantize.diagnostics import _text, explained, usage
from mec.quantize.quantizing import quantize_step
from mec.quantize.value_probe import SliceQuality
from tests.quantize.tables import Made, clustered, make_bundles, zipf_counts

SIZE = 700


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    counts = zipf_counts(SIZE)
    counts[0], counts[-20:] = 777, 0
    return make_bundles(tmp_path_factory.mktemp("made"), {"user": clustered(SIZE, 9)}, {"user": counts})


def quantized(made: Made, out: Path, **changes: Any) -> tuple[dict[str, Any], Tensor]:
    """Diagnostics, and (V, W) rows as they are served."""
    settings = {"num_codewords": 16, "min_values": 100, "num_codes": 2, "chunk_rows": 256, **changes}
    paths = {"out_codebook": out / "codebook", "out_codes": out / "codes"}
    quantize_step(
        quantize=QuantizeConfig.model_validate(settings), pretrained=made.pretrained, vocabulary=made.vocabulary,
        seed=0, **paths,
    )  # fmt: skip
    codebooks = Codebooks.open(out / "codebook")
    codes = Codes.open(out / "codes", codebooks)
    served = codebooks.decode("user", torch.from_numpy(codes.unpacked("user")))
    head = codes.head.get("user")
    if head is not None:
        served[1 : 1 + len(head)] = head.float()
    facts: dict[str, Any] = open_bundle(out / "codebook").extra["diagnostics"]["user"]
    return facts, served


@pytest.mark.parametrize(("head", "tail_count"), [(0, 1), (20, 1), (0, 200), (20, 200)])
def test_distortion_and_variance_by_popularity(made: Made, tmp_path: Path, head: int, tail_count: int) -> None:
    facts, served = quantized(made, tmp_path, head=head, tail_count=tail_count)
    rows, counts = made.tables["user"].astype(np.float64), made.counts["user"]
    weights, slices = np.sqrt(counts), value_slices(counts)
    center = weights @ rows / weights.sum()
    assert {POPULARITY[index] for index in set(slices.tolist())} == set(facts["slices"]) == set(POPULARITY)
    for name, found in facts["slices"].items():
        ids = [value for value in range(SIZE) if POPULARITY[slices[value]] == name]
        assert (found["values"], found["impressions"]) == (len(ids), sum(int(counts[i]) for i in ids))
        distortion = sum(weights[i] * ((rows[i] - served[i].double().numpy()) ** 2).sum() for i in ids)
        variance = sum(weights[i] * ((rows[i] - center) ** 2).sum() for i in ids)
        assert found["distortion"] == pytest.approx(distortion, rel=1e-4, abs=1e-4)
        assert found["variance"] == pytest.approx(variance, rel=1e-4)
        assert found["explained_variance"] == pytest.approx(1 - distortion / variance, abs=1e-4)


def test_a_slice_without_weight_explains_nothing(tmp_path: Path) -> None:
    facts, _ = quantized(make_bundles(tmp_path, {"user": clustered(SIZE, 9)}), tmp_path)
    assert facts["slices"]["unseen"]["values"] == 1
    assert facts["slices"]["unseen"]["explained_variance"] is None


@pytest.mark.parametrize("head", [0, 1, 20])
def test_neighbours_are_those_of_the_rows_as_served(made: Made, tmp_path: Path, head: int) -> None:
    facts, served = quantized(made, tmp_path, head=head, tail_count=200)
    seen = np.flatnonzero(made.counts["user"])[1:]  # id 0 is no value
    assert facts["neighbours"]["sample"] == len(seen)
    vectors = {"before": torch.from_numpy(made.tables["user"])[:, 1:], "after": served[:, 1:]}
    for place, shown in enumerate(facts["neighbours"]["shown"]):
        value = place + 1
        assert (shown["value"], shown["count"]) == (str(value), made.counts["user"][value])
        for key, table in vectors.items():
            cosines = torch.cosine_similarity(table[value : value + 1], table[seen], dim=1)
            cosines[torch.from_numpy(seen == value)] = -2
            best = cosines.topk(5)
            assert [cosine for _, cosine in shown[key]] == pytest.approx(best.values.tolist(), abs=1e-3)
            if key == "before":
                assert [name for name, _ in shown[key]] == [str(seen[i]) for i in best.indices]


def test_long_and_null_values_can_be_read() -> None:
    assert _text(None) == "null"
    assert _text("x" * 60) == "x" * 60
    assert _text("x" * 61) == "x" * 59 + "\N{HORIZONTAL ELLIPSIS}"


def test_less_than_nothing_is_not_kept() -> None:
    assert explained(3.0, 4.0) == 0.25
    assert str(explained(4.001, 4.0)) == str(explained(9.0, 4.0)) == "0.0"
    assert explained(0.5, 0.0) == 1


@pytest.mark.parametrize(("distortion", "share"), [(3.0, 0.25), (4.0, 0.0), (4.0001, 0.0), (4.4, -0.1)])
def test_a_slice_may_be_coded_worse_than_by_the_mean_but_not_by_rounding(distortion: float, share: float) -> None:
    found = SliceQuality(1, 1, distortion, 4.0).to_json()["explained_variance"]
    assert found == pytest.approx(share)
    assert not str(found).startswith("-0.00")


def test_usage_of_codewords() -> None:
    codes = np.array([[0, 1], [0, 1], [3, 1], [2, 1]], dtype=np.uint16)
    live, perplexity = usage(codes, 4)
    assert live == (3, 1)
    assert perplexity == pytest.approx((0.5**-0.5 * 0.25**-0.25 * 0.25**-0.25, 1.0))


def test_the_folds_of_pre_training_go_along(made: Made, tmp_path: Path) -> None:
    quantized(made, tmp_path / "without")
    assert open_bundle(tmp_path / "without" / "codebook").extra["pretrain_folds"]["num"] == 0
    old, folds = open_bundle(made.pretrained), {"num": 2, "seed": 0, "fits": [{"fit": {}}, {"fit": {}}]}
    with write_bundle(tmp_path / "pretrained", "pretrained", parents={"vocabulary": "v"}) as draft:
        shutil.copy(old.file("tables.safetensors"), draft.path)
        draft.extra = old.extra | {"folds": folds}
    quantized(replace(made, pretrained=draft.path), tmp_path / "with", reliability=False)
    assert open_bundle(tmp_path / "with" / "codebook").extra["pretrain_folds"] == folds
