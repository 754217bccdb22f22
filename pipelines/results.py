"""What a finished run leaves in its directory: links to the bundles, ``summary.json``, ``report.html``."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mec.bundle import Bundle, open_bundle, write_json
from mec.steps import STEP_FILE

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


def link_bundles(paths: Mapping[str, Path], directory: Path) -> None:
    """Make ``directory/<name>`` a relative link to each bundle, in place of earlier links."""
    directory.mkdir(exist_ok=True)
    for name, path in paths.items():
        link, part = directory / name, directory / f".{name}.part"
        part.unlink(missing_ok=True)
        part.symlink_to(os.path.relpath(path, directory), target_is_directory=True)
        part.replace(link)


def summarize(paths: Mapping[str, Path], reused: list[str], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Gather a run's results into one JSON value.

    Args:
        paths: Output of the pipeline -> bundle directory.
        reused: Steps whose earlier results were taken.
        facts: What only the runner knows, such as the run's seconds; put at the top level.

    Returns:
        The evaluation, the publication's and the registration's facts at the top level; ``steps`` with
        seconds and peak_rss_bytes (of the execution that made the bundle) and whether it was reused;
        ``lineage`` with the uuid
        and ``bundles`` with the path of each bundle.
    """
    bundles = {name: open_bundle(path, verify=False) for name, path in paths.items()}
    evaluation = _read(bundles["evaluation"], "evaluation.json")
    publication = _read(bundles["publication"], "publication.json")
    registration = _read(bundles["registration"], "registration.json")
    return {
        **facts,
        **evaluation,
        "codebook": bundles["codebook"].uuid,
        "generation": bundles["codes"].extra["generation"],
        "space": bundles["codebook"].extra["space"],
        "published_rows": publication["published_rows"],
        "feature_service": publication.get("feature_service"),
        "model": registration.get("model"),
        "model_version": registration.get("model_version"),
        "decision": registration.get("decision"),
        "registration": registration,
        "publication": publication,
        "steps": _steps(paths, reused),
        "lineage": {name: bundle.uuid for name, bundle in bundles.items()},
        "bundles": {name: str(bundle.path) for name, bundle in bundles.items()},
    }


def write_results(summary: dict[str, Any], evaluation: Path, out: Path) -> Path:
    """Write ``summary.json``, and ``report.html`` with the run's steps and decision in it.

    Args:
        summary: From ``summarize``.
        evaluation: Bundle that holds the figures.
        out: The run's directory.

    Returns:
        Path of the report.
    """
    from mec.evaluation.report import render

    figures = {file.stem: file.read_bytes() for file in sorted((evaluation / "figures").glob("*.png"))}
    report = out / "report.html"
    part = report.with_name(report.name + ".part")
    part.write_text(render(summary, figures), encoding="utf-8")
    part.replace(report)
    write_json(out / "summary.json", summary)
    return report


def _steps(paths: Mapping[str, Path], reused: list[str]) -> dict[str, dict[str, Any]]:
    steps: dict[str, dict[str, Any]] = {}
    for name, step in MADE_BY.items():
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


def _read(bundle: Bundle, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(bundle.file(name).read_text(encoding="utf-8"))
    return content
