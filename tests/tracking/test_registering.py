"""The register step with a real MLflow (sqlite) and a real Feast (sqlite): from bundles to a served score."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.pyfunc.scoring_server import infer_and_parse_data

import mec
from mec.bundle import open_bundle, write_bundle, write_json
from mec.config import TrackingConfig
from mec.errors import BundleError, SpaceError, TrackingError
from mec.publish.definitions import FEATURE, JOIN_KEY
from mec.publish.store import open_store
from mec.tracking.registering import register_step
from tests.serving.made_run import MadeRun, config_json, make_run

Register = Callable[..., dict[str, Any]]


@pytest.fixture
def register(store: Path, tmp_path: Path) -> Register:
    """Run the step; its ``registration.json``."""

    def run(
        made: MadeRun, *, run_id: str = "run-1", out: str = "registration", min_auc: float = 0.0, **settings: Any
    ) -> dict[str, Any]:
        folder = tmp_path / out
        register_step(
            tracking=TrackingConfig.model_validate({"gate": {"min_auc": min_auc}, **settings}),
            name="shop",
            store=store,
            config_json=config_json(),
            run_id=run_id,
            out=folder,
            **made.steps(),
        )
        bundle = open_bundle(folder, "registration")
        result: dict[str, Any] = json.loads(bundle.file("registration.json").read_text())
        return result

    return run


def client_of(result: dict[str, Any]) -> MlflowClient:
    return MlflowClient(tracking_uri=result["tracking_uri"], registry_uri=result["tracking_uri"])


@contextmanager
def pointed_at(uri: str) -> Iterator[None]:
    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before[0])
        mlflow.set_registry_uri(before[1])


def set_auc(made: MadeRun, auc: float) -> None:
    """Another AUC in the evaluation bundle, lawfully written."""
    old = open_bundle(made.evaluation)
    numbers = json.loads(old.file("evaluation.json").read_text()) | {"auc": auc}
    parents = dict(old.manifest.parents)
    with write_bundle(made.evaluation, "evaluation", parents=parents) as draft:
        write_json(draft.path / "evaluation.json", numbers)


def test_the_registered_model_scores_as_the_model_here(store: Path, tmp_path: Path, register: Register) -> None:
    made = make_run(tmp_path / "run", store)
    result = register(made)
    assert result["decision"]["promote"] is True
    assert result["aliases"] == ["champion"]
    with pointed_at(result["tracking_uri"]):
        model = mlflow.pyfunc.load_model("models:/shop@champion")
        np.testing.assert_allclose(model.predict(made.test), made.expected, atol=1e-6)
        offline = {"codes": {"kind": "bundle", "codes": str(made.codes), "vocabulary": str(made.vocabulary)}}
        other = mlflow.pyfunc.load_model("models:/shop@champion", model_config=offline)
        np.testing.assert_allclose(other.predict(made.test), made.expected, atol=1e-6)
    names = ["user", "item", "city", "price", "age", "history", "tags"]
    assert [c.name for c in model.metadata.signature.inputs] == names
    folder = Path(client_of(result).get_model_version_download_uri("shop", "1"))
    requirements = (folder / "requirements.txt").read_text().split()
    assert any(r.startswith("torch==") and "+" not in r for r in requirements)
    assert not list(folder.rglob("*.pkl"))
    assert (folder / "code" / "mec" / "serving" / "scorer.py").is_file()
    assert not list(Path.cwd().glob("ml*"))  # nothing beside the store


def test_json_requests_as_a_model_server_reads_them(store: Path, tmp_path: Path, register: Register) -> None:
    made = make_run(tmp_path / "run", store, num_rows=300, publish=False)
    result = register(made)
    with pointed_at(result["tracking_uri"]):
        model = mlflow.pyfunc.load_model("models:/shop@champion")
    rows = made.test[:50].astype(object).where(made.test[:50].notna(), None)
    split = {"columns": list(rows.columns), "data": rows.to_numpy().tolist()}
    request = json.loads(json.dumps({"dataframe_split": split}))
    frame = infer_and_parse_data(request, model.metadata.get_input_schema())
    np.testing.assert_allclose(model.predict(frame), made.expected[:50], atol=1e-6)


@pytest.mark.slow
def test_the_model_loads_where_mec_is_not_installed(store: Path, tmp_path: Path, register: Register) -> None:
    made = make_run(tmp_path / "run", store, num_rows=300, publish=False)
    folder = client_of(register(made)).get_model_version_download_uri("shop", "1")
    made.test.to_pickle(tmp_path / "rows.pkl")
    code = f"""
import sys, warnings
sys.path = [p for p in sys.path if p and p != {str(Path(mec.__file__).parents[1])!r}]
warnings.simplefilter("ignore")
import mlflow, numpy, pandas
model = mlflow.pyfunc.load_model({folder!r})
numpy.save({str(tmp_path / "scores.npy")!r}, model.predict(pandas.read_pickle({str(tmp_path / "rows.pkl")!r})))
import mec
assert mec.__file__.startswith({folder!r}), mec.__file__
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    np.testing.assert_allclose(np.load(tmp_path / "scores.npy"), made.expected, atol=1e-6)


def test_codes_of_a_foreign_codebook_in_the_store_are_refused(store: Path, tmp_path: Path, register: Register) -> None:
    made = make_run(tmp_path / "run", store, num_rows=300)
    result = register(made)
    with pointed_at(result["tracking_uri"]):
        model = mlflow.pyfunc.load_model("models:/shop@champion")
    feast = open_store(store / "feast")
    view = feast.list_feature_views()[0].name
    key = f"user={made.test['user'].dropna().iloc[0]}"
    tomorrow = pd.Timestamp.now(tz="UTC") + pd.Timedelta(days=1)
    row = {JOIN_KEY: [key], FEATURE: [b"\0\0\0\0\0"], "event_timestamp": [tomorrow]}
    feast.write_to_online_store(view, pd.DataFrame(row))
    with pytest.raises(SpaceError, match=f"the online value of '{key.replace('|', '.')}' was not written for codebook"):
        model.unwrap_python_model()._scorer.score(made.test)


def test_the_run_tells_where_everything_comes_from(store: Path, tmp_path: Path, register: Register) -> None:
    made = make_run(tmp_path / "run", store, publish=False, num_rows=300)
    result = register(made)
    client = client_of(result)
    run = client.get_run(result["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.params["name"] == "shop"
    assert json.loads(run.data.params["data.categorical"])[0] == "user"
    assert run.data.metrics["bytes.codes"] == 7
    assert run.data.metrics["calibration.scale"] == 0.8
    codebook = made.bundle("codebook").uuid
    version = client.get_model_version("shop", "1")
    for tags in (run.data.tags, version.tags):
        assert tags["codebook"] == codebook
        assert tags["codes_generation"] == "0"
        assert tags["feature_service"] == "none"
        assert tags["data_version"] == "rows-0-300"
        assert tags["kfp_run"] == "run-1"
        assert len(tags["code_hash"]) == 64
    kept = store / "bundles" / f"codes-{made.bundle('codes').uuid}"
    assert json.loads(run.data.tags["bundle.codes"]) == {"uri": str(kept), "uuid": made.bundle("codes").uuid}
    assert open_bundle(kept).uuid == made.bundle("codes").uuid
    rows = Path(json.loads(version.tags["bundle.dataset"])["uri"])
    assert rows.parent == (store / "bundles").resolve()
    assert (rows / "manifest.json").samefile(made.dataset / "manifest.json")
    assert run.data.tags["model_version"] == "1"
    names = {f.path for f in client.list_artifacts(result["run_id"], "evaluation")}
    assert names == {"evaluation/evaluation.json", "evaluation/report.html", "evaluation/figures"}
    assert version.run_id == result["run_id"]


def test_the_same_scorer_is_registered_once(store: Path, tmp_path: Path, register: Register) -> None:
    made = make_run(tmp_path / "run", store, publish=False, num_rows=300)
    first = register(made)
    again = register(made)  # the step was killed and run again
    assert again == first
    other_run = register(made, run_id="run-2")
    assert other_run["model_version"] == 1
    assert other_run["aliases"] == ["champion"]
    assert other_run["run_id"] != first["run_id"]
    assert len(client_of(first).search_model_versions("name = 'shop'")) == 1


def test_aliases_move_when_a_better_model_comes(store: Path, tmp_path: Path, register: Register) -> None:
    runs = [make_run(tmp_path / f"run-{seed}", store, seed=seed, publish=False, num_rows=300) for seed in range(4)]
    for made, auc in zip(runs, (0.6, 0.7, 0.65, 0.8), strict=True):
        set_auc(made, auc)
    results = [register(made, run_id=f"run-{i}", out=f"out-{i}") for i, made in enumerate(runs)]
    assert [r["decision"]["promote"] for r in results] == [True, True, False, True]
    assert [r["aliases"] for r in results] == [["champion"], ["champion"], ["challenger"], ["champion"]]
    assert "below the champion's 0.700000" in results[2]["decision"]["reasons"][0]
    client = client_of(results[0])
    aliases = {a: str(v) for a, v in client.get_registered_model("shop").aliases.items()}
    assert aliases == {"champion": "4", "previous": "2"}
    second = client.get_model_version("shop", "2").tags
    assert (second["replaced"], second["replaced_by"], second["replaced_by_run"]) == ("1", "4", results[3]["run_id"])
    third = client.get_model_version("shop", "3").tags
    assert (third["decision"], third["decided_by_run"]) == ("kept out", results[2]["run_id"])


def test_a_tie_keeps_the_champion(store: Path, tmp_path: Path, register: Register) -> None:
    for seed in range(2):
        made = make_run(tmp_path / f"run-{seed}", store, seed=seed, publish=False, num_rows=300)
        set_auc(made, 0.7)
        result = register(made, out=f"out-{seed}", run_id=str(seed))
    assert result["decision"]["promote"] is False
    assert "tie" in result["decision"]["reasons"][0]
    assert result["aliases"] == ["challenger"]


def test_below_the_bound_nothing_is_champion(store: Path, tmp_path: Path, register: Register) -> None:
    made = make_run(tmp_path / "run", store, publish=False, num_rows=300)
    result = register(made, min_auc=0.99)
    assert result["decision"]["promote"] is False
    assert result["aliases"] == ["challenger"]


def test_tracking_disabled(store: Path, tmp_path: Path, register: Register) -> None:
    made = make_run(tmp_path / "run", store, publish=False, num_rows=300)
    before = (store / "mlflow.db").read_bytes()
    result = register(made, enabled=False)
    assert result["decision"]["promote"] is True
    assert "tracking.enabled is false" in result["decision"]["reasons"][-1]
    assert result["model"] is None
    assert result["model_version"] is None
    assert (store / "mlflow.db").read_bytes() == before
    assert open_bundle(tmp_path / "registration" / "scorer", "scorer")


def test_a_run_that_the_platform_opened_is_left_open(
    store: Path, tmp_path: Path, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"sqlite:///{store / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri)
    experiment = client.create_experiment("kubeflow", artifact_location=str(store / "artifacts"))
    given = client.create_run(experiment).info.run_id
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    result = register(make_run(tmp_path / "run", store, publish=False, num_rows=300))
    assert (result["run_id"], result["experiment"]) == (given, "kubeflow")
    run = client.get_run(given)
    assert run.info.status == "RUNNING"
    assert run.data.tags["model_version"] == "1"


def test_a_run_that_is_not_there(
    store: Path, tmp_path: Path, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    with pytest.raises(TrackingError, match=r"has no run of the id in MLFLOW_RUN_ID; found: 0000"):
        register(make_run(tmp_path / "run", store, publish=False, num_rows=300))
    assert not (tmp_path / "registration").exists()


def test_a_failing_step_ends_its_run_as_failed(
    store: Path, tmp_path: Path, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_run(tmp_path / "run", store, publish=False, num_rows=300)

    def fail(*_: object, **__: object) -> None:
        raise BundleError("no disk left")

    with monkeypatch.context() as patch:
        patch.setattr("mec.tracking.registering.save_pyfunc", fail)
        with pytest.raises(BundleError, match="no disk left"):
            register(made)
    client = MlflowClient(tracking_uri=f"sqlite:///{store / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("mec").experiment_id
    (run,) = client.search_runs([experiment])
    assert run.info.status == "FAILED"
    assert client.search_model_versions("name = 'shop'") == []
    result = register(made)  # run again, it ends as if nothing had happened
    assert (result["run_id"], result["model_version"], result["aliases"]) == (run.info.run_id, 1, ["champion"])
    assert client.get_run(run.info.run_id).info.status == "FINISHED"
