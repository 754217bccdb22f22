"""How each method of the frontier is trained: of a few settings the one of the best validation AUC, by table.

Methods that start from random rows need very different L2 than those that start from the FM's, and one for all would
decide the comparison. So every method has the same number of trials: three weights of the L2. PQ and OPQ, whose
codewords are not trained (trained ones are LightFM's), have three weights of values in k-means; MEC chooses between
frozen codewords and trained ones of two weights of the L2. DHE, which has no table and takes 22 times as long, keeps
the common one. Trials are cells of seed 0 at 8x, or at 2x or 1x where that is beyond a method;
the choice holds for all budgets and seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bakeoff_study.workspace import Job
from mec.bakeoff.cells import plan_cells
from mec.config import RunConfig

BUDGETS = ("8x", "2x", "1x")
L2_POINTS = (0.0, 0.003, 0.02)
_BY_WEIGHTS = tuple({"settings": {"weights": weights}} for weights in ("none", "sqrt", "log2"))
_WARM = {"settings": {"codewords": "warm"}}
# method -> trials: what goes into bakeoff.training and bakeoff.settings
_POINTS: dict[str, tuple[dict[str, dict[str, Any]], ...]] = {
    "mec": ({}, _WARM | {"training": {"l2": 0.003}}, _WARM | {"training": {"l2": 0.02}}),
    "pq": _BY_WEIGHTS,
    "opq": _BY_WEIGHTS,
    "dhe": ({},),
}
_BY_L2 = tuple({"training": {"l2": l2}} for l2 in L2_POINTS)


def trial_jobs(config: RunConfig, method: str, budget: str, work: Path) -> list[Job]:
    """The cells of a method's trials, in the order of its points; each is the frontier's own cell of that point."""
    one = {"methods": (method,), "budgets": (budget,), "seeds": 1, "reference": False}
    configs = [_with(config, method, point, **one) for point in _points(method)]
    return [Job(trial, plan_cells(trial)[0], work) for trial in configs]


def tuned(config: RunConfig, methods: Sequence[str], work: Path) -> RunConfig:
    """The config with the best point of every method whose trials are there; others stay as they are."""
    points = {method: _best(config, method, work) for method in methods}
    for method, point in points.items():
        config = config if point is None else _with(config, method, point)
    return config


def beyond(config: RunConfig, method: str, budget: str, work: Path) -> bool:
    """Whether a method's trials were run, and none came to an AUC."""
    results = [job.result() for job in trial_jobs(config, method, budget, work)]
    return all(result is not None and _valid_auc(result) < 0 for result in results)


def choices_table(config: RunConfig, methods: Sequence[str], work: Path) -> list[str]:
    """Markdown lines: what was chosen for each method; ``config`` is that from before ``tuned``."""
    lines = ["| method | chosen on seed 0 |", "|---|---|"]
    for method in methods:
        found = _best(config, method, work)
        said = "not tried" if found is None else _said(found)
        lines.append(f"| {method} | {said if len(_points(method)) > 1 else 'has one setting'} |")
    return lines


def _said(point: Mapping[str, dict[str, Any]]) -> str:
    given = {**point.get("settings", {}), **point.get("training", {})}
    return ", ".join(f"{key} {value}" for key, value in given.items()) or "as the table's config says"


def _best(config: RunConfig, method: str, work: Path) -> Mapping[str, dict[str, Any]] | None:
    """The point of the best validation AUC at the first budget that has one; None before all its trials were run."""
    for budget in BUDGETS:
        results = [job.result() for job in trial_jobs(config, method, budget, work)]
        aucs = [_valid_auc(result) for result in results if result is not None]
        if len(aucs) == len(results) and max(aucs) >= 0:
            return _points(method)[aucs.index(max(aucs))]
    return None


def _points(method: str) -> Sequence[Mapping[str, dict[str, Any]]]:
    return _POINTS.get(method, _BY_L2)


def _with(config: RunConfig, method: str, point: Mapping[str, dict[str, Any]], **changes: Any) -> RunConfig:
    given = config.bakeoff.model_dump(exclude_unset=True)
    for section, own in point.items():
        sections = given.get(section, {})
        given[section] = sections | {method: {**sections.get(method, {}), **own}}
    bakeoff = type(config.bakeoff).model_validate(given | changes)
    return config.model_copy(update={"bakeoff": bakeoff})


def _valid_auc(result: Mapping[str, Any]) -> float:
    return float(result["valid_auc"]) if result["status"] == "measured" else -1.0
