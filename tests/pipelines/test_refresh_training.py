"""A whole refresh that escalates to the train pipeline: killed, gone on with, promoted by the gate, refused by it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from mec.bundle import open_bundle
from mec.data.dataset import EncodedDataset
from mec.tracking.registry import ModelRegistry
from mec.tracking.runs import connected
from tests.pipelines.answers import TRACKING, champion_tags, computed, request_rows, served
from tests.pipelines.periods import kill_in_step, mec, write_periods

pytestmark = pytest.mark.slow
TRAINING = {"count", "vocabulary", "encode", "pretrain", "quantize", "publish"}
TRAINING |= {"train", "reference", "evaluate", "register"}


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID"):
        monkeypatch.delenv(name, raising=False)
    write_periods(tmp_path, num_rows=9_000)
    done = mec(tmp_path, "run", "config.yaml", "--out", "run0")
    assert done.returncode == 0, done.stderr
    return tmp_path


def escalating(period: int, out: str, *arguments: str) -> tuple[str, ...]:
    settings = ("refresh.bounds.min_rows_per_label=20", "refresh.bounds.min_auc=0.999", "refresh.on_escalation=train")
    given = [word for setting in (*settings, *arguments) for word in ("--set", setting)]
    return ("refresh", "config.yaml", "--data", f"period-{period}.parquet", "--out", out, *given)


def finish(shop: Path, *command: str) -> dict[str, Any]:
    done = mec(shop, *command)
    assert done.returncode == 0, done.stdout + done.stderr
    summary: dict[str, Any] = json.loads((shop / command[5] / "summary.json").read_text())
    return summary | {"told": done.stdout}


def aliases(shop: Path) -> dict[str, str]:
    with connected(TRACKING, store=shop / ".mec") as server:
        return ModelRegistry(server, "shop", create=False).aliases()


def num_rows(summary: dict[str, Any]) -> int:
    dataset = EncodedDataset(open_bundle(summary["trained"]["bundles"]["dataset"], "dataset"))
    return sum(dataset.num_rows(split) for split in ("train", "valid", "test"))


def test_escalation_trains_on_old_and_new_rows(shop: Path) -> None:
    files = [shop / f"period-{period}.parquet" for period in range(3)]
    rows, away = request_rows(shop), shop / "away"
    files[0].rename(away)
    refused = mec(shop, *escalating(1, "out"))
    assert (refused.returncode, (shop / "out").exists()) == (2, False)
    assert "the rows of the train run of version 1 are needed in case of a training" in refused.stderr
    away.rename(files[0])

    before = served(shop, rows)
    kill_in_step(shop, "train", *escalating(1, "out"))
    assert aliases(shop) == {"champion": "1"}
    np.testing.assert_array_equal(served(shop, rows), before)
    done = finish(shop, *escalating(1, "out"))
    trained = done["trained"]
    assert (done["decision"], trained["decision"]["promote"], trained["model_version"]) == ("escalate", True, 2)
    in_service = {"model_version": 2, "generation": 0, "parent_generation": None, "codebook": trained["codebook"]}
    assert {name: done[name] for name in in_service} == in_service
    assert set(trained["steps"]) == TRAINING
    reused = {name for name, step in trained["steps"].items() if step["reused"]}
    assert reused - {"reference"} == {"count", "vocabulary", "encode", "pretrain", "quantize"}
    assert "reused" in done["told"]
    assert f"report of the training: {shop}/out/training/report.html" in done["told"]
    both = [str(file) for file in files[:2]]
    escalation = json.loads((shop / "out" / "bundles" / "outcome" / "escalation.json").read_text())
    assert escalation["all_rows"] == trained["data"]["path"] == both
    assert num_rows(done) == sum(pq.read_metadata(file).num_rows for file in files[:2])
    alone = json.loads((shop / "out" / "training" / "summary.json").read_text())
    assert alone["config"]["data"]["path"] == both
    assert (alone["auc"], alone["bundles"]) == (trained["auc"], trained["bundles"])
    assert all(open_bundle(path) for path in done["bundles"].values())
    assert aliases(shop) == {"champion": "2", "previous": "1"}
    after = served(shop, rows)
    np.testing.assert_allclose(after, computed(shop, rows), atol=1e-6)
    assert np.abs(after - before).max() > 0.01

    (shop / "out" / "summary.json").unlink()  # as if killed after the alias had moved
    again = finish(shop, *escalating(1, "out"))
    outside = {"publication", "registration"}
    kept = [{r: u for r, u in s["trained"]["lineage"].items() if r not in outside} for s in (done, again)]
    assert kept[0] == kept[1]
    assert again["refreshed_version"] == done["refreshed_version"] == 1
    assert aliases(shop) == {"champion": "2", "previous": "1"}
    assert "nothing new: shop version 2" in mec(shop, *escalating(1, "more")).stdout

    number, tags = champion_tags(shop)
    kept_out = finish(shop, *escalating(2, "refused", "tracking.gate.min_auc=0.999"))
    gate = kept_out["trained"]["decision"]
    assert (gate["promote"], kept_out["trained"]["model_version"], kept_out["model_version"]) == (False, 3, 2)
    assert kept_out["codebook"] == tags["codebook"]
    assert gate["reasons"][0] in kept_out["told"]
    assert kept_out["trained"]["data"]["path"] == [str(file) for file in files]
    log = (shop / "refused" / "run.log").read_text()
    assert "% seen before" in log
    assert "cannot be looked for" not in log  # rows of the training, which the config does not name
    assert num_rows(kept_out) == sum(pq.read_metadata(file).num_rows for file in files)
    assert aliases(shop) == {"champion": number, "previous": "1", "challenger": "3"}
    np.testing.assert_array_equal(served(shop, rows), after)
