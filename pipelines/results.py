"""What a finished run leaves in its directory: links to the bundles, ``summary.json``, ``report.html``."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mec.bundle import Bundle, open_bundle, write_json
from mec.steps import STEP_FILE
from pipelines.watching import branch_step, training_step

# which step made each output of the pipeline, in the order of the way of the data
MADE_BY = {
    "counts": "count",
    "vocabulary": "vocabulary",
    "dataset": "encode",
    "pretrained": "pretrain",
    "codebook": "quantize",
    "codes": "quantize",
    "publication": "publish",
    "model": "train",
    "reference": "reference",
    "evaluation": "evaluate",
    "registration": "register",
}


# the same with several backbones: what they share, and what each has for itself
SHARED = ("counts", "vocabulary", "dataset", "pretrained", "codebook", "codes", "publication")
OWN = ("model", "reference", "evaluation", "registration")

# which step made each output of the refresh pipeline; the outcome is made by the branch that ran
REFRESH_MADE_BY = {
    "champion": "champion",
    "arrivals": "arrivals",
    "counts": "count",
    "vocabulary": "extend_vocabulary",
    "dataset": "encode",
    "pretrained": "refresh_pretrain",
    "codes": "recode",
    "evaluation": "refresh_evaluate",
    "decision": "decide",
    "publication": "publish_generation",
}


def finish(
    paths: Mapping[str, Path], reused: list[str], facts: Mapping[str, Any], out: Path
) -> tuple[dict[str, Any], Path]:
    """Leave the results of a run of one backbone in its directory.

    Args:
        paths: Output of the pipeline -> bundle directory.
        reused: Steps whose earlier results were taken.
        facts: What only the runner knows, such as the run's seconds; put at the summary's top level.
        out: The run's directory.

    Returns:
        The summary: the evaluation, the publication's and the registration's facts at the top level; ``steps`` with
        seconds and peak_rss_bytes (of the execution that made the bundle) and whether it was reused; ``lineage`` with
        the uuid and ``bundles`` with the path of each bundle. And the path of the report.
    """
    from mec.evaluation.report import render

    bundles = {name: open_bundle(path, verify=False) for name, path in paths.items()}
    registration = bundles["registration"].json("registration.json")
    summary = {
        **facts,
        **bundles["evaluation"].json("evaluation.json"),
        **_space_facts(bundles),
        "model": registration.get("model"),
        "model_version": registration.get("model_version"),
        "decision": registration.get("decision"),
        "registration": registration,
        "publication": bundles["publication"].json("publication.json"),
        "steps": step_facts(paths, MADE_BY, reused),
        **places(bundles),
    }
    figures = {file.stem: file.read_bytes() for file in sorted((paths["evaluation"] / "figures").glob("*.png"))}
    link_bundles(paths, out / "bundles")
    return summary, write_results(summary, render(summary, figures), out)


def finish_backbones(
    paths: Mapping[str, Path], reused: list[str], facts: Mapping[str, Any], out: Path
) -> tuple[dict[str, Any], Path]:
    """Leave the results of a run of several backbones in its directory.

    Args:
        paths: Output of the pipeline -> bundle directory.
        reused: Steps whose earlier results were taken, those of branches with the backbone's name.
        facts: As in ``finish``.
        out: The run's directory.

    Returns:
        The summary: as in ``finish`` what the backbones share; ``models``: backbone -> its evaluation, ``model``,
        ``model_version``, ``decision``, ``registration``, ``parameters``, ``steps``, ``lineage`` and ``bundles``;
        ``comparison``: the same rows' intervals. And the path of the report.
    """
    from mec.evaluation.comparing import comparison_page
    from mec.evaluation.report_tables import steps_table

    shared = {name: open_bundle(path, verify=False) for name, path in paths.items()}
    comparison = shared["comparison"].json("comparison.json")
    branches = {
        backbone: {role: Path(measured["bundles"][role]["uri"]) for role in OWN}
        for backbone, measured in comparison["models"].items()
    }
    models = {
        backbone: _branch_summary(branch, backbone, comparison["models"][backbone], reused)
        for backbone, branch in branches.items()
    }
    steps = step_facts(paths, {name: MADE_BY[name] for name in SHARED} | {"comparison": "compare"}, reused)
    summary = {
        **facts,
        **_space_facts(shared),
        "best": comparison["best"],
        "models": models,
        "comparison": comparison,
        "publication": shared["publication"].json("publication.json"),
        "steps": steps,
        **places(shared),
    }
    for backbone, branch in branches.items():
        link_bundles(branch, out / "bundles" / backbone)
    link_bundles(paths, out / "bundles")
    figure = shared["comparison"].file("comparison.png").read_bytes()
    tables = [table for table in [steps_table({"steps": all_steps(summary)})] if table is not None]
    page = comparison_page(comparison, figure, name=str(facts["name"]), tables=tables, config=facts["config"])
    return summary, write_results(summary, page, out)


def all_steps(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The steps of a summary in order, those of several backbones or of a refresh's training named as such."""
    steps = dict(summary["steps"])
    last = {name: steps.pop(name) for name in ("compare",) if name in steps}
    for backbone, model in summary.get("models", {}).items():
        steps |= {branch_step(step, backbone): fact for step, fact in model["steps"].items()}
    for step, fact in summary.get("trained", {}).get("steps", {}).items():
        steps[training_step(step)] = fact
    return steps | last


def named_bundles(summary: Mapping[str, Any]) -> list[str]:
    """Paths of all bundles that a summary names."""
    parts = [summary, *summary.get("models", {}).values()]
    parts += [summary["trained"]] if "trained" in summary else []
    return [path for part in parts for path in part["bundles"].values()]


def link_bundles(paths: Mapping[str, Path], directory: Path) -> None:
    """Make ``directory/<name>`` a relative link to each bundle, in place of earlier links."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, path in paths.items():
        link, part = directory / name, directory / f".{name}.part"
        part.unlink(missing_ok=True)
        part.symlink_to(os.path.relpath(path, directory), target_is_directory=True)
        part.replace(link)


def _branch_summary(
    paths: Mapping[str, Path], backbone: str, measured: Mapping[str, Any], reused: list[str]
) -> dict[str, Any]:
    bundles = {name: open_bundle(path, verify=False) for name, path in paths.items()}
    prefix = branch_step("", backbone)
    own = [step.removesuffix(prefix) for step in reused if step.endswith(prefix)]
    return {
        **bundles["evaluation"].json("evaluation.json"),
        **{key: measured[key] for key in ("parameters", "train_seconds", "model", "model_version", "decision")},
        "registration": bundles["registration"].json("registration.json"),
        "steps": step_facts(paths, {name: MADE_BY[name] for name in OWN}, own),
        **places(bundles),
    }


def _space_facts(bundles: Mapping[str, Bundle]) -> dict[str, Any]:
    publication = bundles["publication"].json("publication.json")
    return {
        "codebook": bundles["codebook"].uuid,
        "generation": bundles["codes"].extra["generation"],
        "space": bundles["codebook"].extra["space"],
        "published_rows": publication["published_rows"],
        "feature_service": publication.get("feature_service"),
    }


def places(bundles: Mapping[str, Bundle]) -> dict[str, Any]:
    """``lineage`` and ``bundles`` of a summary: uuid and path of each bundle."""
    return {
        "lineage": {name: bundle.uuid for name, bundle in bundles.items()},
        "bundles": {name: str(bundle.path) for name, bundle in bundles.items()},
    }


def write_results(summary: Mapping[str, Any], page: str, out: Path) -> Path:
    """Leave ``summary.json`` and ``report.html`` in a run's directory; the path of the latter."""
    report = out / "report.html"
    part = report.with_name(report.name + ".part")
    part.write_text(page, encoding="utf-8")
    part.replace(report)
    write_json(out / "summary.json", summary)
    return report


def step_facts(paths: Mapping[str, Path], made_by: Mapping[str, str], reused: list[str]) -> dict[str, dict[str, Any]]:
    """``steps`` of a summary: seconds, peak memory and last line of each, and whether its result was reused."""
    steps: dict[str, dict[str, Any]] = {}
    for name, step in made_by.items():
        file = paths[name] / STEP_FILE
        if file.is_file():
            record = json.loads(file.read_text(encoding="utf-8"))
            steps[step] = {
                "seconds": record["seconds"],
                "peak_rss_bytes": record["peak_rss_bytes"],
                "reused": step in reused,
                "summary": record["summary"],
            }
    return steps
