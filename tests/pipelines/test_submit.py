"""Submitting a run, waiting for it, and what is said when the API refuses, fails or is silent."""

from __future__ import annotations

import socket
from contextlib import contextmanager

import kfp_server_api
import pytest
import yaml
from click.testing import CliRunner

from mec.cli import main
from mec.config import parse_config
from mec.errors import ConfigError
from pipelines.kubeflow_api import Endpoint, connect
from pipelines.kubeflow_errors import KubeflowError
from pipelines.submitting import RunRequest, checked_parameters, request_run, submit, wait
from tests.kfp_server.server import TOKEN, KubeflowServer

IMAGE = "registry.example/mec@sha256:" + "0" * 64
REQUEST = RunRequest("shop-train", "pipelineInfo: {name: mec-train}\n", {"data_version": "7"}, None)
SHOP = {"name": "Shop_1", "store": "/mnt/mec", "data": {"path": "/mnt/mec/a.parquet", "categorical": ["user"]}}


@pytest.fixture(autouse=True)
def no_cluster_around(monkeypatch, tmp_path):
    for name in ("KF_PIPELINES_ENDPOINT", "KF_PIPELINES_UI_ENDPOINT", "KF_PIPELINES_SA_TOKEN_PATH", "KUBECONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("kfp.client.Client._LOCAL_KFP_CONTEXT", str(tmp_path / "context.json"))


@pytest.fixture
def server():
    with KubeflowServer() as running:
        yield running


@pytest.fixture
def api(server):
    return connect(Endpoint(server.url, backoff_s=0.01, timeout_s=5))


@contextmanager
def refused(*parts: str):
    with pytest.raises(KubeflowError) as caught:
        yield
    assert [part for part in parts if part not in str(caught.value)] == [], str(caught.value)


def test_a_run_is_created_from_a_version_that_is_uploaded_once(server, api):
    first, second = (submit(api, REQUEST, name=name, experiment="mec") for name in ("one", "two"))
    runs = {run.run_id: run for run in server.kept["runs"]}
    assert set(runs) == {first, second}
    assert server.uploads == {"pipeline_versions-1": REQUEST.text}
    assert len(server.kept["experiments"]) == len(server.kept["pipelines"]) == 1
    assert runs[first].runtime_config.parameters == {"data_version": "7"}
    assert runs[first].pipeline_version_reference.pipeline_version_id == "pipeline_versions-1"
    submit(api, RunRequest("shop-train", "pipelineInfo: {name: other}\n", {}, "runner"), name="three", experiment="b")
    assert len(server.uploads) == 2
    assert (server.kept["runs"][2].experiment_id, server.kept["runs"][2].service_account) == ("experiments-2", "runner")


@pytest.mark.parametrize(
    ("status", "parts"),
    [
        (400, ["the server answered 400", "made to answer 400", "compare its version"]),
        (401, ["the credentials are not accepted", "--token-file"]),
        (403, ["not allowed", "kubeflow-edit"]),
        (404, ["not found", "check --host"]),
        (409, ["conflicts with what is there"]),
    ],
)
def test_a_refusal_is_told_and_not_repeated(server, api, status, parts):
    server.failures["GET", "/pipelines$"] = [status] * 5
    before = len(server.calls)
    with refused("cannot look up the pipeline shop-train at http://127.0.0.1", *parts):
        submit(api, REQUEST, name="one", experiment="mec")
    assert len(server.calls) == before + 1


def test_a_log_in_page_is_no_answer(server, api):
    server.failures["GET", "/pipelines$"] = [302]
    with refused("it leads to a log-in page", "--token-file"):
        submit(api, REQUEST, name="one", experiment="mec")
    server.failures["GET", "/healthz"] = [302]
    with refused("cannot reach the API", "log-in page"):
        connect(Endpoint(server.url))


def test_reading_is_repeated_after_server_errors(server, api):
    server.failures["GET", "/pipelines$"] = [500, 503, 429]
    submit(api, REQUEST, name="one", experiment="mec")
    assert len(server.kept["runs"]) == 1
    server.failures["GET", "/pipelines$"] = [500] * 4
    with refused("the server answered 500", "made to answer 500", "deploy/ml-pipeline"):
        submit(api, REQUEST, name="two", experiment="mec")


def test_creating_is_never_repeated(server, api):
    server.failures["POST", "/runs$"] = [500, 500]
    with refused("cannot create the run one", "500"):
        submit(api, REQUEST, name="one", experiment="mec")
    assert server.failures["POST", "/runs$"] == [500]


def test_silence(server):
    server.failures["POST", "/runs$"] = [0]
    api = connect(Endpoint(server.url, backoff_s=0.01, timeout_s=1))
    with refused("no answer within 1 s", "it may have been done all the same"):
        submit(api, REQUEST, name="one", experiment="mec")
    server.failures["GET", "/pipelines$"] = [0]
    submit(api, REQUEST, name="two", experiment="mec")
    assert [run.display_name for run in server.kept["runs"]] == ["two"]


def test_nobody_there():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with refused(f"cannot reach the API at {url}: nothing answers", "check --host"):
        connect(Endpoint(url, backoff_s=0.01))
    with refused("no Kubeflow Pipelines API is named", "KF_PIPELINES_ENDPOINT"):
        connect(Endpoint())
    with refused("no scheme; found: kubeflow.example", "use https://kubeflow.example"):
        connect(Endpoint("kubeflow.example"))


def test_no_tls_where_it_is_asked_for(server):
    with refused("cannot reach the API at https://"):
        connect(Endpoint(server.url.replace("http:", "https:"), backoff_s=0.01))


def test_the_token_is_read_from_its_file_at_each_call(server, tmp_path, monkeypatch):
    server.token = TOKEN
    with refused("the credentials are not accepted", "Unauthenticated"):
        connect(Endpoint(server.url))
    with refused("there is no such token file"):
        connect(Endpoint(server.url, token_file=tmp_path / "none"))
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(file))
    api = connect(Endpoint(server.url))
    server.token = "another"
    file.write_text("another")
    submit(api, REQUEST, name="one", experiment="mec")


def test_a_namespace_is_asked_for(server):
    api = connect(Endpoint(server.url, namespace="team"))
    submit(api, REQUEST, name="one", experiment="mec")
    assert server.kept["experiments"][0].namespace == server.kept["pipelines"][0].namespace == "team"
    assert all("namespace=team" in call for call in server.calls if call.startswith(("GET exp", "GET pipelines?")))


def details(**states: str):
    tasks = [kfp_server_api.V2beta1PipelineTaskDetail(display_name=name, state=s) for name, s in states.items()]
    return kfp_server_api.V2beta1RunDetails(task_details=tasks)


@pytest.mark.parametrize(
    ("end", "problem"),
    [("SUCCEEDED", ""), ("FAILED", "step failed: Train the backbone; out of memory"), ("CANCELED", "")],
)
def test_waiting_tells_what_is_new_until_the_run_ends(server, api, end, problem):
    run_id = submit(api, REQUEST, name="one", experiment="mec")
    (run,) = server.kept["runs"]
    told = []

    def say(line: str) -> None:
        told.append(line)
        if len(told) == 1:
            run.state, run.run_details = "RUNNING", details(count="SUCCEEDED", root="RUNNING", train="RUNNING")
            server.failures["GET", "/runs/"] = [500]
        else:
            run.state, run.run_details = end, details(count="SUCCEEDED", train="FAILED" if problem else "SUCCEEDED")
            run.error = kfp_server_api.GoogleRpcStatus(message="out of memory") if problem else None

    assert wait(api, run_id, say, poll_s=0) == (end, problem)
    assert told[:2] == ["PENDING: 0 steps done", "RUNNING: 1 steps done, now: Train the backbone"]
    assert len(told) == 3


def test_what_a_run_needs_is_worked_out():
    request = request_run(
        parse_config(SHOP), image=IMAGE, profile="gpu", pipeline="train", values={"data_version": "7", "seed": "3"}
    )
    assert request.pipeline == "shop-1-train"
    assert request.parameters == {"data_version": "7", "seed": 3}
    defaults = yaml.load(request.text.split("\n---\n")[0], yaml.CSafeLoader)["root"]["inputDefinitions"]["parameters"]
    assert yaml.safe_load(defaults["train"]["defaultValue"])["device"] == "cuda"
    synthetic = request_run(
        parse_config({"store": "/mnt"}), image=IMAGE, profile=None, pipeline="train", values={}
    ).parameters
    assert set(synthetic) == {"data_version"}


def test_a_refresh_gets_its_rows():
    request = request_run(
        parse_config(SHOP),
        image=IMAGE,
        profile=None,
        pipeline="refresh",
        values={"data_version": "8"},
        data="/mnt/mec/b.parquet",
    )
    assert yaml.safe_load(request.parameters["new_data"])["path"] == "/mnt/mec/b.parquet"
    assert yaml.safe_load(request.parameters["settings"])["new_data"]["path"] == "/mnt/mec/b.parquet"
    with pytest.raises(ConfigError, match="data section of the train run does not say how to read the new rows"):
        request_run(
            parse_config({"store": "/mnt"}), image=IMAGE, profile=None, pipeline="refresh", values={}, data="/mnt/b"
        )


SPEC = """
root: {inputDefinitions: {parameters: {
  text: {parameterType: STRING, description: What. More.}, number: {parameterType: NUMBER_INTEGER, defaultValue: 1},
  items: {parameterType: LIST, defaultValue: []}, flag: {parameterType: BOOLEAN, defaultValue: true}}}}
"""


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, r"needs more parameters; found: no text; fix: give text \(What\)"),
        ({"text": "a", "nubmer": 1}, "no such parameter; found: nubmer; fix: use text, number, items, flag"),
        ({"text": "a", "number": "x"}, "number is no NUMBER_INTEGER; found: x"),
        ({"text": "a", "number": True}, "number is no NUMBER_INTEGER; found: True"),
        ({"text": "a", "items": "{}"}, "items is no LIST"),
        ({"text": "[[ScheduledTime]]"}, r"holds a macro; found: \[\[ScheduledTime\]\]; fix: only a schedule"),
        ({"text": "a", "items": ["[[Index]]"]}, "holds a macro"),
    ],
)
def test_wrong_parameters_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        checked_parameters(SPEC, values, scheduled=False)


def test_right_parameters_are_taken():
    given = {"text": {"a": [[1]]}, "number": "3", "items": "[[1, 2]]", "flag": "false"}
    wanted = {"text": '{"a": [[1]]}', "number": 3, "items": [[1, 2]], "flag": False}
    assert checked_parameters(SPEC, given, scheduled=False) == wanted


def test_the_command(server, tmp_path, monkeypatch):
    config = tmp_path / "shop.yaml"
    config.write_text(yaml.safe_dump(SHOP))
    monkeypatch.setattr("pipelines.submitting.cluster_yaml", lambda *_, only: {only: SPEC})
    arguments = ["submit", str(config), "--image", IMAGE, "--param", "text=a", "--host", server.url, "--wait"]
    started = server._create
    states = iter(["SUCCEEDED", "FAILED"])

    def finish(kind, id_field, made):
        answer = started(kind, id_field, made)
        if kind == "runs":
            made.state = next(states)
        return answer

    monkeypatch.setattr(server, "_create", finish)
    done = CliRunner().invoke(main, arguments)
    assert (done.exit_code, done.stdout) == (0, f"{server.url}/#/runs/details/runs-1\n")
    assert done.stderr.splitlines()[-1] == "SUCCEEDED"
    assert CliRunner().invoke(main, arguments).exit_code == 1
    wrong = CliRunner().invoke(main, [*arguments, "--param", "text"])
    assert (wrong.exit_code, "error: --param needs NAME=VALUE" in wrong.stderr) == (2, True)
