"""MLflow as it runs for service: runs, versions and aliases in Postgres, behind a tracking server and directly."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest

from mec.bundle import open_bundle
from mec.config import TrackingConfig
from mec.tracking.generations import history
from mec.tracking.registering import register_step
from mec.tracking.registry import ModelRegistry
from mec.tracking.runs import connected
from mec.tracking.switching import rollback
from tests.servers import free_port, running
from tests.serving.made_run import MadeRun, config_json, make_run

pytestmark = pytest.mark.slow  # a new database takes MLflow ten seconds, a server half a minute


@pytest.fixture
def database(postgres: str) -> str:
    return f"postgresql+psycopg:{postgres}"


@pytest.fixture
def server(database: str, tmp_path: Path) -> Iterator[str]:
    """Address of a tracking server over the database, which also hands files on."""
    folder, port = tmp_path / "server", free_port()
    folder.mkdir()
    options = {"--backend-store-uri": database, "--artifacts-destination": str(folder / "artifacts")}
    options |= {"--host": "127.0.0.1", "--port": str(port), "--workers": "1"}
    arguments = [sys.executable, "-m", "mlflow", "server", *(word for pair in options.items() for word in pair)]
    with running(arguments, folder, port, seconds=300):
        yield f"http://127.0.0.1:{port}"


def register(made: MadeRun, tracking: TrackingConfig, store: Path, run_id: str) -> dict[str, Any]:
    out = made.root / "registration"
    register_step(
        tracking=tracking,
        name="shop",
        store=store,
        config_json=config_json(),
        run_id=run_id,
        out=out,
        **made.steps(),
    )
    result: dict[str, Any] = json.loads(open_bundle(out).file("registration.json").read_text())
    return result


def check_registry(uri: str, tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two versions register; the second is promoted over the first, scores as it should, and is taken back."""
    monkeypatch.setattr(mlflow.tracking._tracking_service.utils, "_tracking_uri", None)
    tracking = TrackingConfig.model_validate({"uri": uri, "gate": {"min_auc": 0, "max_auc_drop": 1}})
    first, second = (
        make_run(tmp_path / name, store, num_rows=300, publish=False, seed=seed)
        for seed, name in enumerate(("first", "second"))
    )
    results = [register(first, tracking, store, "run-1"), register(second, tracking, store, "run-2")]
    assert [r["model_version"] for r in results] == [1, 2]
    assert [r["aliases"] for r in results] == [["champion"], ["champion"]]
    assert register(second, tracking, store, "run-2")["model_version"] == 2, "a repeated step finds its version"
    with connected(tracking, store=store) as connection:
        rows = history(ModelRegistry(connection, "shop", create=False))
        assert [(row.version, row.aliases) for row in rows] == [("1", ("previous",)), ("2", ("champion",))]
        assert [(s.version, s.replaced) for row in rows for s in row.switches] == [("1", None), ("2", "1")]
        folder = connection.client.get_model_version_download_uri("shop", "2")
        run = connection.client.get_run(results[1]["run_id"])
        assert run.info.status == "FINISHED"
        assert run.data.metrics["auc"] > 0
        assert "evaluation/report.html" in [
            f.path for f in connection.client.list_artifacts(run.info.run_id, "evaluation")
        ]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    model = mlflow.pyfunc.load_model(folder)
    np.testing.assert_allclose(model.predict(second.test), second.expected, atol=1e-6)
    assert rollback("shop", None, tracking=tracking, store=store).version == "1"
    with connected(tracking, store=store) as connection:
        champion = ModelRegistry(connection, "shop", create=False).champion()
        assert champion is not None
        assert champion.number == "1"


def test_behind_a_server(server: str, tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_registry(server, tmp_path, store, monkeypatch)
    assert list((tmp_path / "server" / "artifacts").rglob("MLmodel")), "files go through the server"


def test_directly(database: str, tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_registry(database, tmp_path, store, monkeypatch)
    assert list(store.rglob("MLmodel")), "without a server, files lie under the store"
    assert not (Path.cwd() / "mlruns").exists()
