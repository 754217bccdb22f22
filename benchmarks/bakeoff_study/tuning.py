"""How each method of the frontier is trained: of a few settings the one of the best validation AUC, by table.

Methods that start from random rows need very different L2 than those that start from the FM's, and one for all would
decide the comparison. So every method has the same number of trials: three weights of the L2. Methods whose vectors
are not trained have nothing to choose, mec chooses between frozen codewords and trained ones of two weights, and DHE,
which has no table and takes 27 times as long, keeps the common one. Trials are cells of seed 0 at 8x, or at 2x where 8x
is beyond a method; the choice holds for all budgets and seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bakeoff_study.workspace import Job
from mec.bakeoff.cells import plan_cells
from mec.config import RunConfig

BUDGETS = ("8x", "2x")
L2_POINTS = (0.0, 0.003, 0.02)
_WARM = {"settings": {"codewords": "warm"}}
# method -> trials: what goes into bakeoff.training and bakeoff.settings
_POINTS: dict[str, tuple[dict[str, dict[str, Any]], ...]] = {
    "mec": ({}, _WARM | {"training": {"l2": 0.003}}, _WARM | {"training": {"l2": 0.02}}),
    "pq": ({},),
    "opq": ({},),
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
    for method in methods:
        for budget in BUDGETS:
            jobs = trial_jobs(config, method, budget, work)
            results = [job.result() for job in jobs]
            aucs = [_valid_auc(result) for result in results if result is not None]
            if len(aucs) == len(jobs) and max(aucs) >= 0:
                config = _with(config, method, _points(method)[aucs.index(max(aucs))])
                break
    return config


def beyond(config: RunConfig, method: str, budget: str, work: Path) -> bool:
    """Whether a method's trials were run, and none came to an AUC."""
    results = [job.result() for job in trial_jobs(config, method, budget, work)]
    return all(result is not None and _valid_auc(result) < 0 for result in results)


def chosen(config: RunConfig, methods: Sequence[str]) -> list[str]:
    """Markdown lines: what was chosen for each method."""
    lines = ["| method | chosen on seed 0 |", "|---|---|"]
    for method in methods:
        own = config.bakeoff.settings.get(method, {})
        training = config.bakeoff.training.get(method)
        parts = [f"{key} {value}" for key, value in own.items()]
        parts += [] if training is None or training.l2 is None else [f"L2 {training.l2:g}"]
        lines.append(f"| {method} | {', '.join(parts) or 'nothing to choose, or no trial'} |")
    return lines


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
