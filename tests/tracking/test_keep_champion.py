"""A refresh that changes nothing leaves its reasons, its report, and on escalation a mark, in MLflow."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mec.bundle import write_bundle, write_json
from mec.cli_history import switch_lines, waiting_lines
from mec.config import DataConfig, TrackingConfig
from mec.data.readers import open_source
from mec.errors import DataError
from mec.tracking.generations import history
from mec.tracking.keeping import keep_champion_step
from mec.tracking.registry import ModelRegistry
from mec.tracking.runs import connected, open_run
from mec.tracking.training_rows import TrainingRows, trained_on_tag
from mec.tracking.waiting import Waiting, waiting_rows

TRACKING = TrackingConfig()


@pytest.fixture
def shop(store: Path) -> Path:
    """A store with one version in service."""
    with open_run(TRACKING, store=store, run_name="shop", run_id="train") as run:
        registry = ModelRegistry(run, "shop")
        run.client.create_model_version("shop", run.client.get_run(run.run_id).info.artifact_uri, run.run_id)
        registry.promote(registry.version("1"), over=None)
    return store


def keep(store: Path, folder: Path, action: str, week: int = 31, paths: tuple[str, ...] = ()) -> dict[str, Any]:
    with write_bundle(folder / "champion", "champion", data_version=f"week {week}") as draft:
        draft.extra = {"model": "shop", "version": "1", "generation": 4, "parent_generation": 3, "codebook": "book"}
        draft.extra |= {"bundles": {}}
    with write_bundle(folder / "evaluation", "evaluation", data_version=f"hash of {week}") as draft:
        write_json(draft.path / "evaluation.json", {"auc_stale": {"value": 0.75}, "rows_rewritten": 9})
        (draft.path / "report.html").write_text("<html>what moved</html>")
    with write_bundle(folder / "decision", "decision") as draft:
        decided = {"action": action, "reasons": ["because"], "numbers": {"auc_stale": 0.75}}
        write_json(draft.path / "decision.json", decided)
    given = {name: folder / name for name in ("champion", "evaluation", "decision")}
    out = folder / "outcome"
    new = DataConfig.model_validate({"path": paths or f"/clicks/{week}", "categorical": ["user"]})
    rows = TrainingRows(DataConfig.model_validate({"path": "/clicks/30", "categorical": ["user"]}), new, 0)
    shared: dict[str, Any] = {"tracking": TRACKING, "name": "shop", "store": store, "run_id": "refresh"}
    told = keep_champion_step(rows=rows, then_train=False, out=out, **shared, **given)
    assert told == ("", "")
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
    if escalated:
        told = json.loads((tmp_path / "outcome" / "escalation.json").read_text())
        assert (told["new_rows"], told["all_rows"]) == (["/clicks/31"], ["/clicks/30", "/clicks/31"])
    assert "trains_on" not in outcome


def test_the_rows_of_a_training_are_handed_on(shop: Path, tmp_path: Path) -> None:
    files = [str(tmp_path / f"{week}.parquet") for week in (30, 31)]
    for number, file in enumerate(files):
        pq.write_table(pa.table({"user": [number], "label": [1]}), file)
    old, new, both = (
        DataConfig.model_validate({"path": path, "categorical": ["user"]}) for path in (files[0], files[1], files)
    )
    keep(shop, tmp_path, "escalate")  # for its bundles
    with connected(TRACKING, store=shop) as server:
        registry = ModelRegistry(server, "shop", create=False)
        content = open_source(old, seed=0).data_version
        registry.tag(registry.version("1"), trained_on_tag(old) | {"data_version": content})
    given: dict[str, Any] = {name: tmp_path / name for name in ("champion", "evaluation", "decision")}
    given |= {"tracking": TRACKING, "name": "shop", "store": shop, "run_id": "refresh", "out": tmp_path / "outcome"}
    section, version = keep_champion_step(rows=TrainingRows(old, new, 0), then_train=True, **given)
    assert DataConfig.model_validate_json(section) == both
    assert version == open_source(both, seed=0).data_version
    assert json.loads((tmp_path / "outcome" / "escalation.json").read_text())["all_rows"] == files
    assert json.loads((tmp_path / "outcome" / "outcome.json").read_text())["trains_on"]["path"] == files

    Path(files[0]).unlink()
    with pytest.raises(DataError, match="train run of version 1 are needed in case of a training"):
        keep_champion_step(rows=TrainingRows(old, new, 0), then_train=True, **given)
    assert [rows.paths for rows in asked(shop, "1")] == [(files[1],)]  # marked all the same


def refreshed(store: Path, parent: str, data_version: str, paths: list[str]) -> str:
    """A version that was refreshed on some places; its number."""
    tags = {"parent_version": parent, "refreshed_on": data_version, "refreshed_paths": json.dumps(paths)}
    with open_run(TRACKING, store=store, run_name="shop", run_id=data_version) as run:
        made = run.client.create_model_version("shop", run.client.get_run(run.run_id).info.artifact_uri, tags=tags)
    return str(made.version)


def asked(store: Path, number: str) -> list[Waiting]:
    with connected(TRACKING, store=store) as server:
        registry = ModelRegistry(server, "shop", create=False)
        return waiting_rows(registry, registry.version(number))


def learned(store: Path, number: str) -> dict[str, str | None]:
    return {rows.data_version: rows.learned_by for rows in asked(store, number)}


def test_rows_wait_until_a_version_has_read_all_of_their_places(shop: Path, tmp_path: Path) -> None:
    for name in ("first", "again"):  # a repeated step leaves one tag
        keep(shop, tmp_path / name, "keep", 31, ("/clicks/30", "/clicks/31"))
    keep(shop, tmp_path / "escalated", "escalate", 32)
    (first, second) = asked(shop, "1")
    told = (first.version, first.data_version, first.content, first.paths, first.decision, first.reason)
    assert told == ("1", "week 31", "hash of 31", ("/clicks/30", "/clicks/31"), "keep", "because")
    assert (second.decision, second.learned_by) == ("escalate", None)
    assert first.when.startswith("20")
    time.sleep(1.1)
    keep(shop, tmp_path / "later", "keep", 31, ("/clicks/30", "/clicks/31"))
    assert {rows.data_version: rows.when for rows in asked(shop, "1")}["week 31"] == first.when
    lines = waiting_lines([first, second])
    assert "keep: rows week 31 of /clicks/30, /clicks/31 wait: because (run " in lines[0]
    assert "--with-waiting" in lines[-1]

    some = refreshed(shop, "1", "week 33", ["/clicks/33", "/clicks/31"])
    assert learned(shop, some) == {"week 31": None, "week 32": None}
    both = refreshed(shop, some, "week 34", ["/clicks/34", "/clicks/31", "/clicks/30"])
    assert learned(shop, both) == {"week 31": both, "week 32": None}
    assert learned(shop, "1") == {"week 31": None, "week 32": None}  # as after a rollback
    same = refreshed(shop, both, "week 32", ["/elsewhere"])
    assert learned(shop, same) == {"week 31": both, "week 32": same}
    assert waiting_lines(asked(shop, same))[0].count(f"waited until v{both}: because") == 1
    assert not any("--with-waiting" in line for line in waiting_lines(asked(shop, same)))


def test_a_place_that_was_read_before_other_rows_came_there_is_no_answer(shop: Path, tmp_path: Path) -> None:
    early = refreshed(shop, "1", "week 31", ["/incoming"])
    time.sleep(1.1)  # the registry's times are whole seconds here
    keep(shop, tmp_path, "keep", 32, ("/incoming",))
    assert learned(shop, early) == {"week 32": None}


def test_a_training_begins_anew(shop: Path, tmp_path: Path) -> None:
    keep(shop, tmp_path, "keep")
    time.sleep(1.1)
    with open_run(TRACKING, store=shop, run_name="shop", run_id="again") as run:
        run.client.create_model_version("shop", run.client.get_run(run.run_id).info.artifact_uri)
    assert learned(shop, "1") == {"week 31": None}
    assert learned(shop, "2") == {}
