"""Bring the recurring runs of a cluster in line with schedules: what differs, and how it is changed.

Only recurring runs whose description ends with our mark are ever changed or removed. Kubeflow cannot change one, so it
is replaced: the old one is disabled, the new one created, the old one deleted. Deleting takes the runs in flight with
it (kubeflow/pipelines#12573) unless the server is told otherwise, and older servers do not listen; so a recurring run
with runs in flight stays, disabled, until a later change finds them ended.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from pipelines.kubeflow_api import KubeflowApi, equals, recurring_run, version_name
from pipelines.kubeflow_errors import KubeflowError
from pipelines.scheduling import Schedule
from pipelines.submitting import FINISHED

Action = Literal["create", "replace", "remove", "keep", "unchanged"]


@dataclass(frozen=True)
class Change:
    """What is to be done about one name.

    Attributes:
        action: ``keep``: nothing is left to do but to wait for runs in flight.
        name: Of the recurring run.
        why: What differs, for a person.
        schedule: What there is to be; None where it is removed.
        old: Recurring runs of the server to be removed.
    """

    action: Action
    name: str
    why: list[str] = field(default_factory=list)
    schedule: Schedule | None = None
    old: list[Any] = field(default_factory=list)


def mark(owner: str) -> str:
    """What ends the description of our recurring runs."""
    return f"[made by mec schedule, owner {owner}]"


def plan_changes(api: KubeflowApi, schedules: list[Schedule], owner: str) -> list[Change]:
    """What has to change on the server; nothing is changed.

    Args:
        api: The server.
        schedules: What there is to be.
        owner: Whose recurring runs are looked at; others are left alone.

    Raises:
        KubeflowError: The API fails, or a name is taken by a recurring run that is not ours.
    """
    ours, others = _recurring_runs(api, owner)
    changes = []
    for schedule in schedules:
        name = schedule.settings.name
        if name in others:
            fix = "rename the schedule, or delete the other one in the Kubeflow UI"
            raise KubeflowError(f"a recurring run of another owner has the name {name}", found=others[name], fix=fix)
        changes.append(_change(api, schedule, ours.pop(name, []), owner))
    for name, left in ours.items():
        changes.append(_removal(api, name, left, "no schedule of this name"))
    return changes


def plan_removal(api: KubeflowApi, names: list[str], owner: str) -> list[Change]:
    """The removal of some of our recurring runs, or of all of them where no name is given.

    Raises:
        KubeflowError: The API fails, or none of ours has such a name.
    """
    ours, _ = _recurring_runs(api, owner)
    unknown = sorted(set(names) - set(ours))
    if unknown:
        fix = f"use one of {', '.join(ours)}" if ours else f"there is none of the owner {owner}"
        raise KubeflowError("no such schedule on the server", found=", ".join(unknown), fix=fix)
    return [_removal(api, name, left, "asked for") for name, left in ours.items() if not names or name in names]


def apply_changes(api: KubeflowApi, changes: list[Change], owner: str, say: Callable[[str], None]) -> None:
    """Make the changes, one schedule after the other.

    Args:
        api: The server.
        changes: From ``plan_changes`` or ``plan_removal``.
        owner: As there.
        say: Gets a line for each thing done.

    Raises:
        KubeflowError: The API fails; changes before that are made, and what was replaced is enabled again.
    """
    for change in changes:
        if change.action in ("create", "replace"):
            assert change.schedule is not None
            _replace(api, change.schedule, change.old, owner)
            say(f"{change.action}d {change.name}")
        elif change.action == "remove":
            for old in change.old:
                _disable(api, old)
        for old in change.old:
            running = _in_flight(api, old)
            if running:
                say(f"{change.name}: the old one stays, disabled, until its runs have ended: {', '.join(running)}")
            else:
                _delete(api, old)
                say(f"removed {change.name} ({old.recurring_run_id})")


def _recurring_runs(api: KubeflowApi, owner: str) -> tuple[dict[str, list[Any]], dict[str, str]]:
    """Ours by name, newest first, and ids of all others by name."""
    function = api.client.recurring_runs.recurring_run_service_list_recurring_runs
    what, where = "list the recurring runs", {"namespace": api.namespace or None, "sort_by": "created_at desc"}
    ours: dict[str, list[Any]] = {}
    others = {}
    for found in api.listed(what, function, "recurring_runs", **where):
        if (found.description or "").endswith(mark(owner)):
            ours.setdefault(found.display_name, []).append(found)
        else:
            others[found.display_name] = found.recurring_run_id
    return ours, others


def _change(api: KubeflowApi, schedule: Schedule, found: list[Any], owner: str) -> Change:
    name, request = schedule.settings.name, schedule.request
    if not found:
        return Change("create", name, [f"pipeline {version_name(request.pipeline, request.text)}"], schedule)
    ids = api.pipeline_version(request.pipeline, request.text, upload=False)
    experiment = api.experiment_id(schedule.settings.experiment, create=False)
    wanted = _facts(_body(schedule, ids, experiment, owner))
    differences = {old.recurring_run_id: _differences(_facts(old), wanted) for old in found}
    same = [old for old in found if not differences[old.recurring_run_id]]
    if not same:
        # those that wait for their runs to end are disabled: the first that is not tells what is in service
        current = next((old for old in found if old.mode == "ENABLE"), found[0])
        return Change("replace", name, differences[current.recurring_run_id], schedule, found)
    left = [old for old in found if old is not same[0]]
    return _removal(api, name, left, "replaced before") if left else Change("unchanged", name, [], schedule)


def _removal(api: KubeflowApi, name: str, old: list[Any], why: str) -> Change:
    waiting = [run for found in old if found.mode == "DISABLE" for run in _in_flight(api, found)]
    if waiting and all(found.mode == "DISABLE" and _in_flight(api, found) for found in old):
        return Change("keep", name, [f"{why}; disabled, runs in flight: {', '.join(waiting)}"], None, [])
    return Change("remove", name, [why], None, old)


def _body(schedule: Schedule, ids: tuple[str | None, str | None], experiment: str | None, owner: str) -> Any:
    settings = schedule.settings
    return recurring_run(
        settings.name,
        f"{settings.description} {mark(owner)}".strip(),
        ids,
        schedule.request.parameters,
        cron=settings.cron,
        max_concurrency=settings.max_concurrency,
        catch_up=settings.catch_up,
        enabled=settings.enabled,
        experiment_id=experiment,
        service_account=schedule.request.service_account,
    )


def _facts(run: Any) -> dict[str, Any]:
    """What makes a recurring run what it is, in words a person knows."""
    reference, config, trigger = run.pipeline_version_reference, run.runtime_config, run.trigger
    cron = trigger.cron_schedule.cron if trigger is not None and trigger.cron_schedule is not None else None
    facts = {
        "description": run.description or "",
        "cron": cron,
        "pipeline version": reference.pipeline_version_id if reference is not None else None,
        "experiment": run.experiment_id,
        "max_concurrency": int(run.max_concurrency or 0),
        "catch_up": not run.no_catchup,
        "enabled": run.mode == "ENABLE",
        "service account": run.service_account,
    }
    parameters = (config.parameters if config is not None else None) or {}
    return facts | {f"parameters.{name}": value for name, value in parameters.items()}


def _differences(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    lines = []
    for name in sorted({*found, *wanted}):
        before, after = found.get(name), wanted.get(name)
        if name == "service account" and after is None:
            continue  # the server fills in its own
        if before != after:
            told = _short(after) if after is not None else "a new one" if name in wanted else "none"
            lines.append(f"{name}: {_short(before)} -> {told}")
    return lines


def _short(value: Any) -> str:
    text = "none" if value is None else value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _replace(api: KubeflowApi, schedule: Schedule, old: list[Any], owner: str) -> None:
    request = schedule.request
    ids = api.pipeline_version(request.pipeline, request.text, upload=True)
    experiment = api.experiment_id(schedule.settings.experiment, create=True)
    enabled = [found for found in old if found.mode == "ENABLE"]
    for found in enabled:  # or both would start a run at the same moment
        _disable(api, found)
    service = api.client.recurring_runs
    what = f"create the recurring run {schedule.settings.name}"
    try:
        body = _body(schedule, ids, experiment, owner)
        api.call(what, service.recurring_run_service_create_recurring_run, body, repeat=False)
    except KubeflowError:
        for found in enabled:
            enable = service.recurring_run_service_enable_recurring_run
            api.call(f"enable {found.display_name} again", enable, found.recurring_run_id, repeat=True)
        raise


def _disable(api: KubeflowApi, found: Any) -> None:
    if found.mode == "ENABLE":
        disable = api.client.recurring_runs.recurring_run_service_disable_recurring_run
        api.call(f"disable {found.display_name}", disable, found.recurring_run_id, repeat=True)


def _delete(api: KubeflowApi, found: Any) -> None:
    delete = api.client.recurring_runs.recurring_run_service_delete_recurring_run
    what = f"delete {found.display_name}"
    try:
        api.call(what, delete, found.recurring_run_id, propagation_policy="ORPHAN", repeat=True)
    except KubeflowError as error:
        if error.status != 404:  # an attempt before had done it
            raise


def _in_flight(api: KubeflowApi, found: Any) -> list[str]:
    """Names of the runs of a recurring run that have not ended; the newest hundred are looked at."""
    page = api.call(
        f"list the runs of {found.display_name}",
        api.client.runs.run_service_list_runs,
        page_size=100,
        sort_by="created_at desc",
        namespace=api.namespace or None,
        filter=equals("recurring_run_id", found.recurring_run_id),
        repeat=True,
    )
    return [run.display_name for run in page.runs or [] if run.state not in FINISHED]
