"""Start one run on a cluster: compile, upload as a version, create the run, and watch it.

What a run needs is worked out by ``request_run``, for schedules as well: the compiled pipeline, whose parameters have
the config's settings as defaults, and values for the rest.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mec.config import RunConfig
from mec.data.readers import open_source
from mec.errors import ConfigError
from mec.refresh.arriving import new_rows
from pipelines.compiling import PIPELINES, cluster_yaml, pipeline_name, read_profile, read_yaml
from pipelines.kubeflow_api import KubeflowApi, pipeline_run
from pipelines.parameters import refresh_parameters, refuse_to_refresh
from pipelines.profiles import ClusterProfile
from pipelines.profiles_applied import refuse_unmounted
from pipelines.titles import TITLES

FINISHED = {"SUCCEEDED", "SKIPPED", "FAILED", "CANCELED"}
_MACRO = re.compile(r"\[\[(ScheduledTime|CurrentTime)(\.[^\[\]]+)?\]\]|\[\[(Index|RunUUID)\]\]")
_TYPES: dict[str, type | tuple[type, ...]] = {
    "STRING": str,
    "NUMBER_INTEGER": int,
    "NUMBER_DOUBLE": (int, float),
    "BOOLEAN": bool,
    "LIST": list,
    "STRUCT": dict,
}


@dataclass(frozen=True)
class RunRequest:
    """A pipeline and the values it is started with.

    Attributes:
        pipeline: Its name on the server, CONFIG-PIPELINE.
        text: Compiled YAML.
        parameters: Values where the YAML's defaults do not do.
        service_account: Of the run; None: the cluster's default.
    """

    pipeline: str
    text: str
    parameters: dict[str, Any]
    service_account: str | None


def request_run(
    config: RunConfig,
    *,
    image: str,
    profile: str | None,
    pipeline: str,
    values: Mapping[str, Any],
    data: str | None = None,
    scheduled: bool = False,
) -> RunRequest:
    """Work out what a run on a cluster needs.

    Args:
        config: Settings.
        image: Container image, ``NAME@sha256:…``.
        profile: Name or path of a cluster profile, or None.
        pipeline: One of ``PIPELINES``; ``train`` stands for ``train_backbones`` where the config lists several.
        values: Of parameters; text is read as the parameter's type.
        data: Path of the new rows of a refresh.
        scheduled: Whether a schedule starts it, so that ``[[ScheduledTime]]`` and the like are filled in.

    Raises:
        ConfigError: An unknown pipeline or parameter, a value of another type, one missing, or a macro out of place.
    """
    if pipeline not in PIPELINES:
        raise ConfigError("no such pipeline", found=pipeline, fix=f"use one of {', '.join(PIPELINES)}")
    name = pipeline_name(config) if pipeline == "train" else pipeline
    given = dict(values)
    if name == "refresh":
        refuse_to_refresh(config)
        if data is not None:
            rows = new_rows(config.data, data, config.refresh)
            shared = refresh_parameters(config, rows, "")
            given = {"new_data": shared["new_data"], "settings": shared["settings"], **given}
    elif data is not None:
        raise ConfigError("only a refresh has new rows", found=data, fix="change data.path of the config instead")
    elif config.data.path is None and "data_version" not in given:
        given["data_version"] = open_source(config.data, seed=config.seed).data_version
    cluster = read_profile(profile)
    texts = cluster_yaml(image, config, cluster, only=name)
    if name not in texts:
        fix = "give it a bakeoff section, with budgets and seeds" if name == "bakeoff" else "use train or refresh"
        raise ConfigError(f"the config does not ask for the pipeline {name}", fix=fix)
    parameters = checked_parameters(texts[name], given, scheduled=scheduled)
    if cluster is not None:
        refuse_unmounted([("store", given.get("store")), ("the new rows' path", data)], cluster)
    on_server = re.sub(r"[^a-z0-9-]+", "-", f"{config.name}-{name}".lower())
    return RunRequest(on_server, texts[name], parameters, _service_account(cluster))


def checked_parameters(text: str, values: Mapping[str, Any], *, scheduled: bool) -> dict[str, Any]:
    """Values of a compiled pipeline's parameters, each of its type.

    Raises:
        ConfigError: See ``request_run``.
    """
    known = read_yaml(text)[0]["root"]["inputDefinitions"]["parameters"]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ConfigError("the pipeline has no such parameter", found=", ".join(unknown), fix=f"use {', '.join(known)}")
    missing = [name for name, spec in known.items() if "defaultValue" not in spec and name not in values]
    if missing:
        told = "; ".join(f"{name} ({known[name]['description'].split('.')[0]})" for name in missing)
        raise ConfigError("the pipeline needs more parameters", found=f"no {', '.join(missing)}", fix=f"give {told}")
    checked = {name: _typed(name, value, known[name]["parameterType"]) for name, value in values.items()}
    for name, value in checked.items():
        _check_macros(name, value, scheduled=scheduled)
    return checked


def submit(api: KubeflowApi, request: RunRequest, *, name: str, experiment: str) -> str:
    """Upload the pipeline unless this very version is there, and create a run of it.

    Returns:
        The run's id.

    Raises:
        KubeflowError: The API refuses or fails.
    """
    ids = api.pipeline_version(request.pipeline, request.text, upload=True)
    body = pipeline_run(name, ids, request.parameters, request.service_account)
    body.experiment_id = api.experiment_id(experiment, create=True)
    made = api.call(f"create the run {name}", api.client.runs.run_service_create_run, body, repeat=False)
    return str(made.run_id)


def wait(api: KubeflowApi, run_id: str, say: Callable[[str], None], poll_s: float = 10.0) -> tuple[str, str]:
    """Wait until a run has ended.

    Args:
        api: Where it runs.
        run_id: Of the run.
        say: Gets a line whenever it gets on.
        poll_s: Seconds between looks.

    Returns:
        Its last state, such as SUCCEEDED, and what went wrong; empty if nothing did.
    """
    told = ""
    while True:
        run = api.call(f"look at the run {run_id}", api.client.runs.run_service_get_run, run_id, repeat=True)
        line = progress_line(run)
        if line != told:
            say(line)
            told = line
        if run.state in FINISHED:
            return run.state, _what_failed(run)
        time.sleep(poll_s)


def progress_line(run: Any) -> str:
    """State of a run in a few words; steps are counted as they start, for Kubeflow does not know them all before."""
    steps = {_STEPS[task.display_name]: task.state for task in _tasks(run) if task.display_name in _STEPS}
    done = sum(state in ("SUCCEEDED", "SKIPPED") for state in steps.values())
    now = ", ".join(title for title, state in steps.items() if state == "RUNNING")
    return f"{run.state or 'PENDING'}: {done} steps done{f', now: {now}' if now else ''}"


# the UI's names, and Kubeflow's own
_STEPS = {title: title for title in TITLES.values()} | {step.replace("_", "-"): title for step, title in TITLES.items()}


def _tasks(run: Any) -> list[Any]:
    return (run.run_details.task_details if run.run_details else None) or []


def _what_failed(run: Any) -> str:
    failed = [
        _STEPS[task.display_name] for task in _tasks(run) if task.state == "FAILED" and task.display_name in _STEPS
    ]
    message = [run.error.message] if run.error is not None and run.error.message else []
    return "; ".join([*(f"step failed: {title}" for title in failed), *message])


def _service_account(profile: ClusterProfile | None) -> str | None:
    return None if profile is None else profile.service_account


def _typed(name: str, value: Any, kind: str) -> Any:
    expected = _TYPES[kind]
    if isinstance(value, str) and kind != "STRING" and not _MACRO.search(value):
        try:
            value = json.loads(value)
        except ValueError:
            raise ConfigError(f"parameter {name} is no {kind}", found=value, fix="write it as JSON") from None
    if kind == "STRING" and isinstance(value, dict):
        value = json.dumps(value)
    if not isinstance(value, expected) or (isinstance(value, bool) and kind != "BOOLEAN"):
        fix = f"give a {kind}"
        if isinstance(value, str) and _MACRO.search(value):
            fix = "macros are filled into text only: give a value"
        raise ConfigError(f"parameter {name} is no {kind}", found=value, fix=fix)
    return value


def _check_macros(name: str, value: Any, *, scheduled: bool) -> None:
    text = value if isinstance(value, str) else json.dumps(value)
    if not scheduled:
        found = _MACRO.search(text)
        if found:
            fix = "only a schedule fills it in (mec schedule); give a value"
            raise ConfigError(f"parameter {name} holds a macro", found=found.group(), fix=fix)
        return
    if isinstance(value, str):
        text = _MACRO.sub("", text)
    if "[[" in text:
        fix = "use [[ScheduledTime]], [[ScheduledTime.2006-01-02]], [[CurrentTime]], [[Index]] or [[RunUUID]], in text"
        raise ConfigError(f"parameter {name} holds [[ where no macro can be filled in", found=text[:200], fix=fix)
