"""The compare step: the backbones of one run side by side, as a bundle and in the run's MLflow run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mec.bundle import Bundle, open_bundle, read_json, write_bundle, write_json
from mec.config import TrackingConfig
from mec.errors import BundleError
from mec.evaluation.comparing import (
    Candidate,
    compare_backbones,
    comparison_markdown,
    comparison_page,
    draw_comparison,
    heading,
)
from mec.models import build_backbone
from mec.steps import STEP_FILE, step
from mec.tracking import runs

COMPARISON = "comparison.json"
_PARENT_RUN = "mlflow.parentRunId"  # what MLflow's own UI nests runs by


def compare_step(
    *,
    tracking: TrackingConfig,
    name: str,
    store: Path,
    models: Sequence[Path],
    references: Sequence[Path],
    evaluations: Sequence[Path],
    registrations: Sequence[Path],
    seed: int,
    run_id: str,
    out: Path,
) -> None:
    """Compare the backbones of a run on the same test rows.

    Writes ``comparison.json``, ``comparison.md``, ``comparison.html`` and ``comparison.png``, and logs them to the
    MLflow run of the pipeline run, which becomes the parent of the backbones' runs.

    Args:
        tracking: Server and experiment.
        name: The run's name.
        store: Directory of the embedded sqlite store.
        models: Model bundles, on codes, in any order.
        references: The reference bundle of each, empty ones among them.
        evaluations: The evaluation bundle of each.
        registrations: The registration bundle of each.
        seed: Of the bootstrap's resamples.
        run_id: Of the pipeline run.
        out: Directory of the comparison bundle.

    Raises:
        BundleError: A bundle is missing or corrupt, the models are not on one codebook, or were measured on other rows.
        TrackingError: The tracking server does not answer, or contradicts us.
    """
    with step("compare", out) as record:
        branches = _branches(
            [open_bundle(path, "model") for path in models],
            [open_bundle(path, "model") for path in references],
            [open_bundle(path, "evaluation") for path in evaluations],
            [open_bundle(path, "registration") for path in registrations],
        )
        comparison = compare_backbones([_candidate(branch) for branch in branches.values()], seed=seed)
        for backbone, facts in comparison["models"].items():
            facts["bundles"] = {
                role: {"uri": str(bundle.path.resolve()), "uuid": bundle.uuid}
                for role, bundle in branches[backbone].items()
            }
        parents = {f"{role}.{name}": bundle for name, branch in branches.items() for role, bundle in branch.items()}
        with write_bundle(out, "comparison", parents=parents, config={"seed": seed}) as draft:
            write_json(draft.path / COMPARISON, comparison)
            figure = draw_comparison(comparison)
            (draft.path / "comparison.png").write_bytes(figure)
            (draft.path / "comparison.md").write_text(comparison_markdown(comparison), encoding="utf-8")
            page = comparison_page(comparison, figure, name=name)
            (draft.path / "comparison.html").write_text(page, encoding="utf-8")
        if tracking.enabled:
            _log(open_bundle(out), comparison, branches, tracking, store=store, name=name, run_id=run_id)
        record.summary = heading(comparison)


def _branches(
    models: Sequence[Bundle],
    references: Sequence[Bundle],
    evaluations: Sequence[Bundle],
    registrations: Sequence[Bundle],
) -> dict[str, dict[str, Bundle]]:
    """Backbone -> its model, reference, evaluation and registration, put together by their parents' uuids."""
    measured = {bundle.manifest.parents["model"]: bundle for bundle in evaluations}
    registered = {bundle.manifest.parents["model"]: bundle for bundle in registrations}
    full = {bundle.uuid: bundle for bundle in references}
    branches: dict[str, dict[str, Bundle]] = {}
    for model in models:
        evaluation, registration = measured.get(model.uuid), registered.get(model.uuid)
        reference = None if evaluation is None else full.get(evaluation.manifest.parents["reference"])
        if evaluation is None or registration is None or reference is None:
            raise BundleError(
                f"the evaluation, its reference or the registration of the model {model.path} is not among those given",
                found=model.uuid,
                fix="pass the four bundles of each backbone",
            )
        branches[model.extra["backbone"]] = {
            "model": model,
            "reference": reference,
            "evaluation": evaluation,
            "registration": registration,
        }
    codebooks = {bundle.manifest.parents["codebook"] for bundle in evaluations}
    if len(branches) < len(models) or len(codebooks) > 1:
        raise BundleError(
            "the models are not those of different backbones on one codebook",
            found=f"backbones {[model.extra['backbone'] for model in models]}, codebooks {sorted(codebooks)}",
            fix="compare the backbones of one run",
        )
    return branches


def _candidate(branch: dict[str, Bundle]) -> Candidate:
    model, evaluation = branch["model"], branch["evaluation"]
    extra = model.extra
    num_fields = len(extra["layout"]["fields"])
    backbone = build_backbone(extra["backbone"], num_fields, extra["embedding_dim"], extra["settings"])
    return Candidate(
        backbone=extra["backbone"],
        labels=np.load(evaluation.file("test_labels.npy"), allow_pickle=False),
        logits=np.load(evaluation.file("test_logits.npy"), allow_pickle=False),
        evaluation=evaluation.json("evaluation.json"),
        parameters=sum(p.numel() for p in backbone.parameters() if p.requires_grad),
        train_seconds=float(read_json(model.path / STEP_FILE)["seconds"]),
        registration=branch["registration"].json("registration.json"),
    )


def _log(
    bundle: Bundle,
    comparison: dict[str, Any],
    branches: dict[str, dict[str, Bundle]],
    tracking: TrackingConfig,
    *,
    store: Path,
    name: str,
    run_id: str,
) -> None:
    with runs.open_run(tracking, store=store, run_name=name, run_id=run_id) as run:
        metrics = {
            key: {name: facts[key] for name, facts in comparison["models"].items()} for key in ("auc", "logloss")
        }
        runs.log_metrics(run, metrics)
        runs.log_tags(run, {"best": comparison["best"], "comparison": bundle.uuid, "kfp_run": run_id})
        for file in sorted(bundle.manifest.files):
            run.client.log_artifact(run.run_id, str(bundle.path / file), "comparison")
        for branch in branches.values():
            child = branch["registration"].json("registration.json")["run_id"]
            if not run.adopted and child is not None:
                run.client.set_tag(child, _PARENT_RUN, run.run_id)
