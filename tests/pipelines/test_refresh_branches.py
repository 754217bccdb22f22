"""A whole refresh that is not promoted, or whose codebooks are renewed: what is served, and what may be read again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from mec.cli import main
from mec.publish.retiring import find_published
from mec.tracking.registry import ModelRegistry
from mec.tracking.runs import connected
from mec.tracking.waiting import waiting_rows
from tests.pipelines.answers import TRACKING, champion_tags, computed, request_rows, served
from tests.pipelines.periods import mec, write_periods

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rows of four periods, and a model trained on the first; every test refreshes with a period of its own."""
    directory = tmp_path_factory.mktemp("shop")
    write_periods(directory, num_rows=12_000, num_periods=4)
    done = mec(directory, "run", "config.yaml", "--out", "run0")
    assert done.returncode == 0, done.stderr
    return directory


@pytest.fixture
def shop(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(trained)
    return trained


def refresh(shop: Path, out: str, period: int, *arguments: str) -> dict[str, Any]:
    given = ("--data", f"period-{period}.parquet", "--set", "refresh.bounds.min_rows_per_label=20", *arguments)
    done = mec(shop, "refresh", "config.yaml", *given, "--out", out)
    assert done.returncode == 0, done.stdout + done.stderr
    summary: dict[str, Any] = json.loads((shop / out / "summary.json").read_text())
    return summary | {"told": done.stdout}


def here(*arguments: str) -> str:
    """What a command says that starts no step."""
    done = CliRunner().invoke(main, arguments)
    return str(done.stdout if done.exit_code == 0 else f"{done.exit_code}: {done.stderr}")


def waiting(shop: Path) -> set[str]:
    """Files whose rows the champion has not learned from."""
    with connected(TRACKING, store=shop / ".mec") as server:
        registry = ModelRegistry(server, "shop", create=False)
        champion = registry.champion()
        assert champion is not None
        found = [rows for rows in waiting_rows(registry, champion) if rows.learned_by is None]
    return {path for rows in found for path in rows.paths}


def read_files(shop: Path, out: str) -> set[str]:
    return set(json.loads((shop / out / "bundles" / "arrivals" / "arrivals.json").read_text())["file_rows"])


def test_a_refresh_that_is_kept_back(shop: Path) -> None:
    rows, (number, tags) = request_rows(shop), champion_tags(shop)
    before = served(shop, rows)
    done = refresh(shop, "kept", 1, "--set", "refresh.bounds.min_rows_per_label=100000")
    untouched = {"model_version": int(number), "rows_rewritten": 0, "codebook": tags["codebook"]}
    assert {name: done[name] for name in untouched} == untouched
    assert done["decision"] == "keep"
    assert set(done["bundles"]) & {"outcome", "publication"} == {"outcome"}
    assert "--with-waiting" in done["told"]
    assert not (shop / "kept" / "bundles" / "outcome" / "escalation.json").exists()
    assert champion_tags(shop)[0] == number
    np.testing.assert_array_equal(served(shop, rows), before)
    told = here("history", "shop")
    assert f"keep: rows {done['data_version'][:12]} of {shop}/period-1.parquet wait: too little data" in told
    assert f"{shop}/period-1.parquet" in waiting(shop)


def test_escalation_marks_the_version_and_says_what_to_run(shop: Path) -> None:
    rows, (number, tags), waited = request_rows(shop), champion_tags(shop), waiting(shop)
    before = served(shop, rows)
    done = refresh(shop, "escalated", 2, "--with-waiting", "--set", "refresh.bounds.min_auc=0.999")
    untouched = {"model_version": int(number), "rows_rewritten": 0, "codebook": tags["codebook"]}
    assert {name: done[name] for name in untouched} == untouched
    assert done["decision"] == "escalate"
    places = waited | {f"{shop}/period-2.parquet"}
    escalation = json.loads((shop / "escalated" / "bundles" / "outcome" / "escalation.json").read_text())
    assert (escalation["pipeline"], set(escalation["new_rows"])) == ("mec-train", places)
    assert read_files(shop, "escalated") == waiting(shop) == places
    told = here("history", "shop")
    assert f"v{number} needs a new training (run " in told
    assert "escalate: rows " in told
    assert champion_tags(shop)[0] == number
    np.testing.assert_array_equal(served(shop, rows), before)


def test_renewed_codebooks_are_switched_as_a_whole_and_retired(shop: Path) -> None:
    rows, feast, waited = request_rows(shop), shop / ".mec" / "feast", waiting(shop)
    (number, tags), before = champion_tags(shop), served(shop, rows)
    old = tags["codebook"]
    done = refresh(shop, "renewed", 3, "--with-waiting", "--set", "refresh.codebooks=renewed")
    assert done["decision"] == "promote"
    renewed, version = done["codebook"], done["model_version"]
    assert renewed != old
    assert read_files(shop, "renewed") == waited | {f"{shop}/period-3.parquet"}
    assert waiting(shop) == set()
    assert set(find_published(feast, [old, renewed])) == {old, renewed}
    after = served(shop, rows)
    np.testing.assert_allclose(after, computed(shop, rows), atol=1e-6)
    assert np.abs(after - before).max() > 0.01

    assert "; 0 rows written" in here("rollback", "shop")
    assert (champion_tags(shop)[0], waiting(shop)) == (number, waited)
    np.testing.assert_array_equal(served(shop, rows), before)
    assert "; 0 rows written" in here("promote", "shop", f"v{version}")
    np.testing.assert_array_equal(served(shop, rows), after)
    assert "; 0 rows written" in here("rollback", "shop")

    assert "nothing to delete" in here("prune", "shop", "--keep", "1", "--yes")  # an alias points to the renewed one
    with connected(TRACKING, store=shop / ".mec") as server:
        server.client.delete_registered_model_alias("shop", "previous")
        server.client.create_model_version("shop", "nowhere")  # the newest, and nothing else
    pruned = here("prune", "shop", "--keep", "1", "--yes")
    assert f"feature view and service codes_{renewed[:8]} of v{version}, " in pruned
    assert set(find_published(feast, [old, renewed])) == {old}
    np.testing.assert_array_equal(served(shop, rows), before)
    assert f"version {version} was deleted by `mec prune`" in here("promote", "shop", f"v{version}")
