"""MLflow runs: one is adopted where the platform opened it, and opened where it did not.

Everything goes through ``MlflowClient`` with explicit addresses: no global tracking address, no
active run, so that whatever else the process does with MLflow stays as it is.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from mec.config import TrackingConfig
from mec.errors import TrackingError

if TYPE_CHECKING:
    from mlflow import MlflowClient

RUN_TAG = "mec.run"  # tag of a run that we opened: the pipeline run it belongs to
LOCK_WAIT_S = 120.0  # the first opening of a database takes 10 s
_LOCK_FILE = "mlflow.lock"
_PER_REQUEST = 100  # MLflow's limit on params and on tags of one request
_MAX_VALUE = 5_000  # characters; MLflow refuses params over 6,000 and tags over 8,000
_ENVIRONMENT = {  # while a run is open, where the user set nothing else
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",  # seconds
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


@dataclass(frozen=True)
class TrackedRun:
    """An open MLflow run.

    client: bound to ``uri`` for tracking and registry.
    adopted: the platform opened it, so the platform ends it.
    """

    client: MlflowClient
    uri: str
    run_id: str
    experiment: str
    experiment_id: str
    adopted: bool


def tracking_uri(tracking: TrackingConfig, store: Path) -> str:
    """Address of the tracking server: the setting, else MLFLOW_TRACKING_URI, else sqlite under ``store``.

    Raises:
        TrackingError: A file store, which MLflow 3 refuses.
    """
    uri = tracking.uri or os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        return f"sqlite:///{store.resolve() / 'mlflow.db'}"
    if uri.startswith("file:") or "://" not in uri:
        raise TrackingError(
            "MLflow keeps no runs in plain files any more",
            found=uri,
            fix="set tracking.uri to sqlite:////absolute/path/mlflow.db or to a server's http(s) address",
        )
    return uri


@contextmanager
def open_run(tracking: TrackingConfig, *, store: Path, run_name: str, run_id: str) -> Iterator[TrackedRun]:
    """Open an MLflow run, or adopt the one that MLFLOW_RUN_ID names.

    A run that we opened ends FINISHED or, when the block raises, FAILED; a repeated step goes on in the
    run that its earlier attempt opened. An adopted run is left open.

    Args:
        tracking: Address and experiment.
        store: Directory of the embedded sqlite store.
        run_name: Shown in MLflow; one pipeline run has one MLflow run per name.
        run_id: The pipeline run that this belongs to.

    Raises:
        TrackingError: The server does not answer, or does not have what was asked for.
    """
    uri = tracking_uri(tracking, store)
    with tracking_errors(uri):
        from mlflow.exceptions import MlflowException

        client = _client(uri)
        adopted = os.environ.get("MLFLOW_RUN_ID")
        if adopted:
            run = _adopt(client, uri, adopted)
        else:
            experiment = tracking.experiment, _experiment_id(client, uri, tracking.experiment, store)
            run = _start(client, uri, experiment, run_name, run_id)
        try:
            yield run
        except BaseException:
            if not run.adopted:
                with suppress(MlflowException):  # the block's own error says more than a lost server
                    client.set_terminated(run.run_id, "FAILED")
            raise
        if not run.adopted:
            client.set_terminated(run.run_id, "FINISHED")


@contextmanager
def connected(tracking: TrackingConfig, *, store: Path) -> Iterator[TrackedRun]:
    """Reach the tracking server without a run, to look things up in the registry.

    Raises:
        TrackingError: The server does not answer, or the sqlite database is not there.
    """
    uri = tracking_uri(tracking, store)
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        raise TrackingError(
            "there is no MLflow database, so nothing was ever registered",
            found=uri,
            fix="name the store of the train run",
        )
    with tracking_errors(uri):
        yield TrackedRun(_client(uri), uri, run_id="", experiment="", experiment_id="", adopted=True)


@contextmanager
def tracking_errors(uri: str) -> Iterator[None]:
    """Give MLflow calls a time limit, and turn their failures into a ``TrackingError`` that names the server."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    os.environ.update({name: value for name, value in _ENVIRONMENT.items() if before[name] is None})
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError) as error:
        raise TrackingError(f"MLflow at {uri} failed", found=_first_lines(error), fix=_fix(uri)) from error
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]


def log_params(run: TrackedRun, config: Mapping[str, Any]) -> None:
    """Log a config as params with dotted keys, 100 per request."""
    from mlflow.entities import Param

    flat = sorted(flatten(config).items())
    for start in range(0, len(flat), _PER_REQUEST):
        params = [Param(_key(k), _short(v)) for k, v in flat[start : start + _PER_REQUEST]]
        run.client.log_batch(run.run_id, params=params)


def log_metrics(run: TrackedRun, evaluation: Mapping[str, Any]) -> None:
    """Log every number of an evaluation in one request; names of nested ones are joined by dots."""
    from mlflow.entities import Metric

    now_ms = int(time.time() * 1000)
    metrics = [
        Metric(_key(name), float(value), now_ms, 0)
        for name, value in sorted(flatten(evaluation).items())
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    run.client.log_batch(run.run_id, metrics=metrics)


def log_tags(run: TrackedRun, tags: Mapping[str, str]) -> None:
    """Set tags in one request."""
    from mlflow.entities import RunTag

    run.client.log_batch(run.run_id, tags=[RunTag(_key(name), _short(value)) for name, value in sorted(tags.items())])


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings to one with dotted keys; lists become JSON text."""
    flat: dict[str, Any] = {}
    for name, item in value.items():
        if isinstance(item, Mapping):
            flat.update(flatten(item, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = json.dumps(item) if isinstance(item, list | tuple) else item
    return flat


def _client(uri: str) -> MlflowClient:
    from mlflow import MlflowClient

    if not uri.startswith("sqlite:///"):
        return MlflowClient(tracking_uri=uri, registry_uri=uri)
    folder = _sqlite_folder(uri)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # MLflow makes and upgrades the tables of both its stores at first use; two processes at once break each other
        with FileLock(str(folder / _LOCK_FILE), timeout=LOCK_WAIT_S):
            client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            client.search_experiments(max_results=1)
            client.search_registered_models(max_results=1)
            return client
    except Timeout:
        raise TrackingError(
            f"another process holds {folder / _LOCK_FILE} while it opens the MLflow database",
            found=f"no end after {LOCK_WAIT_S:g} s",
            fix="wait until it ends, then run this step again",
        ) from None
    except OSError as error:
        raise TrackingError(
            f"cannot make the directory {folder} of the MLflow database",
            found=error.strerror,
            fix="set store, or tracking.uri, to a place that you may write to",
        ) from None


def _adopt(client: MlflowClient, uri: str, run_id: str) -> TrackedRun:
    from mlflow.exceptions import MlflowException

    try:
        info = client.get_run(run_id).info
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise TrackingError(
            f"MLflow at {uri} has no run of the id in MLFLOW_RUN_ID",
            found=run_id,
            fix="leave tracking.uri null, so that MLFLOW_TRACKING_URI is used, or unset MLFLOW_RUN_ID",
        ) from None
    experiment = client.get_experiment(info.experiment_id)
    return TrackedRun(client, uri, run_id, experiment.name, info.experiment_id, adopted=True)


def _start(client: MlflowClient, uri: str, experiment: tuple[str, str], run_name: str, run_id: str) -> TrackedRun:
    name, experiment_id = experiment
    # the branches of one pipeline run have runs of their own, told apart by name
    ours = f"tags.`{RUN_TAG}` = '{_quoted(run_id)}' and attributes.run_name = '{_quoted(run_name)}'"
    earlier = client.search_runs([experiment_id], ours, max_results=1)
    if earlier:
        found = earlier[0].info.run_id
        client.update_run(found, status="RUNNING")
    else:
        found = client.create_run(experiment_id, run_name=run_name, tags={RUN_TAG: run_id}).info.run_id
    return TrackedRun(client, uri, found, name, experiment_id, adopted=False)


def _experiment_id(client: MlflowClient, uri: str, name: str, store: Path) -> str:
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return str(client.create_experiment(name, artifact_location=_artifact_location(uri, store)))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            experiment = client.get_experiment_by_name(name)  # another run made it meanwhile
            assert experiment is not None
    if experiment.lifecycle_stage != "active":
        raise TrackingError(
            f"the experiment {name!r} at {uri} is deleted",
            found=experiment.lifecycle_stage,
            fix="restore it (mlflow experiments restore) or set tracking.experiment to another name",
        )
    return str(experiment.experiment_id)


def _artifact_location(uri: str, store: Path) -> str | None:
    """Where the files of an experiment's runs lie; None leaves it to the tracking server."""
    from mlflow.store.db.db_types import DATABASE_ENGINES

    if uri.startswith("sqlite:///"):
        return str(_sqlite_folder(uri) / "mlartifacts")
    engine = uri.split(":", 1)[0].split("+", 1)[0]  # postgresql+psycopg://… is Postgres too
    return str(store.resolve() / "mlartifacts") if engine in DATABASE_ENGINES else None


def _sqlite_folder(uri: str) -> Path:
    return Path(uri.removeprefix("sqlite:///")).resolve().parent


def _fix(uri: str) -> str:
    if uri.startswith("sqlite:"):
        return "check that its directory is writable and that this MLflow made it (else: mlflow db upgrade URI)"
    return "check that it runs and that tracking.uri or MLFLOW_TRACKING_URI names it, or set tracking.enabled=false"


def _first_lines(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _key(name: str) -> str:
    """A name with only the characters that MLflow takes."""
    return re.sub(r"[^\w\-./ ]", "_", name)[:250]


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= _MAX_VALUE else text[: _MAX_VALUE - 1] + "…"


def _quoted(text: str) -> str:
    return text.replace("'", "")
