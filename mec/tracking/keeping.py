"""The last step of a refresh that is not promoted: keep what is in service and say why; on escalation, what to run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mec.bundle import open_bundle, write_bundle, write_json
from mec.config import TrackingConfig
from mec.refresh.deciding import DECISION
from mec.steps import step
from mec.tracking import runs
from mec.tracking.champion_step import Base
from mec.tracking.generations import ESCALATED_BY
from mec.tracking.promoting import OUTCOME, log_results
from mec.tracking.registry import ModelRegistry
from mec.tracking.training_rows import TrainingRows
from mec.tracking.waiting import waiting_tag

ESCALATION = "escalation.json"


def keep_champion_step(
    *,
    tracking: TrackingConfig,
    name: str,
    store: Path,
    rows: TrainingRows,
    then_train: bool,
    champion: Path,
    evaluation: Path,
    decision: Path,
    run_id: str,
    out: Path,
) -> tuple[str, str]:
    """Leave what is in service as it is, and log why and which rows wait; say so where a new space is called for.

    Args:
        tracking: Server and experiment.
        name: The run's name, and that of the config to train.
        store: Directory of the embedded stores.
        rows: The new ones, which no version has learned from now, and the train run's.
        then_train: Whether the train pipeline follows where the decision is to escalate.
        champion: "champion" bundle: what stays in service.
        evaluation: "evaluation" bundle of the refresh.
        decision: "decision" bundle: keep or escalate.
        run_id: Of the pipeline run.
        out: Directory of the "outcome" bundle: ``outcome.json`` and, on escalation, ``escalation.json``.

    Returns:
        Data section of the rows to train on, as JSON, and their identity; both empty where no training follows.

    Raises:
        TrackingError: The server does not answer.
        ConfigError, DataError: The version is marked, but the rows to train on cannot be read together; see
            ``TrainingRows.section``.
    """
    with step("keep_champion", out) as record:
        base = Base.open(champion)
        opened = {"evaluation": open_bundle(evaluation, "evaluation"), "decision": open_bundle(decision, "decision")}
        decided, numbers = opened["decision"].json(DECISION), opened["evaluation"].json("evaluation.json")
        outcome = {
            "decision": decided["action"],
            "reasons": decided["reasons"],
            "model": base.model,
            "model_version": int(base.version),
            "generation": base.generation,
            "parent_generation": base.parent_generation,
            "codebook": base.codebook,
            "rows_rewritten": 0,
        }
        with write_bundle(out, "outcome", parents={"champion": base.bundle, **opened}) as draft:
            with runs.open_run(tracking, store=store, run_name=f"{name} refresh", run_id=run_id) as run:
                runs.log_metrics(run, numbers)
                log_results(run, opened["evaluation"], opened["decision"])
                runs.log_tags(run, {"decision": decided["action"], "refreshed_version": base.version})
                runs.log_tags(run, {"decision_reasons": json.dumps(decided["reasons"]), "model": base.model})
                outcome["run_id"] = run.run_id
                registry = ModelRegistry(run, base.model, create=False)
                version = registry.version(base.version)
                tags = waiting_tag(
                    version=version,
                    data_version=base.data_version,
                    content=opened["evaluation"].manifest.data_version,
                    paths=rows.new.paths,
                    decision=decided["action"],
                    reason=decided["reasons"][0],
                    run=run.run_id,
                )
                escalates = decided["action"] == "escalate"
                registry.tag(version, tags | ({ESCALATED_BY: run.run_id} if escalates else {}))
                section = content = ""
                if escalates:
                    places = rows.paths(registry, version, base.data_version)
                    write_json(draft.path / ESCALATION, escalation(base, decided, rows.new.paths, places))
                if escalates and then_train:
                    found, content = rows.section(registry, version, base.data_version)
                    section = found.model_dump_json()
                    outcome["trains_on"] = found.model_dump(mode="json")
            write_json(draft.path / OUTCOME, outcome)
        record.summary = f"version {base.version} stays in service ({decided['action']}): {decided['reasons'][0]}"
    return section, content


def escalation(
    base: Base, decided: Mapping[str, Any], new_rows: Sequence[str], all_rows: Sequence[str]
) -> dict[str, Any]:
    """What to run where a refresh is not enough, for a person or for whatever submits pipelines."""
    return {
        "pipeline": "mec-train",
        "command": "mec run CONFIG, with data.path the list all_rows and data.split as for new rows (refresh.split)",
        "new_rows": list(new_rows),
        "all_rows": list(all_rows),
        "model": base.model,
        "champion": int(base.version),
        "reasons": decided["reasons"],
        "numbers": decided["numbers"],
    }
