"""A refresh that is killed, beside another, or repeated after a rollback, ends as one that nothing disturbed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mec.config import TrackingConfig
from mec.tracking.registry import ModelRegistry
from mec.tracking.runs import connected
from tests.pipelines.periods import kill_in_step, mec, write_periods

pytestmark = pytest.mark.slow
# their bundles hold times, or places of things outside the run
OUTSIDE = {"publication", "outcome"}
REFRESH = ("refresh", "config.yaml", "--data", "period-1.parquet", "--out")


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID"):
        monkeypatch.delenv(name, raising=False)
    write_periods(tmp_path, num_periods=2, num_rows=9_000)
    done = mec(tmp_path, "run", "config.yaml", "--out", "run0")
    assert done.returncode == 0, done.stderr
    return tmp_path


def aliases(shop: Path) -> dict[str, str]:
    with connected(TrackingConfig(), store=shop / ".mec") as server:
        return ModelRegistry(server, "shop", create=False).aliases()


def finish(shop: Path, out: str) -> dict:
    done = mec(shop, *REFRESH, out)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((shop / out / "summary.json").read_text())


def lineage(summary: dict) -> dict[str, str]:
    return {name: uuid for name, uuid in summary["lineage"].items() if name not in OUTSIDE}


def test_killed_and_repeated(shop: Path) -> None:
    def second_at_once() -> None:
        second = mec(shop, *REFRESH, "other")
        assert second.returncode == 2
        assert "another refresh or switch of shop holds" in second.stderr
        assert "found: pid " in second.stderr
        assert not (shop / "other").exists()

    kill_in_step(shop, "refresh_pretrain", *REFRESH, "out", meanwhile=second_at_once)
    assert aliases(shop) == {"champion": "1"}
    kill_in_step(shop, "publish_generation", *REFRESH, "out")
    kill_in_step(shop, "promote_generation", *REFRESH, "out")
    assert aliases(shop) == {"champion": "1"}
    killed = finish(shop, "out")
    assert killed["decision"] == "promote"
    assert aliases(shop) == {"champion": "2", "previous": "1"}
    assert {name for name, step in killed["steps"].items() if step["reused"]} >= {"count", "refresh_pretrain", "recode"}

    (shop / "out" / "summary.json").unlink()  # as if killed after the alias had moved
    assert lineage(finish(shop, "out")) == lineage(killed)
    assert aliases(shop) == {"champion": "2", "previous": "1"}

    assert mec(shop, "rollback", "shop").returncode == 0
    undisturbed = finish(shop, "undisturbed")
    assert lineage(undisturbed) == lineage(killed)
    numbers = ("decision", "model_version", "generation", "rows_rewritten", "auc_stale", "auc_refreshed", "codebook")
    assert {name: undisturbed[name] for name in numbers} == {name: killed[name] for name in numbers}
    assert aliases(shop) == {"champion": "2", "previous": "1"}
