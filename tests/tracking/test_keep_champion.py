"""A refresh that changes nothing leaves its reasons, its report, and on escalation a mark, in MLflow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mec.bundle import write_bundle, write_json
from mec.cli_history import switch_lines
from mec.config import TrackingConfig
from mec.tracking.generations import history
from mec.tracking.promoting import keep_champion_step
from mec.tracking.registry import ModelRegistry
from mec.tracking.runs import connected, open_run

TRACKING = TrackingConfig()


@pytest.fixture
def shop(store: Path) -> Path:
    """A store with one version in service."""
    with open_run(TRACKING, store=store, run_name="shop", run_id="train") as run:
        registry = ModelRegistry(run, "shop")
        run.client.create_model_version("shop", run.client.get_run(run.run_id).info.artifact_uri, run.run_id)
        registry.promote(registry.version("1"), over=None)
    return store


def keep(store: Path, folder: Path, action: str) -> dict[str, Any]:
    with write_bundle(folder / "champion", "champion") as draft:
        draft.extra = {"model": "shop", "version": "1", "generation": 4, "parent_generation": 3, "codebook": "book"}
        draft.extra |= {"bundles": {}}
    with write_bundle(folder / "evaluation", "evaluation") as draft:
        write_json(draft.path / "evaluation.json", {"auc_stale": {"value": 0.75}, "rows_rewritten": 9})
        (draft.path / "report.html").write_text("<html>what moved</html>")
    with write_bundle(folder / "decision", "decision") as draft:
        decided = {"action": action, "reasons": ["because"], "numbers": {"auc_stale": 0.75}}
        write_json(draft.path / "decision.json", decided)
    given = {name: folder / name for name in ("champion", "evaluation", "decision")}
    out = folder / "outcome"
    keep_champion_step(tracking=TRACKING, name="shop", store=store, run_id="refresh", out=out, **given)
    return dict(json.loads((out / "outcome.json").read_text()))


@pytest.mark.parametrize("action", ["keep", "escalate"])
def test_what_is_left_behind(shop: Path, tmp_path: Path, action: str) -> None:
    outcome = keep(shop, tmp_path, action)
    in_service = {name: outcome[name] for name in ("decision", "model_version", "generation", "rows_rewritten")}
    assert in_service == {"decision": action, "model_version": 1, "generation": 4, "rows_rewritten": 0}
    with connected(TRACKING, store=shop) as server:
        run = server.client.get_run(outcome["run_id"])
        files = {name: server.client.download_artifacts(run.info.run_id, name) for name in ("evaluation", "decision")}
        rows = history(ModelRegistry(server, "shop", create=False))
    assert run.data.tags["decision"] == action
    assert run.data.metrics["auc_stale.value"] == 0.75
    assert Path(files["evaluation"], "report.html").read_text() == "<html>what moved</html>"
    assert json.loads(Path(files["decision"], "decision.json").read_text())["reasons"] == ["because"]
    escalated = action == "escalate"
    assert (tmp_path / "outcome" / "escalation.json").exists() == escalated
    assert rows[0].aliases == ("champion",)
    assert rows[0].escalated_by == (outcome["run_id"] if escalated else "")
    assert any("v1 needs a new training" in line for line in switch_lines(rows)) == escalated
