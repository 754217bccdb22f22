"""Where runs go, and what is said when they cannot."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from filelock import FileLock
from mlflow import MlflowClient

from mec.config import RunConfig, TrackingConfig
from mec.errors import TrackingError
from mec.tracking import runs
from mec.tracking.registry import ModelRegistry


def opened(store: Path, **settings: object) -> AbstractContextManager[runs.TrackedRun]:
    tracking = TrackingConfig.model_validate(settings)
    return runs.open_run(tracking, store=store, run_name="shop", run_id="run-1")


def test_address_setting_before_environment_before_store(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert runs.tracking_uri(TrackingConfig(), store) == f"sqlite:///{store / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://environment")
    assert runs.tracking_uri(TrackingConfig(), store) == "http://environment"
    assert runs.tracking_uri(TrackingConfig(uri="http://setting"), store) == "http://setting"


@pytest.mark.parametrize("uri", ["file:///tmp/mlruns", "mlruns"])
def test_a_file_store_is_refused(store: Path, uri: str) -> None:
    with pytest.raises(TrackingError, match=r"plain files any more; found: .*mlruns; fix: set tracking\.uri"):
        runs.tracking_uri(TrackingConfig(uri=uri), store)


def test_a_server_that_does_not_answer_is_named(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    named = r"MLflow at http://127\.0\.0\.1:9 failed.*check that it runs"
    with pytest.raises(TrackingError, match=named), opened(store, uri="http://127.0.0.1:9"):
        pass
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0"
    assert "MLFLOW_HTTP_REQUEST_TIMEOUT" not in os.environ


def test_a_file_that_is_no_database(store: Path) -> None:
    (store / "mlflow.db").write_text("not a database")
    with pytest.raises(TrackingError, match="file is not a database"), opened(store):
        pass


def test_a_directory_that_cannot_be_made(store: Path) -> None:
    (store / "file").write_text("")
    with (
        pytest.raises(TrackingError, match="cannot make the directory"),
        opened(store, uri=f"sqlite:///{store}/file/x/mlflow.db"),
    ):
        pass


def test_a_database_is_opened_by_one_process_at_a_time(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "LOCK_WAIT_S", 0.1)
    with FileLock(str(store / "mlflow.lock")), pytest.raises(TrackingError, match="another process holds"):
        opened(store).__enter__()
    with opened(store), opened(store):  # only the opening is exclusive
        pass


@pytest.mark.slow
def test_two_processes_make_the_database_at_once(tmp_path: Path) -> None:
    program = (
        "from pathlib import Path; from mec.config import TrackingConfig; from mec.tracking.runs import open_run\n"
        f"with open_run(TrackingConfig(), store=Path({str(tmp_path)!r}), run_name='a', run_id='b') as run: pass"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    both = [subprocess.Popen([sys.executable, "-c", program], env=environment) for _ in range(2)]
    assert [process.wait(timeout=600) for process in both] == [0, 0]


def test_a_deleted_experiment(store: Path) -> None:
    client = MlflowClient(tracking_uri=f"sqlite:///{store / 'mlflow.db'}")
    client.delete_experiment(client.create_experiment("mec"))
    with pytest.raises(TrackingError, match=r"the experiment 'mec' at .* is deleted"), opened(store):
        pass


def test_every_setting_becomes_a_param(store: Path) -> None:
    config = RunConfig().model_dump(mode="json")
    config["train"]["settings"] = {"a (b)": list(range(5000))}
    with opened(store) as run:
        runs.log_params(run, config)
        runs.log_params(run, config)  # a step that runs again
        logged = run.client.get_run(run.run_id).data.params
    assert logged["quantize.num_codes"] == str(config["quantize"]["num_codes"])
    assert logged["train.settings.a _b_"].startswith("[0, 1, 2")
    assert len(logged) == len(runs.flatten(config))


def test_metrics_are_logged_in_one_request(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(store) as run:
        calls = []
        log_batch = run.client.log_batch
        monkeypatch.setattr(run.client, "log_batch", lambda *a, **k: (calls.append(1), log_batch(*a, **k)))
        runs.log_metrics(run, {"auc": 0.7, "bytes": {"codes": 3}, "slices": [{"auc": 1}], "name": "x", "flag": True})
        assert run.client.get_run(run.run_id).data.metrics == {"auc": 0.7, "bytes.codes": 3.0}
    assert calls == [1]


def test_a_champion_that_changed_meanwhile_is_not_overwritten(store: Path) -> None:
    with opened(store) as run:
        registry = ModelRegistry(run, "shop")
        uri = run.client.get_run(run.run_id).info.artifact_uri
        made = [run.client.create_model_version("shop", uri, run.run_id) for _ in range(3)]
        versions = [registry.version(str(m.version)) for m in made]
        registry.promote(versions[0], over=None)
        registry.promote(versions[1], over=versions[0])
        with pytest.raises(TrackingError, match="the champion of shop changed while version 3"):
            registry.promote(versions[2], over=versions[0])
        assert registry.aliases() == {"champion": "2", "previous": "1"}


def test_branches_of_one_pipeline_run_have_runs_of_their_own(store: Path) -> None:
    def run_of(name: str) -> str:
        with runs.open_run(TrackingConfig(), store=store, run_name=name, run_id="run-1") as run:
            return run.run_id

    first, second = run_of("shop-pnn"), run_of("shop-lr")
    assert first != second
    assert (run_of("shop-pnn"), run_of("shop-lr")) == (first, second)
