"""One prepared MLflow database for all tests: the first initialisation takes seconds, a copy none."""

import os
import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def prepared_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An initialised, empty sqlite database; copy it to <store>/mlflow.db."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    from mlflow import MlflowClient

    database = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{database}").search_experiments()
    return database


@pytest.fixture
def store(prepared_mlflow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run's store with a prepared database, and an environment without MLflow's variables."""
    for name in ("MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "store"
    folder.mkdir()
    shutil.copyfile(prepared_mlflow, folder / "mlflow.db")
    return folder
