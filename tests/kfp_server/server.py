"""A Kubeflow Pipelines API in a thread, as far as mec calls it, made of the models of ``kfp_server_api``.

Bodies are read into the client's models and answers written from them, so that a wrong field shows. Like a real
server it deletes the runs in flight of a deleted recurring run, unless it is told to orphan them.
"""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kfp_server_api as api

PREFIX = "/apis/v2beta1/"
TOKEN = "a-token"
LISTS = {
    "experiments": api.V2beta1ListExperimentsResponse,
    "pipelines": api.V2beta1ListPipelinesResponse,
    "pipeline_versions": api.V2beta1ListPipelineVersionsResponse,
    "recurring_runs": api.V2beta1ListRecurringRunsResponse,
    "runs": api.V2beta1ListRunsResponse,
}
_CLIENT = api.ApiClient(api.Configuration())


def to_json(model: Any) -> bytes:
    return json.dumps(_CLIENT.sanitize_for_serialization(model)).encode()


def from_json(text: bytes, model: type) -> Any:
    raw = json.loads(text)
    assert set(raw) <= set(model.attribute_map.values()), f"{model.__name__} has no {set(raw)}"
    return _CLIENT.deserialize(SimpleNamespace(data=text), model.__name__)


class RefusedError(Exception):
    def __init__(self, status: int, message: str = "") -> None:
        self.status, self.message = status, message


class KubeflowServer:
    """State of the server, and what it was asked.

    Attributes:
        calls: Method and path of each request, in order.
        failures: (method, pattern in the path) -> statuses to answer before it works; 0 hangs.
        token: Bearer token that is asked for; None: none.
        page: Items per page of a listing at most.
        listens: Whether the server knows propagation policies.
    """

    def __init__(self) -> None:
        self.kept: dict[str, list[Any]] = {name: [] for name in LISTS}
        self.uploads: dict[str, str] = {}
        self.calls: list[str] = []
        self.failures: dict[tuple[str, str], list[int]] = {}
        self.token: str | None = None
        self.page = 100
        self.listens = True
        self._ids: Counter[str] = Counter()
        self._closing = threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> KubeflowServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    @property
    def changes(self) -> list[str]:
        """The requests that change something, paths without ids."""
        return [call for call in self.calls if not call.startswith("GET")]

    def start_run(self, recurring_run_id: str, state: str = "RUNNING") -> Any:
        """What the scheduler does when it is time."""
        run = api.V2beta1Run(run_id=self.new_id("run"), recurring_run_id=recurring_run_id, state=state)
        run.display_name = f"{recurring_run_id}-{run.run_id}"
        self.kept["runs"].append(run)
        return run

    def new_id(self, kind: str) -> str:
        self._ids[kind] += 1
        return f"{kind}-{self._ids[kind]}"

    def _handler(server) -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                url = urlsplit(self.path)
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                server.calls.append(f"{self.command} {self.path.removeprefix(PREFIX)}")
                try:
                    server._maybe_fail(self.command, url.path)
                    if server.token is not None and self.headers.get("authorization") != f"Bearer {server.token}":
                        raise RefusedError(401, "Unauthenticated")
                    query = {key: values[-1] for key, values in parse_qs(url.query).items()}
                    answer, status = server._answer(self.command, url.path.removeprefix(PREFIX), query, body), 200
                except RefusedError as refused:
                    status = refused.status
                    answer = to_json(api.GoogleRpcStatus(code=status, message=refused.message))
                self.send_response(status)
                if status in (302, 303):
                    self.send_header("Location", f"{server.url}/dex/auth")
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_GET = do_POST = do_DELETE = _answer  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def _maybe_fail(self, method: str, path: str) -> None:
        for (failing, part), statuses in self.failures.items():
            if failing == method and re.search(part, path) and statuses:
                status = statuses.pop(0)
                if status == 0:
                    self._closing.wait(3)
                    status = 500
                raise RefusedError(status, f"made to answer {status}")

    def _answer(self, method: str, path: str, query: dict[str, str], body: bytes) -> bytes:
        parts = path.replace(":", "/").split("/")
        match method, *parts:
            case "GET", "healthz":
                return to_json(api.V2beta1GetHealthzResponse(multi_user=False))
            case "GET", "dex" | "":
                return b"<html>log in</html>"
            case "GET", "pipelines", pipeline_id, "versions":
                return self._list("pipeline_versions", query, pipeline_id=pipeline_id)
            case "GET", "recurringruns":
                return self._list("recurring_runs", query)
            case "GET", ("experiments" | "pipelines" | "runs") as kind:
                return self._list(kind, query)
            case "GET", "runs", run_id:
                return to_json(self._one("runs", "run_id", run_id))
            case "POST", "experiments":
                return self._create("experiments", "experiment_id", from_json(body, api.V2beta1Experiment))
            case "POST", "pipelines":
                return self._create("pipelines", "pipeline_id", from_json(body, api.V2beta1Pipeline))
            case "POST", "pipelines", "upload_version":
                made = api.V2beta1PipelineVersion(pipeline_id=query["pipelineid"], display_name=query["display_name"])
                self._one("pipelines", "pipeline_id", made.pipeline_id)
                answer = self._create("pipeline_versions", "pipeline_version_id", made)
                self.uploads[made.pipeline_version_id] = _file_in(body)
                return answer
            case "POST", "runs":
                made = from_json(body, api.V2beta1Run)
                self._check_reference(made)
                made.state = "PENDING"
                return self._create("runs", "run_id", made)
            case "POST", "recurringruns":
                made = from_json(body, api.V2beta1RecurringRun)
                self._check_reference(made)
                return self._create("recurring_runs", "recurring_run_id", made)
            case "POST", "recurringruns", found, ("enable" | "disable") as mode:
                self._one("recurring_runs", "recurring_run_id", found).mode = mode.upper()
                return b"{}"
            case "DELETE", "recurringruns", found:
                self.kept["recurring_runs"].remove(self._one("recurring_runs", "recurring_run_id", found))
                if not (self.listens and query.get("propagation_policy") == "ORPHAN"):
                    alive = [run for run in self.kept["runs"] if run.recurring_run_id != found]
                    self.kept["runs"] = alive
                return b"{}"
        raise RefusedError(404, f"no {method} {path}")

    def _create(self, kind: str, id_field: str, made: Any) -> bytes:
        if kind in ("experiments", "pipelines", "pipeline_versions") and any(
            found.display_name == made.display_name for found in self.kept[kind]
        ):
            raise RefusedError(409, f"{made.display_name} is there already")
        setattr(made, id_field, self.new_id(kind))
        made.created_at = datetime.now(UTC)
        self.kept[kind].append(made)
        return to_json(made)

    def _one(self, kind: str, id_field: str, wanted: str) -> Any:
        for found in self.kept[kind]:
            if getattr(found, id_field) == wanted:
                return found
        raise RefusedError(404, f"{wanted} not found")

    def _check_reference(self, made: Any) -> None:
        reference = made.pipeline_version_reference
        version = self._one("pipeline_versions", "pipeline_version_id", reference.pipeline_version_id)
        assert version.pipeline_id == reference.pipeline_id
        self._one("experiments", "experiment_id", made.experiment_id)

    def _list(self, kind: str, query: dict[str, str], **own: str) -> bytes:
        found = list(self.kept[kind])
        if query.get("sort_by") == "created_at desc":
            found.reverse()
        for predicate in json.loads(query.get("filter", "{}")).get("predicates", []):
            assert predicate["operation"] == "EQUALS"
            found = [item for item in found if getattr(item, predicate["key"]) == predicate["stringValue"]]
        found = [item for item in found if all(getattr(item, key) == value for key, value in own.items())]
        start, size = int(query.get("page_token", 0)), min(self.page, int(query["page_size"]))
        more = str(start + size) if len(found) > start + size else ""
        return to_json(LISTS[kind](**{kind: found[start : start + size]}, next_page_token=more))


def _file_in(multipart: bytes) -> str:
    """The one file of a multipart body."""
    head, _, rest = multipart.partition(b"\r\n\r\n")
    return rest[: rest.rindex(b"\r\n" + head.split(b"\r\n")[0])].decode()
