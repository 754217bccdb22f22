"""Raw rows of a later period through a scorer of each generation, against the model in this process."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from mec.bundle import open_bundle
from mec.config import RefreshConfig
from mec.ctr_model import predict_split
from mec.data.dataset import EncodedDataset
from mec.evaluation.metrics import sigmoid
from mec.model_bundle import load_ctr_model
from mec.serving.building import write_scorer
from mec.serving.scorer import Scorer
from mec.serving.sources import BundleCodes
from tests.refresh.refresh_run import Generation, refresh_run, train_run


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Generation:
    return train_run(tmp_path_factory.mktemp("run"), 1500, head=5, tail_count=6)


@pytest.mark.parametrize("codebooks", ["frozen", "renewed"])
def test_a_scorer_of_a_grown_generation(base: Generation, tmp_path: Path, codebooks: str) -> None:
    first = refresh_run(base, tmp_path / "first", RefreshConfig.model_validate({"codebooks": codebooks}))
    bundles = {role: open_bundle(first.bundles[role]) for role in ("model", "codebook", "vocabulary", "evaluation")}
    write_scorer(**bundles, data=base.config.data, out=tmp_path / "scorer", codes=open_bundle(first.codes))
    source = BundleCodes(codes=str(first.codes), vocabulary=str(first.vocabulary))
    frame = pq.read_table(first.dataset.parent / "rows.parquet").to_pandas()
    test = frame[frame["split"] == "test"].reset_index(drop=True)
    scored = Scorer.open(tmp_path / "scorer", source).score(test)
    model = load_ctr_model(bundles["model"], bundles["codebook"], open_bundle(first.codes))
    logits, _ = predict_split(model, EncodedDataset.open(first.dataset), "test", 256)
    served = json.loads((first.evaluation / "evaluation.json").read_text())["calibration"]
    expected = sigmoid(served["scale"] * logits.astype(np.float64) + served["bias"])
    np.testing.assert_allclose(scored, expected, rtol=1e-5)
    unknown = test.assign(user=10**6)
    assert len(np.unique(Scorer.open(tmp_path / "scorer", source).score(unknown))) > 1
