"""Train, two refreshes, rollback, against real MLflow and Feast stores: the same request, scored at each point."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from mec.config import RunConfig, load_config
from mec.publish.definitions import read_published
from mec.publish.store import open_store
from mec.tracking.generations import history
from mec.tracking.registry import ModelRegistry
from mec.tracking.runs import connected
from pipelines import refreshing
from tests.pipelines.answers import TRACKING, champion_tags, computed, request_rows, served
from tests.pipelines.periods import mec, write_periods

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def own_tracking(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the rows of three periods, and a model trained on the first."""
    directory = tmp_path_factory.mktemp("shop")
    write_periods(directory)
    done = mec(directory, "run", "config.yaml", "--out", "run0")
    assert done.returncode == 0, done.stderr
    return directory


def refresh(directory: Path, period: int, *arguments: str) -> dict:
    done = mec(
        directory, "refresh", "config.yaml", "--data", f"period-{period}.parquet", "--out", f"run{period}", *arguments
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((directory / f"run{period}" / "summary.json").read_text())


def published_generation(directory: Path, codebook: str) -> tuple[int, str]:
    published = read_published(open_store(directory / ".mec" / "feast"), codebook)
    assert published is not None
    return published.generation, published.state


class AskedError(Exception):
    """Stops a refresh where it would start containers."""


def mounted(shop: Path, period: int, monkeypatch: pytest.MonkeyPatch, *settings: str) -> set[Path]:
    """What containers of a refresh would see beside the paths in the config."""

    def containers(config: RunConfig, out: Path, image: str, reads: list[Path]) -> None:
        raise AskedError(reads)

    with monkeypatch.context() as patched:
        patched.chdir(shop)
        patched.setattr(refreshing, "Containers", containers)
        patched.setattr(refreshing, "image_id", lambda _: "sha256:1")
        config = load_config(Path("config.yaml"), settings)
        with pytest.raises(AskedError) as caught:
            refreshing.run_refresh(config, [Path(f"period-{period}.parquet")], Path("asked"), "docker")
    return set(caught.value.args[0])


def test_train_two_refreshes_and_rollback(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, scores = request_rows(shop), {}

    def check(version: str) -> None:
        number, _ = champion_tags(shop)
        assert number == version
        answer = served(shop, rows)
        np.testing.assert_allclose(answer, computed(shop, rows), atol=1e-6)
        if version in scores:
            np.testing.assert_array_equal(answer, scores[version])
        scores[version] = answer

    check("1")
    first = refresh(shop, 1)
    assert first["decision"] == "promote"
    assert (first["parent_generation"], first["generation"], first["model_version"]) == (0, 1, 2)
    assert first["rows_rewritten"] > 0
    assert all(0 < first[name] < 1 for name in ("auc_stale", "auc_refreshed", "logloss_stale", "logloss_refreshed"))
    assert published_generation(shop, first["codebook"]) == (1, "complete")
    check("2")
    assert np.abs(scores["2"] - scores["1"]).max() > 0.01

    again = mec(shop, "refresh", "config.yaml", "--data", "period-1.parquet", "--out", "again")
    assert (again.returncode, again.stdout) == (0, "nothing new: shop version 2 has learned from these rows already\n")
    assert not (shop / "again").exists()
    check("2")

    learned = shop / "period-1.parquet"  # by a refresh; the config does not name it, and only a training reads it again
    assert learned not in mounted(shop, 2, monkeypatch)
    assert learned in mounted(shop, 2, monkeypatch, "refresh.on_escalation=train")

    shutil.rmtree(shop / "run0")  # neither a refresh, which replays old rows, nor a rollback needs anything of the runs
    shutil.rmtree(shop / "run1")
    second = refresh(shop, 2)
    assert (second["generation"], second["model_version"], second["codebook"]) == (2, 3, first["codebook"])
    check("3")

    back = mec(shop, "rollback", "shop")
    assert back.returncode == 0, back.stderr
    assert "shop v2 (generation 1) is in service, in place of v3" in back.stdout
    assert published_generation(shop, first["codebook"]) == (1, "complete")
    check("2")
    assert mec(shop, "rollback", "shop", "0").returncode == 0
    check("1")
    assert mec(shop, "promote", "shop", "v3").returncode == 0
    check("3")

    pruned = mec(shop, "prune", "shop", "--keep", "1", "--yes")
    assert "of v2 deleted: " in pruned.stdout, pruned.stderr
    refused = mec(shop, "promote", "shop", "v2")
    assert (refused.returncode, "version 2 was deleted by `mec prune`" in refused.stderr) == (2, True)
    check("3")
    assert mec(shop, "rollback", "shop").returncode == 0
    check("1")

    with connected(TRACKING, store=shop / ".mec") as server:
        told = history(ModelRegistry(server, "shop", create=False))
    assert [(row.version, row.generation, row.parent) for row in told] == [("1", 0, None), ("2", 1, "1"), ("3", 2, "2")]
    assert [row.aliases for row in told] == [("champion",), (), ("previous",)]
    switches = sorted((s.number, s.replaced, s.version) for row in told for s in row.switches)
    in_service = ["1", "2", "3", "2", "1", "3", "1"]
    assert [s[1:] for s in switches] == list(zip([None, *in_service], in_service, strict=False))
    assert told[1].measured["auc_refreshed"] == first["auc_refreshed"]
    assert told[1].rows_rewritten == first["rows_rewritten"]
