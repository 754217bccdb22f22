"""Bake-offs on this machine, as users start them: what they leave, what a second run trains, what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mec.bundle import open_bundle
from mec.config import parse_config
from mec.errors import ConfigError
from pipelines import baking
from pipelines.compiling import cluster_yaml, read_yaml
from pipelines.submitting import request_run

ROOT = Path(__file__).parents[2]
IMAGE = f"registry.example/mec@sha256:{64 * '0'}"
SETTINGS = {
    "name": "tiny",
    "data": {"synthetic": {"num_rows": 4000, "field_sizes": [1500, 300, 40, 10]}},
    "pretrain": {"max_epochs": 2, "batch_size": 256, "embedding_dim": 8, "folds": 0},
    "train": {"model": "fm", "max_epochs": 2, "batch_size": 256},
    "evaluate": {"latency_rows": 100},
    "bakeoff": {"reference": False, "settings": {"qr": {"compose": "add"}}},
}
FIRST = ("--methods", "qr,hashing,full", "--budgets", "2x,8x", "--seeds", "2")


def test_compiling_a_config_with_a_bakeoff_writes_its_cells():
    config = parse_config({**SETTINGS, "store": "/mnt/mec", "bakeoff": {"methods": ["qr"], "seeds": 3}})
    texts = cluster_yaml(IMAGE, config, None, only="bakeoff")
    inputs = read_yaml(texts["bakeoff"])[0]["root"]["inputDefinitions"]["parameters"]
    cells = [json.loads(text) for text in inputs["cells"]["defaultValue"]]
    assert [(c["method"], c["budget"]) for c in cells[:2]] == [("full", "1x"), ("qr", "2x")]
    assert len(cells) == 3 * (1 + 4)
    assert cluster_yaml(IMAGE, parse_config({"store": "/mnt/mec"}), None, only="bakeoff") == {}


@pytest.mark.parametrize(("given", "policy"), [({}, None), ({"parallelism": 4}, {"parallelismLimit": 4})])
def test_a_cluster_trains_as_many_cells_at_once_as_it_is_told(given, policy):
    config = parse_config({**SETTINGS, "store": "/mnt/mec", "bakeoff": {"methods": ["qr"], **given}})
    spec = read_yaml(cluster_yaml(IMAGE, config, None, only="bakeoff")["bakeoff"])[0]
    (loop,) = (task for task in spec["root"]["dag"]["tasks"].values() if "parameterIterator" in task)
    assert loop.get("iteratorPolicy") == policy


def test_a_submitted_bakeoff_brings_its_cells_and_the_rows_version():
    config = parse_config({**SETTINGS, "store": "/mnt/mec", "bakeoff": {"methods": ["qr"], "seeds": 1}})
    request = request_run(config, image=IMAGE, profile=None, pipeline="bakeoff", values={"store": "/mnt/mec"})
    assert request.pipeline == "tiny-bakeoff"
    inputs = read_yaml(request.text)[0]["root"]["inputDefinitions"]["parameters"]
    assert [json.loads(cell)["method"] for cell in inputs["cells"]["defaultValue"]] == ["full", *["qr"] * 4]
    assert set(request.parameters) == {"store", "data_version"}
    without = parse_config(
        {name: value for name, value in SETTINGS.items() if name != "bakeoff"} | {"store": "/mnt/mec"}
    )
    with pytest.raises(ConfigError, match="does not ask for the pipeline bakeoff; fix: give it a bakeoff section"):
        request_run(without, image=IMAGE, profile=None, pipeline="bakeoff", values={"store": "/mnt/mec"})


def test_with_the_docker_runner_the_image_is_the_codes_identity(tmp_path, monkeypatch):
    jobs = []
    monkeypatch.setattr(baking, "image_id", lambda config: f"id of {config.image}")
    monkeypatch.setattr(baking, "run_job", lambda job, config, out, console, facts: jobs.append((job, facts)))
    monkeypatch.setattr("pipelines.containers._user", lambda: "1:1")
    config = parse_config({**SETTINGS, "image": "mec:1", "store": str(tmp_path / "store")})
    baking.run_bakeoff(config, tmp_path / "out", "docker")
    (job, facts) = jobs[0]
    assert facts == {"runner": "docker"}
    assert job.containers is not None
    assert job.runner is job.containers.runner
    assert job.parameters["code_hash"] == "id of mec:1"
    executors = job.pipeline.pipeline_spec.deployment_spec["executors"]
    assert {dict(e["container"])["image"] for e in dict(executors).values()} == {"id of mec:1"}


def test_the_docker_runner_without_an_image_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ConfigError, match="the docker runner needs an image"):
        baking.run_bakeoff(parse_config({**SETTINGS, "store": str(tmp_path / "store")}), tmp_path / "out", "docker")
    assert not (tmp_path / "out").exists()


class Place:
    """A directory that a user works in."""

    def __init__(self, path: Path) -> None:
        self.path, self.out = path, path / "out"
        (path / "config.yaml").write_text(yaml.safe_dump(SETTINGS))

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "mec", "bakeoff", "config.yaml", "--out", "out", *arguments]
        variables = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
        variables |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
        return subprocess.run(command, cwd=self.path, env=variables, capture_output=True, text=True)

    @property
    def summary(self) -> dict:
        return json.loads((self.out / "summary.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Place:
    return Place(tmp_path_factory.mktemp("bakeoff"))


@pytest.fixture(scope="module")
def first(place):
    done = place.run(*FIRST)
    assert done.returncode == 0, done.stderr
    return done, place.summary


@pytest.fixture(scope="module")
def again(place, first):
    done = place.run("--methods", "qr,hashing,full,small_dim", *FIRST[2:])
    assert done.returncode == 0, done.stderr
    return done, place.summary


def children(place: Place, summary: dict) -> dict:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{place.path / '.mec' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("mec")
    runs = client.search_runs([experiment.experiment_id], max_results=200)
    (parent,) = {run.data.tags["mlflow.parentRunId"] for run in runs if "mlflow.parentRunId" in run.data.tags} & {
        run.info.run_id for run in runs if run.data.tags.get("leaderboard") == summary["lineage"]["leaderboard"]
    }
    found = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent]
    assert len({run.info.run_name for run in found}) == len(found)
    return {run.info.run_name: run for run in found}


@pytest.mark.slow
def test_every_cell_is_measured_or_says_why_not(place, first):
    done, summary = first
    places = {(row["method"], row["budget"]): row for row in summary["rows"]}
    assert set(places) == {(m, b) for m in ("qr", "hashing", "full") for b in ("2x", "8x")}
    assert len(summary["cells"]) == 12
    for (method, _), row in places.items():
        assert row["status"] == ("over_budget" if method == "full" else "measured")
    assert "full at 8x: over budget: the method 'full' cannot get down to" in done.stdout
    for cell in (cell for cell in summary["cells"].values() if cell["status"] == "measured"):
        assert cell["num_bytes"] <= cell["budget_bytes"] == cell["full_bytes"] // int(cell["budget"][0])
        assert cell["settings"].get("compose", "add") == "add"
        assert 0.4 < cell["auc"] < 1
    for path in (place.out / "bundles" / "cells").iterdir():
        assert json.loads(open_bundle(path, "bakeoff_cell").file("cell.json").read_text("utf-8"))
    assert len(list((place.out / "bundles" / "cells").iterdir())) == 12


@pytest.mark.slow
def test_people_get_a_table_a_report_and_a_recommendation(place, first):
    done, summary = first
    for recommendation in summary["recommendations"]:
        assert f"within {recommendation['budget']}: {recommendation['why']}" in done.stdout
        within = [row for row in summary["rows"] if row["status"] == "measured"]
        within = [row for row in within if row["largest_bytes"] <= row["budget_bytes"]]
        if recommendation["budget"] == "2x":
            assert recommendation["method"] == max(within, key=lambda row: row["valid_auc"]["mean"])["method"]
    page = (place.out / "report.html").read_text(encoding="utf-8")
    assert "data:image/png;base64," in page
    assert summary["recommendations"][0]["why"][:20] in page


@pytest.mark.slow
def test_each_cell_is_a_run_below_the_bakeoffs(place, first):
    _, summary = first
    runs = children(place, summary)
    assert set(runs) == set(summary["cells"])
    for name, cell in summary["cells"].items():
        run = runs[name]
        assert run.data.params["method"] == cell["method"]
        assert run.data.tags["status"] == cell["status"]
        assert run.info.status == "FINISHED"
        assert run.data.metrics.get("auc") == cell.get("auc")


@pytest.mark.slow
def test_another_method_is_trained_and_the_others_are_not(place, first, again):
    (_, before), (done, after) = first, again
    assert after["cells_reused"] == 12
    assert len(after["cells"]) == 16
    assert {name: after["cells"][name] for name in before["cells"]} == before["cells"]
    assert "16 trainings, 12 of them there before" in done.stdout
    assert set(children(place, after)) == set(after["cells"])


@pytest.mark.slow
def test_wrong_input_is_said_before_anything_is_written(place):
    done = place.run("--methods", "qrr", "--out", "other")
    assert done.returncode == 2
    assert "unknown compression method; found: qrr" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (place.path / "other").exists()
