"""Runs of several backbones on this machine: what each leaves, what the comparison leaves, failing, stopping."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest

from mec.bundle import open_bundle
from tests.pipelines.test_local import INSIDE, Place, over, step_process

SHARED = {"counts", "vocabulary", "dataset", "pretrained", "codebook", "codes", "publication", "comparison"}
OWN = {"model", "reference", "evaluation", "registration"}
SMALL = ("--set", "evaluate={reference: none, latency_rows: 0}")
TWO, THREE = (("--set", f"train.model=[{names}]", *SMALL) for names in ("lr,pnn", "lr,fm,pnn"))

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Place:
    return Place(tmp_path_factory.mktemp("backbones"))


@pytest.fixture(scope="module")
def finished(place):
    done = place.run(*TWO, "--set", "publish.enabled=false", "--set", "tracking.gate.min_auc=0")
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def summary(place, finished) -> dict:
    return place.summary


def test_each_backbone_is_measured_on_the_same_codebook_and_rows(place, summary):
    assert set(summary["models"]) == {"lr", "pnn"}
    opened = {
        name: {role: open_bundle(place.out / "bundles" / name / role) for role in OWN} for name in summary["models"]
    }
    for name, model in summary["models"].items():
        assert {role: bundle.uuid for role, bundle in opened[name].items()} == model["lineage"]
        assert opened[name]["model"].extra["backbone"] == model["backbone"] == name
        assert opened[name]["evaluation"].manifest.parents["codebook"] == summary["codebook"]
        assert isinstance(model["auc"], float)
        assert isinstance(model["logloss"], float)
        assert set(model["steps"]) == {"train", "reference", "evaluate", "register"}
    labels = [np.load(bundles["evaluation"].file("test_labels.npy")) for bundles in opened.values()]
    assert np.array_equal(*labels)
    assert summary["models"]["lr"]["auc"] != summary["models"]["pnn"]["auc"]


def test_what_they_share_is_there_once(place, summary):
    assert set(summary["lineage"]) == SHARED
    for name, uuid in summary["lineage"].items():
        assert open_bundle(place.out / "bundles" / name).uuid == uuid


def test_each_is_a_registered_model_with_a_champion_below_one_parent_run(place, summary):
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=summary["models"]["lr"]["registration"]["tracking_uri"])
    for name in ("lr", "pnn"):
        assert summary["models"][name]["model"] == f"tiny-{name}"
        aliases = client.get_registered_model(f"tiny-{name}").aliases
        assert {alias: str(number) for alias, number in aliases.items()} == {"champion": "1"}
    children = [client.get_run(summary["models"][name]["registration"]["run_id"]) for name in ("lr", "pnn")]
    assert [child.data.params["train.model"] for child in children] == ["lr", "pnn"]
    (parent,) = {child.data.tags["mlflow.parentRunId"] for child in children}
    files = {Path(file.path).name for file in client.list_artifacts(parent, "comparison")}
    assert files == {"comparison.json", "comparison.md", "comparison.html", "comparison.png"}
    assert client.get_run(parent).data.metrics["auc.pnn"] == summary["models"]["pnn"]["auc"]


def test_people_see_both_and_the_report_compares_them(place, finished):
    assert "v1, champion" in finished.stdout
    steps = [line[:14].rstrip() for line in finished.stderr.splitlines() if " note: " not in line]
    assert {"train lr", "train pnn", "evaluate pnn", "compare"} <= {" ".join(s.split()[:2]) for s in steps} | {
        "compare"
    }
    page = (place.out / "report.html").read_text(encoding="utf-8")
    assert "Backbones on the same codes" in page
    assert "data:image/png;base64," in page


def test_another_backbone_takes_what_is_there_and_leaves_no_unnamed_bundle(place, summary):
    done = place.run(*THREE, *INSIDE)
    assert done.returncode == 0, done.stderr
    again = place.summary
    assert {name for name, step in again["steps"].items() if not step["reused"]} == {"publish", "compare"}
    assert {name for name, model in again["models"].items() if not model["steps"]["train"]["reused"]} == {"fm"}
    assert again["models"]["pnn"]["lineage"]["model"] == summary["models"]["pnn"]["lineage"]["model"]
    kept = {path.parent for path in place.out.glob("kfp/mec-*/*/*/manifest.json")}
    kept |= {path.parent for path in place.out.glob("kfp/mec-*/*-iteration-*/*/*/manifest.json")}
    named = {Path(path) for part in (again, *again["models"].values()) for path in part["bundles"].values()}
    assert named <= kept
    cached = {
        Path(artifact["uri"])
        for entry in (place.out / "kfp" / "cache").glob("*.json")
        for artifact in json.loads(entry.read_text(encoding="utf-8")).values()
    }
    assert {path.parent for path in kept} <= {path.parent for path in named | cached}


def test_a_killed_branch_is_named_and_ctrl_c_ends_all_of_them(tmp_path):
    place = Place(tmp_path / "stopped")
    with place.start(*TWO, *INSIDE) as killed:
        step_process(killed, "train").kill()
        _, stderr = killed.communicate(timeout=600)
    assert killed.returncode == 1
    assert "step train lr crashed" in stderr
    assert "register pnn" in stderr
    assert not (place.out / "summary.json").exists()

    with place.start(*TWO, *INSIDE) as stopped:
        child = step_process(stopped, "train")
        stopped.send_signal(signal.SIGINT)
        _, stderr = stopped.communicate(timeout=600)
    assert stopped.returncode == 130
    assert stderr.splitlines()[-1] == "interrupted"
    assert over(child)
    assert list((place.path / "tmp").iterdir()) == []

    done = place.run(*TWO, *INSIDE)
    assert done.returncode == 0, done.stderr
    assert place.summary["models"]["pnn"]["steps"]["train"]["reused"] is True
