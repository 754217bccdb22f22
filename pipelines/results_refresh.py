"""What a finished refresh leaves in its directory, and the training in it if it escalated to one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mec.bundle import MANIFEST, Bundle, open_bundle
from pipelines.results import (
    MADE_BY,
    REFRESH_MADE_BY,
    finish,
    link_bundles,
    places,
    step_facts,
    write_results,
)
from pipelines.watching import training_step

TRAINING = "training"  # directory of the training in that of the refresh
REFRESH_NUMBERS = ("auc_stale", "auc_refreshed", "logloss_stale", "logloss_refreshed")


def finish_refresh(
    outputs: Mapping[str, Any], reused: list[str], facts: Mapping[str, Any], out: Path
) -> tuple[dict[str, Any], Path]:
    """Leave the results of a refresh in its directory.

    Args:
        outputs: Output of the pipeline -> bundle directory; ``outcome``: the last step's JSON.
        reused: Steps whose earlier results were taken.
        facts: As in ``finish``.
        out: The run's directory.

    Returns:
        The summary: at the top level ``decision``, ``reasons``, ``auc_stale``, ``auc_refreshed``, ``logloss_stale``,
        ``logloss_refreshed``, ``rows_rewritten`` (0 unless promoted), and of what is in service now ``generation``,
        ``parent_generation``, ``codebook``, ``model`` and ``model_version``; ``evaluation`` as measured; ``steps``,
        ``lineage`` and ``bundles`` as in ``finish``; ``trained``, where the train pipeline ran too, as of
        ``finish_training``. And the path of the report.
    """
    outcome = json.loads(outputs["outcome"])
    trains_on = outcome.pop("trains_on", None)
    paths = {name: path for name, path in outputs.items() if name != "outcome"}
    # the branch that ran is the one whose step left a bundle last; Kubeflow names its directories by time
    last = max((out / "kfp").glob("*/*/outcome"), key=lambda path: path.parts[-3])
    paths["outcome"] = last
    publication = last.parents[1] / "publish-generation" / "publication"
    if outcome["decision"] == "promote":
        paths["publication"] = publication
    bundles = {name: open_bundle(path, verify=False) for name, path in paths.items()}
    evaluation = bundles["evaluation"].json("evaluation.json")
    made_by = REFRESH_MADE_BY | {"outcome": last.parent.name.replace("-", "_").rstrip("_0123456789")}
    trained = {} if trains_on is None else finish_training(trains_on, reused, facts, out)
    summary = {
        **facts,
        **{name: _value(evaluation[name]) for name in REFRESH_NUMBERS},
        **outcome,
        **_in_service(trained),
        "evaluation": evaluation,
        "steps": step_facts(paths, {name: step for name, step in made_by.items() if name in paths}, reused),
        **places(bundles),
        **({"trained": trained} if trained else {}),
    }
    link_bundles(paths, out / "bundles")
    return summary, write_results(summary, bundles["evaluation"].file("report.html").read_text(encoding="utf-8"), out)


def finish_training(data: Mapping[str, Any], reused: list[str], facts: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Leave the results of the training that a refresh escalated to in ``training/``, as a run of its own would.

    Args:
        data: Data section of the rows that it learned from.
        reused: Steps whose earlier results were taken, those of the training named as such.
        facts: As in ``finish``.
        out: The refresh's directory.

    Returns:
        What the refresh's summary has of it: ``out``, ``report``, ``model``, ``model_version``, ``decision`` of the
        gate, ``auc``, ``logloss``, ``codebook``, ``generation``, ``data``, ``data_version``, ``steps``, ``lineage`` and
        ``bundles``.
    """
    paths = _training_bundles(out / "kfp")
    own = [step for step in MADE_BY.values() if training_step(step) in reused]
    seconds = sum(fact["seconds"] for fact in step_facts(paths, MADE_BY, own).values() if not fact["reused"])
    directory = out / TRAINING
    content = open_bundle(paths["dataset"], verify=False).manifest.data_version
    known = {**facts, "out": str(directory), "seconds": round(seconds, 3), "data_version": content}
    known["config"] = {**facts["config"], "data": data}
    summary, report = finish(paths, own, known, directory)
    names = ("model", "model_version", "decision", "auc", "logloss", "codebook", "generation")
    kept = {name: summary[name] for name in (*names, "data_version", "steps", "lineage", "bundles")}
    return {"out": str(directory), "report": str(report), **kept, "data": data}


def _training_bundles(kfp: Path) -> dict[str, Path]:
    """The bundles of the training that ended last, from its registration back to what that was made of.

    Outputs of one branch alone cannot be outputs of a pipeline. Kubeflow names directories by time.
    """
    by_uuid: dict[str, Bundle] = {}
    for manifest in sorted(kfp.glob(f"*/*/*/{MANIFEST}")):
        bundle = open_bundle(manifest.parent, verify=False)
        by_uuid[bundle.uuid] = bundle
    last = max(kfp.glob("*/register/registration"), key=lambda path: path.parts[-3])
    found = {"registration": open_bundle(last, verify=False)}
    for child in ("registration", "evaluation", "vocabulary"):
        found |= {role: by_uuid[uuid] for role, uuid in found[child].manifest.parents.items() if role in MADE_BY}
    return {name: found[name].path for name in MADE_BY}


def _in_service(trained: Mapping[str, Any]) -> dict[str, Any]:
    """What is in service since the gate promoted a training; nothing if it did not."""
    if not trained or not trained["decision"]["promote"]:
        return {}
    return {name: trained[name] for name in ("model", "model_version", "generation", "codebook")} | {
        "parent_generation": None
    }


def _value(number: Any) -> float:
    """A number, or the middle of an interval."""
    return float(number["value"] if isinstance(number, Mapping) else number)
