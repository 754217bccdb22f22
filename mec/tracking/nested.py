"""Runs below a run: one MLflow run for each of many trainings that a step puts together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mec.tracking import runs
from mec.tracking.runs import TrackedRun

PARENT_RUN = "mlflow.parentRunId"  # what MLflow's own UI nests runs by


def log_child(
    parent: TrackedRun,
    *,
    name: str,
    params: Mapping[str, Any],
    metrics: Mapping[str, Any],
    tags: Mapping[str, str],
) -> str:
    """Log a finished training as a run below ``parent``; one that a repeated step logged before is gone on with.

    Args:
        parent: An open run, adopted or not.
        name: Of the child, unlike its siblings'.
        params: Nested names are joined by dots.
        metrics: Numbers, likewise.
        tags: Beside those that make it a child.

    Returns:
        The child's run id.
    """
    client = parent.client
    ours = f"tags.`{PARENT_RUN}` = '{parent.run_id}' and attributes.run_name = '{name.replace(chr(39), '')}'"
    earlier = client.search_runs([parent.experiment_id], ours, max_results=1)
    if earlier:
        run_id = str(earlier[0].info.run_id)
    else:
        made = client.create_run(parent.experiment_id, run_name=name, tags={PARENT_RUN: parent.run_id})
        run_id = str(made.info.run_id)
        runs.log_params(replace(parent, run_id=run_id), params)
    child = replace(parent, run_id=run_id)
    if metrics:
        runs.log_metrics(child, metrics)
    runs.log_tags(child, tags)
    client.set_terminated(run_id, "FINISHED")
    return run_id
