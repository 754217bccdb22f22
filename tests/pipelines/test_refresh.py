"""The refresh pipeline as a graph, what a refresh refuses, and how it goes on."""

from __future__ import annotations

import inspect
import io
import json
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
from mec.tracking.registry import Version
from mec.tracking.waiting import Waiting
from pipelines import refreshing
from pipelines.parameters import refresh_parameters, refuse_to_refresh
from pipelines.refresh import refresh
from pipelines.watching import Display, RunLog

WRITES = {"publish_generation", "promote_generation", "keep_champion", "keep_champion-2"}
CONFIG = parse_config({"name": "shop", "data": {"path": "old.parquet", "categorical": ["user"]}})


@pytest.fixture(scope="module")
def spec() -> dict[str, Any]:
    compiled: dict[str, Any] = json_format.MessageToDict(refresh.pipeline_spec)
    return compiled


def tasks(spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """All tasks by the name of their component, conditions left out."""
    dags = [spec["root"]["dag"], *(c["dag"] for c in spec["components"].values() if "dag" in c)]
    found = {name: task for dag in dags for name, task in dag["tasks"].items() if "condition" not in name}
    return {name.replace("-", "_").replace("_2", "-2"): task for name, task in found.items()}


def test_only_what_looks_or_writes_outside_the_run_is_never_reused(spec):
    uncached = {name for name, task in tasks(spec).items() if not task.get("cachingOptions", {}).get("enableCache")}
    assert uncached == WRITES | {"find_champion"}


def test_reuse_depends_on_the_version_that_was_found(spec):
    inputs = spec["root"]["dag"]["tasks"]["champion"]["inputs"]["parameters"]
    assert inputs["version"]["taskOutputParameter"]["producerTask"] == "find-champion"


def test_what_writes_outside_the_run_is_behind_the_decision(spec):
    root = {name.replace("-", "_") for name in spec["root"]["dag"]["tasks"]}
    assert not root & {name.removesuffix("-2") for name in WRITES}
    conditions = [
        task["triggerPolicy"]["condition"]
        for component in spec["components"].values()
        for task in component.get("dag", {}).get("tasks", {}).values()
        if "triggerPolicy" in task
    ]
    assert len(conditions) == 3
    assert sorted("promote" in c for c in conditions) == [True, True, True]
    assert sum(c.count("!") for c in conditions) >= 3  # each branch excludes those before it


def test_nothing_is_counted_before_the_rows_have_arrived(spec):
    assert "arrivals" in spec["root"]["dag"]["tasks"]["count"]["dependentTasks"]


def test_no_backbone_is_trained(spec):
    assert not {"train", "reference", "quantize", "pretrain"} & set(tasks(spec))


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
    log.write("Task refresh-pretrain cache hit\n")
    assert log.reused == ["refresh_pretrain"]
    log.write("Executing task 'publish-generation'\nTask 'publish-generation' finished with status FAILURE\n")
    assert log.failure is not None
    assert log.failure.step == "publish_generation"
    log.close()
