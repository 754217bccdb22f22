"""The refresh pipeline as a graph, what a refresh refuses, and how it goes on."""

from __future__ import annotations

import inspect
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.protobuf import json_format
from rich.console import Console

from mec.config import DataConfig, RunConfig, parse_config
from mec.data.readers import open_source
from mec.errors import ConfigError, DataError
from mec.tracking import training_rows
from mec.tracking.registry import Version
from mec.tracking.waiting import Waiting
from pipelines import refreshing
from pipelines.parameters import refresh_parameters, refuse_to_refresh
from pipelines.refresh import refresh
from pipelines.train import train
from pipelines.watching import Display, RunLog

MARKS = {"keep_champion", "keep_champion-2", "keep_champion-3"}
WRITES = {"publish_generation", "promote_generation", "publish", "register"} | MARKS
TRAINS = {"count-2", "vocabulary", "encode-2", "pretrain", "quantize", "publish"}
TRAINS |= {"train", "reference", "evaluate", "register"}
CONFIG = parse_config({"name": "shop", "data": {"path": "old.parquet", "categorical": ["user"]}})


@pytest.fixture(scope="module")
def spec() -> dict[str, Any]:
    compiled: dict[str, Any] = json_format.MessageToDict(refresh.pipeline_spec)
    return compiled


def tasks(spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """All tasks by the name of their component, conditions left out."""
    dags = [spec["root"]["dag"], *(c["dag"] for c in spec["components"].values() if "dag" in c)]
    found = {name: task for dag in dags for name, task in dag["tasks"].items() if "condition" not in name}
    return {re.sub(r"_(\d)$", r"-\1", name.replace("-", "_")): task for name, task in found.items()}


def branches(spec: dict[str, Any]) -> dict[str, tuple[str, dict[str, Any]]]:
    """Name of a branch -> its condition and its tasks."""
    conditions = {
        task["taskInfo"]["name"]: (task["triggerPolicy"]["condition"], task["componentRef"]["name"])
        for component in spec["components"].values()
        for task in component.get("dag", {}).get("tasks", {}).values()
        if "triggerPolicy" in task
    }
    return {
        name: (condition, {"root": {"dag": {"tasks": {}}}, "components": {"": spec["components"][component]}})
        for name, (condition, component) in conditions.items()
    }


def test_only_what_looks_or_writes_outside_the_run_is_never_reused(spec):
    uncached = {name for name, task in tasks(spec).items() if not task.get("cachingOptions", {}).get("enableCache")}
    assert uncached == WRITES | {"find_champion"}


def test_reuse_depends_on_the_version_that_was_found(spec):
    inputs = spec["root"]["dag"]["tasks"]["champion"]["inputs"]["parameters"]
    assert inputs["version"]["taskOutputParameter"]["producerTask"] == "find-champion"


def test_what_writes_outside_the_run_is_behind_the_decision(spec):
    root = {name.replace("-", "_") for name in spec["root"]["dag"]["tasks"]}
    assert not root & {name.rstrip("-23") for name in WRITES}
    conditions = {name: condition for name, (condition, _) in branches(spec).items()}
    assert set(conditions) == {"promote", "train", "escalate", "keep"}
    for name, condition in conditions.items():
        held = [
            decided
            for decided in ("promote", "train", "escalate", "keep")
            if eval(  # the conditions are Python but for their operators
                re.sub(r"inputs[^\]]*\]", repr(decided), condition).replace("!(", "not (").replace("&&", "and")
            )
        ]
        assert held == [name]


def test_nothing_is_counted_before_the_rows_have_arrived(spec):
    assert "arrivals" in spec["root"]["dag"]["tasks"]["count"]["dependentTasks"]


def test_a_backbone_is_trained_only_where_an_escalation_trains(spec):
    found = {name: set(tasks(inside)) for name, (_, inside) in branches(spec).items()}
    assert found == {
        "promote": {"publish_generation", "promote_generation"},
        "train": {"keep_champion"} | TRAINS,
        "escalate": {"keep_champion-2"},
        "keep": {"keep_champion-3"},
    }
    assert not TRAINS & {name.replace("-", "_") for name in spec["root"]["dag"]["tasks"]}


def test_the_training_reads_the_rows_that_the_marking_step_names(spec):
    inside = tasks(branches(spec)["train"][1])
    for name in ("count-2", "encode-2", "register"):
        given = inside[name]["inputs"]["parameters"]
        assert given["data"]["taskOutputParameter"] == {
            "producerTask": "keep-champion",
            "outputParameterKey": "train_data",
        }
        if name != "register":
            named = given["data_version"]["taskOutputParameter"]
            assert named == {"producerTask": "keep-champion", "outputParameterKey": "train_data_version"}
    then_train = [
        tasks(branches(spec)[branch][1])[step]["inputs"]["parameters"]["then_train"]["runtimeValue"]["constant"]
        for branch, step in (("train", "keep_champion"), ("escalate", "keep_champion-2"), ("keep", "keep_champion-3"))
    ]
    assert then_train == [True, False, False]
    # the same steps as in a train run, with the same parameters
    alone = tasks(json_format.MessageToDict(train.pipeline_spec))
    assert {name.removesuffix("-2") for name in TRAINS} == set(alone)
    for name, task in alone.items():
        mine = inside[name if name in inside else f"{name}-2"]["inputs"]
        assert set(mine["parameters"]) == set(task["inputs"]["parameters"])
        assert set(mine.get("artifacts", {})) == set(task["inputs"].get("artifacts", {}))


def test_parameters_are_those_of_the_pipeline():
    new = DataConfig.model_validate({"path": "/new.parquet", "categorical": ["user"]})
    parameters = refresh_parameters(CONFIG, new, "3")
    known = set(inspect.signature(refresh.pipeline_func).parameters)
    assert known - set(parameters) == {"data_version", "work_dir", "code_hash"}
    assert set(parameters) <= known
    assert json.loads(parameters["settings"])["new_data"]["path"] == "/new.parquet"
    assert json.loads(parameters["data"])["path"] == "old.parquet"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tracking": {"enabled": False}}, "looks its champion up in the model registry"),
        ({"train": {"model": ["pnn", "lr"]}}, "one registered model .* found: shop-pnn, shop-lr"),
    ],
)
def test_a_config_whose_champion_cannot_be_found_is_refused(changed, message):
    with pytest.raises(ConfigError, match=message):
        refuse_to_refresh(RunConfig.model_validate(CONFIG.model_dump() | changed))


VERSIONS = {
    "1": Version("1", {"data_version": "monday"}),
    "2": Version("2", {"refreshed_on": "tuesday", "parent_version": "1", "data_version": "tuesday"}),
}


class _Registry:
    """Two versions: 1 trained on monday, 2 refreshed on tuesday."""

    name = "shop"

    def version(self, number: str) -> Version:
        return VERSIONS[number]

    def versions(self) -> list[Version]:
        return list(VERSIONS.values())


@pytest.mark.parametrize(
    ("champion", "rows", "files", "expected"),
    [
        ("1", "tuesday", [], "1"),
        ("2", "wednesday", [], "2"),
        ("2", "wednesday", ["run.log", "summary.json"], "2"),
        ("2", "tuesday", [], None),
        ("2", "monday", [], None),
        ("2", "tuesday", ["run.log", "summary.json"], None),
        ("2", "tuesday", ["run.log"], "1"),  # killed after it had moved the alias
        ("2", "monday", ["run.log"], None),
        ("1", "tuesday", ["run.log", "summary.json"], "1"),  # rolled back
    ],
)
def test_what_is_refreshed(tmp_path, champion, rows, files, expected):
    for name in files:
        (tmp_path / name).touch()
    registry: Any = _Registry()
    made: Any = refreshing._Rows(CONFIG, [], registry, False)
    made._found.update(dict.fromkeys(VERSIONS, (CONFIG.data, rows)))
    base = refreshing._base(registry.version(champion), made, tmp_path)
    assert (base and base.number) == expected


def rows_file(path: Path, user: int) -> str:
    pq.write_table(pa.table({"user": [user, user + 1], "label": [0, 1]}), path)
    return str(path)


def waits(path: str, version: str, learned_by: str | None = None) -> Waiting:
    content = open_source(DataConfig.model_validate({"path": path, "categorical": ["user"]}), seed=0).data_version
    return Waiting(version, "a week", content, (path,), "2026-08-01", "keep", "because", "run", learned_by)


def test_rows_that_wait_are_added_for_the_version_that_is_refreshed(tmp_path, monkeypatch):
    new, waiting, learned = (rows_file(tmp_path / f"{name}.parquet", i) for i, name in enumerate("abc"))
    known = {"1": [waits(waiting, "1"), waits(learned, "1", "1")], "2": []}  # version 2 has learned from both
    monkeypatch.setattr(refreshing, "waiting_rows", lambda _, version: known[version.number])
    registry: Any = _Registry()
    rows = refreshing._Rows(CONFIG, [new], registry, with_waiting=True)
    data, both = rows.of(VERSIONS["1"])
    assert data.path == (new, waiting)
    assert rows.of(VERSIONS["2"])[0].path == new
    assert refreshing._Rows(CONFIG, [new], registry, with_waiting=False).of(VERSIONS["1"])[0].path == new
    assert refreshing._Rows(CONFIG, [waiting], registry, with_waiting=True).of(VERSIONS["1"])[0].path == waiting

    (tmp_path / "run.log").touch()  # killed after it had moved the alias: the rows wait for the version before
    champion = Version("2", VERSIONS["2"].tags | {"refreshed_on": both})
    assert refreshing._base(champion, rows, tmp_path) is VERSIONS["1"]
    assert refreshing._base(VERSIONS["2"], rows, tmp_path) is VERSIONS["2"]


@pytest.mark.parametrize(
    ("change", "message"), [("other", "holds other rows than"), ("gone", "since 2026-08-01 are gone; found: no data")]
)
def test_rows_that_wait_and_have_changed_are_refused(tmp_path, monkeypatch, change, message):
    new, waiting = rows_file(tmp_path / "new.parquet", 0), rows_file(tmp_path / "waiting.parquet", 1)
    known = [waits(waiting, "1")]
    monkeypatch.setattr(refreshing, "waiting_rows", lambda *_: known)
    if change == "gone":
        Path(waiting).unlink()
    else:
        rows_file(Path(waiting), 7)
    registry: Any = _Registry()
    rows = refreshing._Rows(CONFIG, [new], registry, with_waiting=True)
    with pytest.raises(DataError, match=message):
        rows.of(VERSIONS["1"])


def test_steps_of_several_words_are_followed(tmp_path):
    screen = io.StringIO()
    log = RunLog(Path(tmp_path, "run.log"), Display(Console(file=screen, width=120), 18))
    log.write("Executing task 'keep-champion-2'\n")
    assert log.step == "keep_champion"
    log.close()
    log = RunLog(Path(tmp_path, "run.log"), Display(Console(file=screen, width=120), 18))
    log.write("Task refresh-pretrain cache hit\n")
    assert log.reused == ["refresh_pretrain"]
    log.write("Executing task 'publish-generation'\nTask 'publish-generation' finished with status FAILURE\n")
    assert log.failure is not None
    assert log.failure.step == "publish_generation"
    log.close()


def test_what_follows_the_mark_is_the_training(tmp_path):
    screen = io.StringIO()
    log = RunLog(tmp_path / "run.log", Display(Console(file=screen, width=120), 18))
    log.write("Task count cache hit\nExecuting task 'keep-champion'\n")
    log.write("    [keep_champion] done in 1.0 s, peak 1 MiB | marked\nTask count-2 cache hit\n")
    log.write("Executing task 'train'\n    [train] done in 2.0 s, peak 2 MiB | deepfm\n")
    assert log.reused == ["count", "training count"]
    assert log.step == "training train"
    shown = [line[:18].strip() for line in screen.getvalue().splitlines()]
    assert shown == ["count", "keep_champion", "training count", "training train"]
    log.close()


def test_a_training_that_moved_the_alias_is_gone_on_with(tmp_path, monkeypatch):
    new = rows_file(tmp_path / "new.parquet", 1)
    content = open_source(DataConfig.model_validate({"path": new, "categorical": ["user"]}), seed=0).data_version
    called = replace(waits(new, "1"), data_version=content, decision="escalate")
    trained_on = json.dumps({"path": ["old.parquet", new], "split": {}})
    monkeypatch.setitem(VERSIONS, "3", Version("3", {"trained_on": trained_on}, "2026-08-02"))
    monkeypatch.setattr(training_rows, "all_waiting", lambda _: [called])
    registry: Any = _Registry()

    def base(config: RunConfig, *files: str) -> str | None:
        out = tmp_path / "-".join(["out", *files])
        out.mkdir(exist_ok=True)
        for name in files:
            (out / name).touch()
        found = refreshing._base(VERSIONS["3"], refreshing._Rows(config, [new], registry, False), out)
        return found and found.number

    trains = CONFIG.model_copy(update={"refresh": CONFIG.refresh.model_copy(update={"on_escalation": "train"})})
    assert base(trains, "run.log") == "1"
    assert base(trains, "run.log", "summary.json") is None
    assert base(trains) is None
    assert base(CONFIG, "run.log") is None
