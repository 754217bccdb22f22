"""Speak to a Kubeflow Pipelines API: connect, call, and say what went wrong and what to do about it.

``kfp.Client`` connects. Its own variables are read: KF_PIPELINES_ENDPOINT (the API), KF_PIPELINES_UI_ENDPOINT (links)
and KF_PIPELINES_SA_TOKEN_PATH (a file with a token); without an endpoint it looks for a cluster around it, then for a
kubeconfig. Calls that change nothing when repeated are repeated after server errors and timeouts; others are not.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kfp_server_api  # type: ignore[import-untyped]
import urllib3
from kfp.client import KF_PIPELINES_SA_TOKEN_ENV, Client, ServiceAccountTokenVolumeCredentials
from urllib3.exceptions import HTTPError, SSLError

from pipelines.kubeflow_errors import GIVE_TOKEN, KubeflowError, reason_of, refused, unanswered

ENDPOINT, UI_ENDPOINT = "KF_PIPELINES_ENDPOINT", "KF_PIPELINES_UI_ENDPOINT"
_PAGE = 100
_REPEATABLE = {429, 500, 502, 503, 504}


@dataclass(frozen=True)
class Endpoint:
    """Where the API is and who asks.

    Attributes:
        host: URL; None: KF_PIPELINES_ENDPOINT, else the cluster around, else the kubeconfig.
        namespace: Of a multi-user Kubeflow; None: a single-user one, or that of the pod.
        token_file: File with a bearer token, read at each call; None: KF_PIPELINES_SA_TOKEN_PATH, else none.
        ca_file: Certificates to trust, as PEM; None: those that come with Python's certifi.
        timeout_s: Seconds to wait for an answer.
        attempts: Of calls that may be repeated.
        backoff_s: Seconds before the second attempt; twice as many before each later one.
    """

    host: str | None = None
    namespace: str | None = None
    token_file: Path | None = None
    ca_file: Path | None = None
    timeout_s: int = 30
    attempts: int = 4
    backoff_s: float = 1.0


class _QuietClient(Client):  # type: ignore[misc]
    """``kfp.Client`` without its five attempts at the health check, which hide what is wrong."""

    def __init__(self, timeout_s: int, **given: Any) -> None:
        self._timeout_s = timeout_s
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # that it speaks to servers of version 2 only
            super().__init__(**given)

    def get_kfp_healthz(self, sleep_duration: int = 0) -> Any:
        pools = self._healthz_api.api_client.rest_client.pool_manager
        # a redirect leads to a log-in page, which would be taken for an empty answer
        pools.connection_pool_kw["retries"] = urllib3.Retry(0, redirect=False)
        return self._healthz_api.healthz_service_get_healthz(_request_timeout=self._timeout_s)


class KubeflowApi:
    """The calls that mec makes; see ``connect``."""

    def __init__(self, client: Any, endpoint: Endpoint, url: str, namespace: str) -> None:
        self.client, self.endpoint, self.url, self.namespace = client, endpoint, url, namespace

    def call(self, what: str, function: Callable[..., Any], *args: Any, repeat: bool, **kwargs: Any) -> Any:
        """Make one call.

        Args:
            what: What it is for, as in "cannot WHAT".
            function: Of the API.
            args: Its arguments.
            repeat: Whether it may be made again after a server error or a timeout.
            kwargs: Its other arguments; those that are None are left out.

        Raises:
            KubeflowError: It was refused, it failed, or there was no answer.
        """
        given = {key: value for key, value in kwargs.items() if value is not None}
        attempts = self.endpoint.attempts if repeat else 1
        for attempt in range(attempts):
            last = attempt + 1 == attempts
            try:
                return function(*args, _request_timeout=self.endpoint.timeout_s, **given)
            except kfp_server_api.ApiException as error:
                if last or error.status not in _REPEATABLE:
                    raise refused(what, error, self.url, self.namespace) from None
            except HTTPError as error:
                if last or isinstance(reason_of(error), SSLError):
                    raise unanswered(what, error, self.url, repeat, self.endpoint.timeout_s) from None
            time.sleep(self.endpoint.backoff_s * 2**attempt)
        raise AssertionError("an attempt returns or raises")

    def listed(self, what: str, function: Callable[..., Any], field: str, **kwargs: Any) -> Iterator[Any]:
        """All items of a listing, page by page."""
        token = ""
        while True:
            page = self.call(what, function, repeat=True, page_size=_PAGE, page_token=token or None, **kwargs)
            yield from getattr(page, field) or []
            token = page.next_page_token
            if not token:
                return

    def experiment_id(self, name: str, *, create: bool) -> str | None:
        """Id of an experiment by name; None if there is none and none is to be created."""
        service = self.client.experiments
        shared = {"namespace": self.namespace or None, "filter": equals("display_name", name)}
        what = f"look up the experiment {name}"
        for found in self.listed(what, service.experiment_service_list_experiments, "experiments", **shared):
            return str(found.experiment_id)
        if not create:
            return None
        body = kfp_server_api.V2beta1Experiment(display_name=name, namespace=self.namespace or None)
        function = service.experiment_service_create_experiment
        return str(self.call(f"create the experiment {name}", function, body, repeat=False).experiment_id)

    def pipeline_version(self, pipeline: str, text: str, *, upload: bool) -> tuple[str | None, str | None]:
        """Ids of a pipeline and of the version that is a YAML text, by the text's hash.

        Args:
            pipeline: Name of the pipeline on the server.
            text: YAML.
            upload: Whether to create what is not there.

        Returns:
            Pipeline id and version id; None for what is not there.
        """
        service = self.client.pipelines
        shared = {"namespace": self.namespace or None, "filter": equals("display_name", pipeline)}
        what = f"look up the pipeline {pipeline}"
        listed = self.listed(what, service.pipeline_service_list_pipelines, "pipelines", **shared)
        pipeline_id = next((str(found.pipeline_id) for found in listed), None)
        if pipeline_id is None:
            if not upload:
                return None, None
            body = kfp_server_api.V2beta1Pipeline(
                name=pipeline, display_name=pipeline, namespace=self.namespace or None
            )
            function = service.pipeline_service_create_pipeline
            made = self.call(f"create the pipeline {pipeline}", function, body, repeat=False)
            pipeline_id = str(made.pipeline_id)
        version = version_name(pipeline, text)
        function, named = service.pipeline_service_list_pipeline_versions, equals("display_name", version)
        what = f"look up the version {version}"
        for found in self.listed(what, function, "pipeline_versions", pipeline_id=pipeline_id, filter=named):
            return pipeline_id, str(found.pipeline_version_id)
        return pipeline_id, self._upload(pipeline_id, version, text) if upload else None

    def _upload(self, pipeline_id: str, version: str, text: str) -> str:
        with tempfile.TemporaryDirectory(prefix="mec-") as directory:
            file = Path(directory, "pipeline.yaml")
            file.write_text(text, encoding="utf-8")
            made = self.call(
                f"upload the pipeline version {version}",
                self.client.pipeline_uploads.upload_pipeline_version,
                str(file),
                name=version,
                display_name=version,
                pipelineid=pipeline_id,
                repeat=False,
            )
        return str(made.pipeline_version_id)

    def run_url(self, run_id: str) -> str:
        """Address of a run in the Kubeflow UI."""
        base = (os.environ.get(UI_ENDPOINT) or self.url).rstrip("/")
        return f"{base}/#/runs/details/{run_id}"


def connect(endpoint: Endpoint) -> KubeflowApi:
    """Connect to the API and see that it answers.

    Raises:
        KubeflowError: No host is known, the token's file is not there, or the API does not answer or refuses.
    """
    host = endpoint.host or os.environ.get(ENDPOINT)
    if host is not None and "://" not in host:
        raise KubeflowError("the API's address has no scheme", found=host, fix=f"use https://{host}")
    token_file = endpoint.token_file or os.environ.get(KF_PIPELINES_SA_TOKEN_ENV)
    if token_file is not None and not Path(token_file).is_file():
        raise KubeflowError("there is no such token file", found=token_file, fix=GIVE_TOKEN)
    kubeconfig = Path(os.environ.get("KUBECONFIG") or Path.home() / ".kube" / "config")
    if host is None and "KUBERNETES_SERVICE_HOST" not in os.environ and not kubeconfig.is_file():
        fix = f"pass --host or set {ENDPOINT}; kubectl port-forward -n kubeflow svc/ml-pipeline-ui 8080:80 makes one"
        raise KubeflowError("no Kubeflow Pipelines API is named", fix=fix)
    given: dict[str, Any] = {} if endpoint.namespace is None else {"namespace": endpoint.namespace}
    if token_file is not None:
        given["credentials"] = ServiceAccountTokenVolumeCredentials(str(token_file))
    if endpoint.ca_file is not None:
        given["ssl_ca_cert"] = str(endpoint.ca_file)
    # the client asks for the server's health when it is made without a namespace
    unnamed = KubeflowApi(None, endpoint, host or "the cluster", endpoint.namespace or "")
    client = unnamed.call(
        "reach the API", lambda **_: _QuietClient(endpoint.timeout_s, host=host, **given), repeat=True
    )
    api = KubeflowApi(client, endpoint, str(client._existing_config.host), str(client.get_user_namespace() or ""))
    api.call("reach the API", lambda **_: client.get_kfp_healthz(), repeat=True)
    return api


def pipeline_run(
    name: str, version: tuple[str | None, str | None], parameters: dict[str, Any], service_account: str | None
) -> Any:
    """Body of a run of a pipeline version; ``version`` is the pipeline's id and its own."""
    reference = kfp_server_api.V2beta1PipelineVersionReference(pipeline_id=version[0], pipeline_version_id=version[1])
    return kfp_server_api.V2beta1Run(
        display_name=name,
        pipeline_version_reference=reference,
        runtime_config=kfp_server_api.V2beta1RuntimeConfig(parameters=parameters),
        service_account=service_account,
    )


def recurring_run(
    name: str,
    description: str,
    version: tuple[str | None, str | None],
    parameters: dict[str, Any],
    *,
    cron: str,
    max_concurrency: int,
    catch_up: bool,
    enabled: bool,
    experiment_id: str | None,
    service_account: str | None,
) -> Any:
    """Body of a recurring run of a pipeline version; each step's own setting says whether its result is reused."""
    run = pipeline_run(name, version, parameters, service_account)
    modes = kfp_server_api.RecurringRunMode
    return kfp_server_api.V2beta1RecurringRun(
        display_name=name,
        description=description,
        pipeline_version_reference=run.pipeline_version_reference,
        runtime_config=run.runtime_config,
        trigger=kfp_server_api.V2beta1Trigger(cron_schedule=kfp_server_api.V2beta1CronSchedule(cron=cron)),
        max_concurrency=str(max_concurrency),
        no_catchup=not catch_up,
        mode=modes.ENABLE if enabled else modes.DISABLE,
        experiment_id=experiment_id,
        service_account=service_account,
    )


def version_name(pipeline: str, text: str) -> str:
    """Name of the version that is a YAML text: the same text, the same version."""
    return f"{pipeline}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def equals(key: str, value: str) -> str:
    """Filter of a listing."""
    return json.dumps({"predicates": [{"operation": "EQUALS", "key": key, "stringValue": value}]})
