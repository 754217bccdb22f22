"""Schedules: their files, what they change on a server, and what they leave alone."""

from __future__ import annotations

import json
from pathlib import Path

import kfp_server_api
import pytest
import yaml
from click.testing import CliRunner

from mec.cli import main
from mec.errors import ConfigError
from pipelines.compiling import cluster_yaml
from pipelines.kubeflow_api import Endpoint, connect
from pipelines.kubeflow_errors import KubeflowError
from pipelines.scheduling import check_cron, load_schedules
from pipelines.scheduling_changes import apply_changes, mark, plan_changes, plan_removal
from tests.kfp_server.server import KubeflowServer

IMAGE = "registry.example/mec@sha256:" + "0" * 64
EXAMPLES = Path(__file__).parents[2] / "pipelines" / "schedules"
TRAIN = {
    "name": "weekly",
    "config": "demo.yaml",
    "pipeline": "train",
    "cron": "0 0 2 * * 1",
    "parameters": {"data_version": "[[ScheduledTime.2006-01-02]]"},
}


@pytest.fixture(autouse=True)
def no_cluster_around(monkeypatch, tmp_path):
    for name in ("KF_PIPELINES_ENDPOINT", "KF_PIPELINES_UI_ENDPOINT", "KF_PIPELINES_SA_TOKEN_PATH", "KUBECONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("kfp.client.Client._LOCAL_KFP_CONTEXT", str(tmp_path / "context.json"))


@pytest.fixture(scope="module", autouse=True)
def compiled_once():
    """The same pipeline for the same settings, as compiling gives, without the seconds that it takes."""
    texts: dict[str, dict[str, str]] = {}

    def cached(image, config, profile, only):
        key = repr((image, config, profile, only))
        if key not in texts:
            texts[key] = cluster_yaml(image, config, profile, only)
        return texts[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.submitting.cluster_yaml", cached)
        yield


@pytest.fixture
def server():
    with KubeflowServer() as running:
        yield running


@pytest.fixture
def api(server):
    return connect(Endpoint(server.url, backoff_s=0.01, timeout_s=5))


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "schedules").mkdir()
    (tmp_path / "schedules" / "demo.yml").write_text("")
    (tmp_path / "demo.yaml").write_text("name: shop\nstore: /mnt/mec\n")
    return tmp_path / "schedules"


def write(folder: Path, **changes) -> None:
    settings = TRAIN | {"config": "../demo.yaml"} | changes
    (folder / f"{settings['name']}.yaml").write_text(yaml.safe_dump(settings))


def reconcile(api, folder: Path, owner: str = "mec") -> list[tuple[str, list[str]]]:
    changes = plan_changes(api, load_schedules(folder, IMAGE), owner)
    apply_changes(api, changes, owner, lambda _: None)
    return [(change.action, change.why) for change in changes]


def test_create_change_and_remove_leave_runs_in_flight_alone(server, api, folder):
    write(folder)
    assert [action for action, _ in reconcile(api, folder)] == ["create"]
    (first,) = server.kept["recurring_runs"]
    assert (first.display_name, first.trigger.cron_schedule.cron) == ("weekly", "0 0 2 * * 1")
    assert (first.max_concurrency, first.no_catchup, first.mode) == ("1", True, "ENABLE")
    assert first.runtime_config.parameters == {"data_version": "[[ScheduledTime.2006-01-02]]"}
    (uploaded,) = server.uploads.values()
    assert yaml.safe_load(uploaded)["pipelineInfo"]["name"] == "mec-train"
    before = list(server.changes)
    assert reconcile(api, folder) == [("unchanged", [])]
    assert server.changes == before

    server.listens = False  # an older server, which takes runs in flight with it
    run = server.start_run(first.recurring_run_id)
    write(folder, cron="0 30 2 * * 1")
    assert reconcile(api, folder) == [("replace", ["cron: 0 0 2 * * 1 -> 0 30 2 * * 1"])]
    assert server.kept["runs"] == [run]
    modes = {found.trigger.cron_schedule.cron: found.mode for found in server.kept["recurring_runs"]}
    assert modes == {"0 0 2 * * 1": "DISABLE", "0 30 2 * * 1": "ENABLE"}
    assert [action for action, _ in reconcile(api, folder)] == ["keep"]

    run.state = "SUCCEEDED"
    assert [action for action, _ in reconcile(api, folder)] == ["remove"]
    (second,) = server.kept["recurring_runs"]
    assert (second.trigger.cron_schedule.cron, second.mode) == ("0 30 2 * * 1", "ENABLE")

    (folder / "weekly.yaml").rename(folder / "weekly.txt")
    write(folder, name="other", enabled=False)
    run = server.start_run(second.recurring_run_id)
    assert [action for action, _ in reconcile(api, folder)] == ["create", "remove"]
    assert run in server.kept["runs"]
    run.state = "FAILED"
    assert [action for action, _ in reconcile(api, folder)] == ["unchanged", "remove"]
    assert [(found.display_name, found.mode) for found in server.kept["recurring_runs"]] == [("other", "DISABLE")]


def test_a_deleted_recurring_run_orphans_what_started_meanwhile(server, api, folder):
    write(folder)
    reconcile(api, folder)
    changes = plan_removal(api, ["weekly"], "mec")
    apply_changes(api, changes, "mec", lambda _: None)
    assert server.calls[-1].endswith("?propagation_policy=ORPHAN")
    assert server.kept["recurring_runs"] == []


def test_an_update_never_has_two_that_could_start_at_once(server, api, folder):
    write(folder)
    reconcile(api, folder)
    write(folder, max_concurrency=2)
    del server.calls[:]
    reconcile(api, folder)
    verbs = [call.split("?")[0].split(":")[-1].split("/")[0] for call in server.changes]
    assert verbs == ["disable", "POST recurringruns", "DELETE recurringruns"]


def test_a_failed_update_leaves_the_old_one_enabled(server, api, folder):
    write(folder)
    reconcile(api, folder)
    write(folder, cron="0 0 3 * * 1")
    server.failures["POST", "v2beta1/recurringruns$"] = [500]
    with pytest.raises(KubeflowError, match=r"cannot create the recurring run weekly .*the server answered 500"):
        reconcile(api, folder)
    (old,) = server.kept["recurring_runs"]
    assert (old.mode, old.trigger.cron_schedule.cron) == ("ENABLE", "0 0 2 * * 1")
    assert [call.split(":")[-1] for call in server.changes[-3:]] == ["disable", "POST recurringruns", "enable"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"enabled": False}, "enabled: true -> false"),
        ({"catch_up": True}, "catch_up: false -> true"),
        ({"experiment": "other"}, "experiment: experiments-1 -> a new one"),
        ({"parameters": {"data_version": "x"}}, "parameters.data_version: [[ScheduledTime.2006-01-02]] -> x"),
        ({"overrides": ["seed=7"]}, "pipeline version: pipeline_versions-1 -> a new one"),
        ({"profile": "cpu"}, "pipeline version: pipeline_versions-1 -> a new one"),
    ],
)
def test_what_differs_is_told_and_a_plan_changes_nothing(server, api, folder, changes, why):
    write(folder)
    reconcile(api, folder)
    write(folder, **changes)
    before = list(server.changes)
    (change,) = plan_changes(api, load_schedules(folder, IMAGE), "mec")
    assert (change.action, change.why) == ("replace", [why])
    assert server.changes == before


def test_a_schedule_that_somebody_disabled_is_found(server, api, folder):
    write(folder)
    reconcile(api, folder)
    server.kept["recurring_runs"][0].mode = "DISABLE"
    assert reconcile(api, folder) == [("replace", ["enabled: false -> true"])]
    assert [found.mode for found in server.kept["recurring_runs"]] == ["ENABLE"]


def test_those_of_others_are_left_alone(server, api, folder):
    write(folder)
    reconcile(api, folder, owner="team-a")
    foreign = kfp_server_api.V2beta1RecurringRun(recurring_run_id="f", display_name="by hand", mode="ENABLE")
    server.kept["recurring_runs"].append(foreign)
    write(folder, name="mine")
    (folder / "weekly.yaml").unlink()
    server.page = 1
    assert [action for action, _ in reconcile(api, folder, owner="team-b")] == ["create"]
    names = [(found.display_name, (found.description or "").endswith(mark("team-a"))) for found in _ids(server)]
    assert names == [("weekly", True), ("by hand", False), ("mine", False)]
    write(folder, name="by hand")
    with pytest.raises(KubeflowError, match="of another owner has the name by hand; found: f"):
        plan_changes(api, load_schedules(folder, IMAGE), "team-b")
    with pytest.raises(KubeflowError, match="no such schedule on the server; found: weekly"):
        plan_removal(api, ["weekly"], "team-b")


def _ids(server) -> list:
    return server.kept["recurring_runs"]


def test_deleting_twice_is_done_once(server, api, folder):
    write(folder)
    reconcile(api, folder)
    changes = plan_removal(api, [], "mec")
    server.kept["recurring_runs"].clear()
    changes[0].old[0].mode = "DISABLE"
    apply_changes(api, changes, "mec", lambda _: None)


@pytest.mark.parametrize(
    "cron",
    ["0 0 2 * * 1", "*/10 0 2 1,15 jan-mar ?", "0 0/15 8-18 ? * MON-FRI", "59 59 23 31 12 6", " 0  0 2 * * sun "],
)
def test_cron_expressions_are_taken(cron):
    assert check_cron(cron) == " ".join(cron.split())


@pytest.mark.parametrize(
    ("cron", "message"),
    [
        ("0 2 * * 1", "5 fields, not the six"),
        ("60 0 2 * * 1", "'60' is no second of 0 to 59"),
        ("0 0 24 * * 1", "'24' is no hour"),
        ("0 0 2 0 * *", "'0' is no day of 1 to 31"),
        ("0 0 2 * 13 *", "'13' is no month"),
        ("0 0 2 * * 7", "'7' is no weekday"),
        ("0 0 5-2 * * *", "'5-2' is no hour"),
        ("0 */0 2 * * *", r"'\*/0' is no minute"),
        ("? 0 2 * * *", "is no second"),
        ("0 0 2 * * L", "'L' is no weekday"),
        ("@daily", "1 fields"),
    ],
)
def test_other_cron_expressions_are_refused(cron, message):
    with pytest.raises(ValueError, match=message):
        check_cron(cron)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cron": "0 2 * * 1"}, r"weekly.yaml has bad settings:\n  cron: cron has 5 fields"),
        ({"chron": "0 0 2 * * 1"}, "chron: unknown key; .*fix: use one of name, description"),
        ({"pipeline": "bake"}, "weekly.yaml: no such pipeline; found: bake; fix: use one of train"),
        ({"parameters": {}}, r"weekly.yaml: the pipeline needs more parameters; .*data_version \(Identity of the rows"),
        ({"parameters": {"data_version": "[[Today]]"}}, r"parameter data_version holds \[\[ where no macro"),
        (
            {"parameters": {"data_version": "1", "seed": "[[Index]]"}},
            "seed is no NUMBER_INTEGER; .*filled into text only",
        ),
        ({"parameters": {"data_version": 20260801}}, "data_version is no STRING; found: 20260801"),
        ({"parameters": {"data_version": "1", "sede": 1}}, "no such parameter; found: sede"),
        ({"profile": "huge"}, "no such profile; found: huge; fix: use one of cpu, gpu, spot"),
        ({"data": "/new"}, "only a refresh has new rows"),
        ({"overrides": ["store=.mec"]}, "store is relative"),
        ({"overrides": ["store=/data"], "profile": "cpu"}, "store is on none of the profile's volumes; found: /data"),
    ],
)
def test_bad_files_are_refused_by_name(folder, changes, message):
    overrides = {"overrides": ["data={path: /mnt/mec/x.parquet, categorical: [a]}"]}
    write(folder, **(overrides | changes | {"overrides": [*overrides["overrides"], *changes.get("overrides", [])]}))
    with pytest.raises(ConfigError, match=message):
        load_schedules(folder, IMAGE)


def test_two_of_one_name_and_none_are_refused(folder, tmp_path):
    write(folder)
    (folder / "again.yaml").write_bytes((folder / "weekly.yaml").read_bytes())
    with pytest.raises(ConfigError, match=r"the same name; found: weekly in .*again.yaml and .*weekly.yaml"):
        load_schedules(folder, IMAGE)
    with pytest.raises(ConfigError, match="no schedules"):
        load_schedules(tmp_path / "none", IMAGE)


def test_the_examples_are_good():
    nightly, weekly = load_schedules(EXAMPLES, IMAGE)
    path = json.loads(nightly.request.parameters["new_data"])["path"]
    assert path == "/mnt/mec/criteo/arrivals/[[ScheduledTime.2006-01-02]].txt"
    assert weekly.request.pipeline == "criteo-train"


def test_the_command(server, folder):
    write(folder)
    where = ["--host", server.url]
    asked = ["schedule", "apply", str(folder), "--image", IMAGE, *where]

    def invoke(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(main, arguments)
        return done.exit_code, done.output

    assert invoke(*asked)[0] == 2
    assert "nobody to ask" in invoke(*asked)[1]
    assert server.changes == []
    code, output = invoke("schedule", "diff", str(folder), "--image", IMAGE, *where)
    assert (code, server.changes) == (0, [])
    assert output.splitlines()[0].startswith("create     weekly  pipeline shop-train-")
    assert output.splitlines()[1] == "1 to change"
    assert invoke(*asked, "--yes")[1].splitlines()[-1] == "created weekly"
    assert invoke(*asked)[1].splitlines() == ["unchanged  weekly", "nothing to change"]
    assert invoke("schedule", "remove", *where)[0] == 2
    removed = invoke("schedule", "remove", "--all", "--yes", *where)[1].splitlines()
    assert removed[-1] == "removed weekly (recurring_runs-1)"
    assert server.kept["recurring_runs"] == []
