"""Runs on this machine, as users start them: results, resuming, failing, stopping."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from mec.bundle import MANIFEST, open_bundle
from mec.config import RunConfig, load_config
from pipelines.parameters import resolve_paths
from pipelines.results import MADE_BY
from tests.pipelines.periods import step_process

ROOT = Path(__file__).parents[2]
STEPS = list(dict.fromkeys(MADE_BY.values()))
NEVER_REUSED = {"publish", "register"}
# their bundles hold times or names of things outside the run, so their uuids differ
OUTSIDE = {"publication", "evaluation", "registration"}
SETTINGS = {
    "name": "tiny",
    "data": {"synthetic": {"num_rows": 4000, "field_sizes": [1500, 300, 40, 10]}},
    "pretrain": {"max_epochs": 3, "batch_size": 256, "embedding_dim": 8},
    "quantize": {"num_codewords": 16, "min_values": 100},
    "train": {"max_epochs": 2, "batch_size": 256},
    "evaluate": {"reference": "full", "full": {"max_epochs": 2, "batch_size": 256}, "latency_rows": 100},
}
INSIDE = ("--set", "publish.enabled=false", "--set", "tracking.enabled=false")

pytestmark = pytest.mark.slow


@dataclass
class Place:
    """A directory that users work in, with a config and a temporary directory of its own."""

    path: Path

    def __post_init__(self) -> None:
        (self.path / "tmp").mkdir(parents=True)
        (self.path / "config.yaml").write_text(yaml.safe_dump(SETTINGS))

    @property
    def out(self) -> Path:
        return self.path / "out"

    @property
    def log(self) -> str:
        return (self.out / "run.log").read_text(encoding="utf-8")

    @property
    def summary(self) -> dict:
        return json.loads((self.out / "summary.json").read_text(encoding="utf-8"))

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "mec", "run", "config.yaml", "--out", "out", *arguments]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(self.path / "tmp")}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=self.path, env=environment, **pipes)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        with self.start(*arguments) as process:
            stdout, stderr = process.communicate(timeout=900)
        return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)


def over(process: psutil.Process) -> bool:
    """Whether a process has ended. One whose parent went first stays a zombie where nothing reaps orphans."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def comparable(lineage: dict[str, str]) -> dict[str, str]:
    return {name: uuid for name, uuid in lineage.items() if name not in OUTSIDE}


def reused(summary: dict) -> set[str]:
    return {name for name, step in summary["steps"].items() if step["reused"]}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Place:
    return Place(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def finished(place) -> Iterator[subprocess.CompletedProcess[str]]:
    done = place.run()
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def summary(place, finished) -> dict:
    return place.summary


def test_the_summary_has_what_others_rely_on(summary):
    numbers = ("auc", "logloss", "full_auc", "full_logloss", "full_bytes", "ratio", "published_rows", "generation")
    assert [key for key in numbers if not isinstance(summary[key], int | float)] == []
    assert set(summary["bytes"]) == {"codes", "codebooks", "rows", "index", "other"}
    assert summary["ratio"] == pytest.approx(summary["full_bytes"] / sum(summary["bytes"].values()))
    assert (summary["model"], str(summary["model_version"])) == ("tiny", "1")
    assert isinstance(summary["decision"]["promote"], bool)
    assert summary["codebook"] == summary["lineage"]["codebook"]
    assert summary["published_rows"] > 0


def test_every_step_has_time_and_memory(summary):
    assert set(summary["steps"]) == set(STEPS)
    for step in summary["steps"].values():
        assert step["seconds"] > 0
        assert step["peak_rss_bytes"] > 2**20
        assert step["reused"] is False


def test_bundles_are_whole_and_descend_from_each_other(place, summary):
    bundles = {name: open_bundle(place.out / "bundles" / name) for name in MADE_BY}
    assert {name: bundle.uuid for name, bundle in bundles.items()} == summary["lineage"]
    assert bundles["codes"].manifest.parents["codebook"] == bundles["codebook"].uuid
    assert len({bundle.manifest.data_version for bundle in bundles.values()}) == 1


def test_the_config_is_saved_with_every_default(place, finished):
    expected = resolve_paths(load_config(place.path / "config.yaml"))
    saved = RunConfig.model_validate(yaml.safe_load((place.out / "config.yaml").read_text(encoding="utf-8")))
    assert saved.data == expected.data
    assert saved.store == str(place.path / ".mec")


def test_the_report_stands_alone(place, finished):
    page = (place.out / "report.html").read_text(encoding="utf-8")
    assert "data:image/png;base64," in page
    assert 'src="http' not in page
    assert all(step in page for step in STEPS)


def test_people_see_a_table_and_the_report(place, finished):
    assert "AUC" in finished.stdout
    assert "embedding bytes" in finished.stdout
    assert finished.stdout.rstrip().endswith(f"report: {place.out / 'report.html'}")


def test_one_line_per_step_and_the_rest_in_the_log(place, finished):
    first_words = [line.split()[0] for line in finished.stderr.splitlines() if " note: " not in line]
    assert sorted(first_words) == sorted(STEPS)
    assert "Got executor_input" in place.log
    assert "\x1b" not in place.log


def test_nothing_is_left_in_the_temporary_directory(place, finished):
    assert list((place.path / "tmp").iterdir()) == []


class TestRunningAgain:
    """In the order written: each test runs in the directory that the one before left."""

    def test_takes_finished_steps(self, place, summary):
        done = place.run(*INSIDE)
        assert done.returncode == 0, done.stderr
        assert reused(place.summary) == set(STEPS) - NEVER_REUSED
        assert comparable(place.summary["lineage"]) == comparable(summary["lineage"])
        assert place.summary["auc"] == summary["auc"]

    def test_runs_what_a_setting_changes(self, place, summary):
        done = place.run(*INSIDE, "--set", "quantize.num_codewords=8")
        assert done.returncode == 0, done.stderr
        assert reused(place.summary) == {"count", "vocabulary", "encode", "pretrain", "reference"}
        assert place.summary["codebook"] != summary["codebook"]

    def test_makes_deleted_and_damaged_bundles_again(self, place, summary):
        dataset, codes = (Path(summary["bundles"][name]) for name in ("dataset", "codes"))
        (dataset / MANIFEST).unlink()
        damaged = bytearray((codes / "codes.safetensors").read_bytes())
        damaged[-1] ^= 1
        (codes / "codes.safetensors").write_bytes(damaged)
        done = place.run(*INSIDE)
        assert done.returncode == 0, done.stderr
        assert "making the dataset bundle again: no artifact bundle" in done.stderr
        assert "making the codes bundle again" in done.stderr
        assert "does not match its checksum" in done.stderr
        assert reused(place.summary) == {"count", "vocabulary"}
        assert comparable(place.summary["lineage"]) == comparable(summary["lineage"])

    def test_keeps_no_bundle_that_nothing_names(self, place, summary):
        tasks = {path.parent for path in (place.out / "kfp").glob("*/*/*") if path.parents[1].name != "cache"}
        cached = {
            Path(artifact["uri"]).parent
            for entry in (place.out / "kfp" / "cache").glob("*.json")
            for artifact in json.loads(entry.read_text(encoding="utf-8")).values()
        }
        current = {Path(path).parent for path in place.summary["bundles"].values()}
        assert tasks <= cached | current


def test_killed_and_stopped_it_ends_as_if_it_had_not_been(tmp_path, summary):
    place = Place(tmp_path / "stopped")
    with place.start(*INSIDE) as killed:
        step_process(killed, "pretrain").kill()
        _, stderr = killed.communicate(timeout=600)
    assert killed.returncode == 1
    assert "step pretrain crashed" in stderr
    assert f"log: {place.out / 'run.log'}" in stderr
    assert not (place.out / "summary.json").exists()

    with place.start(*INSIDE) as stopped:
        child = step_process(stopped, "train")
        stopped.send_signal(signal.SIGINT)
        _, stderr = stopped.communicate(timeout=600)
    assert stopped.returncode == 130
    assert stderr.splitlines()[-1] == "interrupted"
    assert over(child)
    assert list((place.path / "tmp").iterdir()) == []

    done = place.run(*INSIDE)
    assert done.returncode == 0, done.stderr
    assert {"count", "vocabulary", "encode", "pretrain", "quantize"} <= reused(place.summary)
    assert comparable(place.summary["lineage"]) == comparable(summary["lineage"])


def test_wrong_rows_end_with_2_and_a_sentence(tmp_path):
    place = Place(tmp_path / "wrong")
    rows = {"user": ["a", "b"] * 500, "label": [0, 1, 2, 1] * 250}
    pq.write_table(pa.table(rows), place.path / "rows.parquet")
    done = place.run("--set", "data={path: rows.parquet, categorical: [user]}")
    assert done.returncode == 2
    assert done.stderr.startswith("error in step count: DataError: ")
    assert "rows.parquet" in done.stderr
    assert "label" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(place.out.glob("kfp/*/count/counts")) == []


def test_two_runs_do_not_share_a_directory(tmp_path):
    place = Place(tmp_path / "shared")
    with place.start() as first:
        step_process(first, "count")
        second = place.run()
        first.send_signal(signal.SIGTERM)
        first.communicate(timeout=600)
    assert second.returncode == 2
    assert "another run is going on" in second.stderr
    assert first.returncode == 130
