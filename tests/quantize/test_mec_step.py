"""The quantize step with the MEC objective: bundles, facts, and what it says of k-means."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from mec.bundle import open_bundle
from mec.config import QuantizeConfig
from mec.quantize.quantizing import quantize_step
from tests.quantize.tables import clustered, make_bundles

QUICK = {"epochs": 6, "batch_size": 256}


@pytest.mark.parametrize("structure", ["product", "residual"])
def test_the_quantize_step(tmp_path: Path, capsys: pytest.CaptureFixture[str], structure: str) -> None:
    made = make_bundles(tmp_path, {"user": clustered(700, 9), "item": clustered(400, 9)})
    raw = {"structure": structure, "num_codes": 2, "num_codewords": 16, "min_values": 100, "objective": "mec"}
    for name in ("one", "again"):
        quantize_step(
            quantize=QuantizeConfig.model_validate({**raw, "mec": {**QUICK, "encoder": "mlp"}}),
            pretrained=made.pretrained,
            vocabulary=made.vocabulary,
            seed=1,
            out_codebook=tmp_path / name / "codebook",
            out_codes=tmp_path / name / "codes",
        )
    one, again = (open_bundle(tmp_path / name / "codes") for name in ("one", "again"))
    assert one.manifest.files == again.manifest.files
    codebook = open_bundle(tmp_path / "one" / "codebook")
    assert codebook.manifest.files == open_bundle(tmp_path / "again" / "codebook").manifest.files
    assert "note" not in capsys.readouterr().out  # a little more distortion than k-means is no news
    facts = codebook.extra["diagnostics"]["user"]["fit"]
    assert facts.keys() == {"kmeans_distortion", "mec_distortion", "epochs", "kept_epoch", "restarted"}
    assert 0 < facts["mec_distortion"] < 1.05 * facts["kmeans_distortion"]
    assert facts["epochs"] == QUICK["epochs"]


def test_worse_than_kmeans_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = make_bundles(tmp_path, {"user": clustered(700, 9)})
    mec = {**QUICK, "contrastive": 5.0, "learning_rate": 0.1, "checkpoint": "last"}
    quantize_step(
        quantize=QuantizeConfig.model_validate({"num_codewords": 16, "min_values": 9, "objective": "mec", "mec": mec}),
        pretrained=made.pretrained,
        vocabulary=made.vocabulary,
        seed=1,
        out_codebook=tmp_path / "codebook",
        out_codes=tmp_path / "codes",
    )
    out = capsys.readouterr().out
    found = re.search(
        r"\[quantize\] note: user: the MEC objective ends with more weighted distortion than k-means, by "
        r"([0-9.]+) % of the variance\n",
        out,
    )
    facts = open_bundle(tmp_path / "codebook").extra["diagnostics"]["user"]["fit"]
    rows, weights = made.tables["user"].astype(float), np.sqrt(made.counts["user"])
    variance = weights @ np.square(rows - np.average(rows, axis=0, weights=weights)).sum(1)
    assert found is not None
    lost = 100 * (facts["mec_distortion"] - facts["kmeans_distortion"]) / variance
    assert float(found[1]) == pytest.approx(lost, abs=0.051)
    assert "user: epoch 1/6" in out or "user: 700 values fitted" in out


def test_nothing_to_lose_is_no_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = make_bundles(tmp_path, {"user": np.tile(clustered(2, 6), (200, 1))})
    quantize_step(
        quantize=QuantizeConfig.model_validate(
            {"num_codewords": 16, "min_values": 9, "objective": "mec", "mec": {**QUICK, "epochs": 2}}
        ),
        pretrained=made.pretrained,
        vocabulary=made.vocabulary,
        seed=1,
        out_codebook=tmp_path / "codebook",
        out_codes=tmp_path / "codes",
    )
    facts = open_bundle(tmp_path / "codebook").extra["diagnostics"]["user"]["fit"]
    assert facts["mec_distortion"] > 2 * facts["kmeans_distortion"]
    assert "note" not in capsys.readouterr().out
