"""The last step of a refresh that is promoted: register the new generation and make it champion.

A generation is a version of its own: the same backbone and space, with its codes, its codebook and its calibration.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mec.bundle import Bundle, json_hash, open_bundle, write_bundle, write_json
from mec.config import DataConfig, TrackingConfig
from mec.refresh.deciding import DECISION
from mec.serving.building import write_scorer
from mec.serving.saving import save_pyfunc
from mec.serving.sources import BundleCodes, FeastCodes
from mec.steps import step
from mec.tracking import runs
from mec.tracking.champion import TestRows, version_tags
from mec.tracking.champion_step import Base
from mec.tracking.gate import Metrics
from mec.tracking.generations import DECIDED_BY, GENERATION_TAG, refresh_tags
from mec.tracking.kept import bundle_tags, keep_bundles
from mec.tracking.registering import PROMOTED
from mec.tracking.registry import ModelRegistry
from mec.tracking.waiting import READ_TAG

OUTCOME = "outcome.json"
_KINDS = (
    "dataset",
    "vocabulary",
    "pretrained",
    "row_hashes",
    "codebook",
    "codes",
    "evaluation",
    "publication",
    "decision",
)


def promote_generation_step(
    *,
    tracking: TrackingConfig,
    name: str,
    store: Path,
    config_json: str,
    data: DataConfig,
    champion: Path,
    bundles: Mapping[str, Path],
    run_id: str,
    out: Path,
) -> None:
    """Register a published generation as a version and make it champion; what it replaces becomes previous.

    Repeated with the same bundles it ends as it did before: no second version, the same aliases.

    Args:
        tracking: Server, experiment and model name.
        name: The run's name; names the registered model unless ``tracking.model_name`` does.
        store: Directory of the embedded stores.
        config_json: The settings of the refresh, logged.
        data: Of the new rows.
        champion: "champion" bundle: the version that was refreshed.
        bundles: Role -> directory: dataset, vocabulary, pretrained, row_hashes, codebook, codes, evaluation,
            publication and decision, all of this refresh.
        run_id: Of the pipeline run.
        out: Directory of the "outcome" bundle: ``outcome.json`` and, as ``scorer/``, the scorer bundle.

    Raises:
        TrackingError: The server does not answer, or another version has become champion meanwhile.
        BundleError: A bundle is missing or corrupt, or does not belong to the others.
    """
    with step("promote_generation", out) as record:
        base = Base.open(champion)
        opened = {role: open_bundle(bundles[role], role, verify=role != "dataset") for role in _KINDS}
        model = open_bundle(base.path("model"), "model")
        with write_bundle(out, "outcome", parents={"champion": base.bundle, **opened}) as draft:
            scorer = write_scorer(
                model=model,
                codebook=opened["codebook"],
                vocabulary=opened["vocabulary"],
                evaluation=opened["evaluation"],
                data=data,
                out=draft.path / "scorer",
                codes=opened["codes"],
            )
            case = _Generation(
                tracking, json.loads(config_json), data, base, {**opened, "model": model}, scorer, run_id
            )
            outcome = case.promote(store, tracking.model_name or name)
            write_json(draft.path / OUTCOME, outcome)
        record.summary = f"{outcome['model']} version {outcome['model_version']} is champion: {outcome['reasons'][0]}"


@dataclass(frozen=True)
class _Generation:
    tracking: TrackingConfig
    config: dict[str, Any]
    data: DataConfig
    base: Base
    bundles: dict[str, Bundle]
    scorer: Bundle
    run_id: str

    @cached_property
    def numbers(self) -> dict[str, Any]:
        return self.bundles["evaluation"].json("evaluation.json")

    @cached_property
    def publication(self) -> dict[str, Any]:
        return self.bundles["publication"].json("publication.json")

    def promote(self, store: Path, model_name: str) -> dict[str, Any]:
        decided = self.bundles["decision"].json(DECISION)
        registered = {role: b for role, b in self.bundles.items() if role not in ("publication", "decision")}
        places = bundle_tags(registered, keep_bundles(registered, store))
        run_name = f"{model_name} refresh"
        with runs.open_run(self.tracking, store=store, run_name=run_name, run_id=self.run_id) as run:
            runs.log_params(run, self.config)
            runs.log_metrics(run, self.numbers)
            log_results(run, self.bundles["evaluation"], self.bundles["decision"])
            registry = ModelRegistry(run, model_name, create=False)
            parent = registry.version(self.base.version)
            tags = self._tags() | places
            tags |= refresh_tags(parent=parent, data_version=self.base.data_version, numbers=self.numbers)
            decision = {"decision": PROMOTED, "decision_reasons": json.dumps(decided["reasons"])}
            with TemporaryDirectory() as folder:

                def save(model_id: str) -> Path:
                    path = Path(folder) / "model"
                    save_pyfunc(
                        path, scorer=self.scorer, codes=self._codes(store), model_id=model_id, run_id=run.run_id
                    )
                    return path

                version = registry.register(
                    self.scorer.uuid, self.bundles["codes"].uuid, save, tags | decision, challenger=False
                )
            registry.tag(version, places | {READ_TAG: json.dumps(self.data.paths)})
            if DECIDED_BY not in version.tags:
                registry.tag(version, {DECIDED_BY: run.run_id})
            champion = registry.champion()
            if champion is None or champion.number != version.number:
                registry.promote(version, over=parent, why=f"refresh of version {parent.number}")
            registry.settle(version)
            found = {"model": model_name, "model_version": version.number, "refreshed_version": parent.number}
            runs.log_tags(run, {**tags, **decision, **found})
            return {
                "decision": decided["action"],
                "reasons": decided["reasons"],
                "run_id": run.run_id,
                "model": model_name,
                "model_version": int(version.number),
                "generation": int(self.bundles["codes"].extra["generation"]),
                "parent_generation": self.bundles["codes"].extra["parent_generation"],
                "codebook": self.bundles["codebook"].uuid,
                "rows_rewritten": self.numbers["rows_rewritten"],
            }

    def _tags(self) -> dict[str, str]:
        manifest = self.bundles["model"].manifest
        codes = self.bundles["codes"]
        return {
            "space": str(self.scorer.extra["space"]),
            "codebook": self.bundles["codebook"].uuid,
            "codes": codes.uuid,
            GENERATION_TAG: str(codes.extra["generation"]),
            "feature_service": self.publication["feature_service"] or "none",
            "feature_repo": self.publication["repo"] or "none",
            "code_hash": manifest.code_hash,
            "mec_version": manifest.mec_version,
            "config_hash": json_hash(self.config),
            "kfp_run": self.run_id,
            **version_tags(self._metrics()),
        }

    def _metrics(self) -> Metrics:
        """On the new rows: what a later challenger is compared by, if it is measured on the same ones."""
        dataset = self.bundles["dataset"]
        return Metrics(
            auc=float(self.numbers["auc"]),
            logloss=float(self.numbers["logloss"]),
            num_rows=int(self.numbers["num_positives"]) + int(self.numbers["num_negatives"]),
            data_version=dataset.manifest.data_version,
            split=TestRows(dataset, self.bundles["vocabulary"]).split_hash(),
        )

    def _codes(self, store: Path) -> FeastCodes | BundleCodes:
        """Where the version gets codes from: the online store, or the bundles that are kept for it."""
        if self.publication["feature_service"]:
            return FeastCodes(repo=self.publication["repo"], feature_service=self.publication["feature_service"])
        kept = keep_bundles({role: self.bundles[role] for role in ("codes", "vocabulary")}, store)
        return BundleCodes(codes=str(kept["codes"]), vocabulary=str(kept["vocabulary"]))


def log_results(run: runs.TrackedRun, evaluation: Bundle, decision: Bundle) -> None:
    """Numbers, report and decision as files of the MLflow run, where they outlive the pipeline's artifacts."""
    for bundle, names in ((evaluation, ("evaluation.json", "report.html")), (decision, (DECISION,))):
        for file in names:
            run.client.log_artifact(run.run_id, str(bundle.file(file)), bundle.manifest.kind)
