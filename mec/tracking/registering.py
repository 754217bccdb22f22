"""The register step: log the run, register the scorer, ask the gate, move the aliases."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mec.bundle import Bundle, json_hash, open_bundle, write_bundle, write_json
from mec.config import TrackingConfig, parse_config
from mec.serving.building import write_scorer
from mec.serving.saving import save_pyfunc
from mec.serving.sources import BundleCodes, FeastCodes
from mec.steps import step
from mec.tracking import runs
from mec.tracking.champion import TestRows, compare, version_tags
from mec.tracking.gate import Decision, Metrics, decide
from mec.tracking.kept import bundle_tags, keep_bundles
from mec.tracking.registry import ModelRegistry, Version
from mec.tracking.training_rows import trained_on_tag

REGISTRATION = "registration.json"
PROMOTED, KEPT_OUT = "promoted", "kept out"  # the tag `decision` of run and version


def register_step(
    *,
    tracking: TrackingConfig,
    name: str,
    store: Path,
    config_json: str,
    dataset: Path,
    vocabulary: Path,
    pretrained: Path,
    codebook: Path,
    codes: Path,
    model: Path,
    publication: Path,
    evaluation: Path,
    run_id: str,
    out: Path,
) -> None:
    """Register a trained model: MLflow run, scorer, challenger, and champion when the gate says so.

    Repeated with the same bundles it ends as it did before: no second version, the same aliases. What a refresh or a
    rollback of this version will need is kept under the store; see ``mec.tracking.kept``.

    Args:
        tracking: Server, experiment, model name and gate.
        name: The run's name; names the registered model unless ``tracking.model_name`` does.
        store: Directory of the embedded sqlite stores.
        config_json: The resolved config of the run.
        dataset: Dataset bundle.
        vocabulary: Vocabulary bundle.
        pretrained: Pretrained bundle that the codes were made of.
        codebook: Codebook bundle.
        codes: Codes bundle.
        model: Model bundle, on codes.
        publication: Publication bundle.
        evaluation: Evaluation bundle of the model.
        run_id: Of the pipeline run.
        out: Directory of the registration bundle: ``registration.json`` and, as ``scorer/``, the scorer bundle.

    Raises:
        TrackingError: The tracking server does not answer, or contradicts us.
        BundleError: A bundle is missing or corrupt, or does not belong to the others.
    """
    with step("register", out) as record:
        bundles = {
            "dataset": open_bundle(dataset, "dataset", verify=False),
            "vocabulary": open_bundle(vocabulary, "vocabulary"),
            "pretrained": open_bundle(pretrained, "pretrained"),
            "codebook": open_bundle(codebook, "codebook"),
            "codes": open_bundle(codes, "codes"),
            "model": open_bundle(model, "model"),
            "publication": open_bundle(publication, "publication"),
            "evaluation": open_bundle(evaluation, "evaluation"),
        }
        config = json.loads(config_json)
        with write_bundle(out, "registration", parents=bundles, config=tracking.model_dump()) as draft:
            scorer = write_scorer(
                model=bundles["model"],
                codebook=bundles["codebook"],
                vocabulary=bundles["vocabulary"],
                evaluation=bundles["evaluation"],
                data=parse_config(config).data,
                out=draft.path / "scorer",
            )
            case = _Case(tracking, tracking.model_name or name, config, bundles, scorer, run_id)
            result = case.register(store) if tracking.enabled else case.decide_alone()
            write_json(draft.path / REGISTRATION, result)
        record.summary = _summary(result)


@dataclass(frozen=True)
class _Case:
    """One model to register, and what is known of it."""

    tracking: TrackingConfig
    model_name: str
    config: dict[str, Any]
    bundles: dict[str, Bundle]
    scorer: Bundle
    run_id: str

    @cached_property
    def evaluation(self) -> dict[str, Any]:
        return self.bundles["evaluation"].json("evaluation.json")

    @cached_property
    def publication(self) -> dict[str, Any]:
        return self.bundles["publication"].json("publication.json")

    @cached_property
    def rows(self) -> TestRows:
        return TestRows(self.bundles["dataset"], self.bundles["vocabulary"])

    @cached_property
    def metrics(self) -> Metrics:
        return Metrics(
            auc=float(self.evaluation["auc"]),
            logloss=float(self.evaluation["logloss"]),
            num_rows=int(self.evaluation["num_test_rows"]),
            data_version=self.bundles["dataset"].manifest.data_version,
            split=self.rows.split_hash(),
        )

    def codes(self, kept: Mapping[str, Path]) -> FeastCodes | BundleCodes:
        """Where the registered model gets codes from: the online store, or the bundles that are kept for it."""
        if self.publication["feature_service"]:
            return FeastCodes(repo=self.publication["repo"], feature_service=self.publication["feature_service"])
        return BundleCodes(codes=str(kept["codes"]), vocabulary=str(kept["vocabulary"]))

    def tags(self) -> dict[str, str]:
        """What run and version are found by, and traced back with."""
        manifest = self.bundles["model"].manifest
        return {
            "space": str(self.scorer.extra["space"]),
            "codebook": self.bundles["codebook"].uuid,
            "codes": self.bundles["codes"].uuid,
            "codes_generation": str(self.bundles["codes"].extra["generation"]),
            "feature_service": self.publication["feature_service"] or "none",
            "feature_repo": self.publication["repo"] or "none",
            "code_hash": manifest.code_hash,
            "mec_version": manifest.mec_version,
            "config_hash": json_hash(self.config),
            "kfp_run": self.run_id,
            **version_tags(self.metrics),
        }

    def decide_alone(self) -> dict[str, Any]:
        """The gate without a registry: only the absolute bound can be asked for."""
        decision = decide(self.metrics, None, self.tracking.gate)
        reasons = (*decision.reasons, "nothing was logged or registered: tracking.enabled is false")
        unknown = ("run_id", "experiment", "tracking_uri", "model", "model_version")
        return {**dict.fromkeys(unknown), "aliases": [], "decision": _decision_json(replace(decision, reasons=reasons))}

    def register(self, store: Path) -> dict[str, Any]:
        bundles = {role: bundle for role, bundle in self.bundles.items() if role != "publication"}
        kept = keep_bundles(bundles, store)
        places, codes = bundle_tags(bundles, kept), self.codes(kept)
        with runs.open_run(self.tracking, store=store, run_name=self.model_name, run_id=self.run_id) as run:
            self._log(run, places)
            registry = ModelRegistry(run, self.model_name)
            champion = registry.champion()
            with TemporaryDirectory() as folder:

                def save(model_id: str) -> Path:
                    path = Path(folder) / "model"
                    save_pyfunc(path, scorer=self.scorer, codes=codes, model_id=model_id, run_id=run.run_id)
                    return path

                tags = self.tags() | places
                version = registry.register(self.scorer.uuid, self.bundles["codes"].uuid, save, tags, challenger=True)
            # a version found again may have been kept in a store that has moved, or trained on rows that have
            registry.tag(version, places | trained_on_tag(parse_config(self.config).data))
            decision = self._decide(registry, version, champion, codes)
            verdict = PROMOTED if decision.promote else KEPT_OUT
            reasons = json.dumps(decision.reasons)
            registry.tag(version, {"decision": verdict, "decision_reasons": reasons, "decided_by_run": run.run_id})
            if champion is not None and champion.number == version.number:
                registry.settle(version)
            elif decision.promote:
                registry.promote(version, over=champion)
            found = {"model": self.model_name, "model_version": version.number, "decision": verdict}
            runs.log_tags(run, found)
            return {
                "run_id": run.run_id,
                "experiment": run.experiment,
                "tracking_uri": run.uri,
                "model": self.model_name,
                "model_version": int(version.number),
                "aliases": registry.aliases_of(version),
                "decision": _decision_json(decision),
            }

    def _decide(
        self, registry: ModelRegistry, version: Version, champion: Version | None, codes: FeastCodes | BundleCodes
    ) -> Decision:
        gate = self.tracking.gate
        if champion is None:
            return decide(self.metrics, None, gate)
        if champion.number == version.number:
            if version.tags.get("decision") == PROMOTED:
                return Decision(True, tuple(json.loads(version.tags["decision_reasons"])))
            return Decision(True, (f"version {version.number} is this very scorer, and champion already",))
        found = compare(self.metrics, champion, registry, scorer=self.scorer, codes=codes, rows=self.rows)
        decision = decide(found.challenger, found.champion, gate)
        return replace(decision, reasons=(*decision.reasons, found.note))

    def _log(self, run: runs.TrackedRun, places: Mapping[str, str]) -> None:
        runs.log_params(run, self.config)
        runs.log_metrics(run, self.evaluation)
        runs.log_tags(run, {**self.tags(), "scorer": self.scorer.uuid, **places})
        evaluation = self.bundles["evaluation"]
        for name in sorted(evaluation.manifest.files):
            if name == "evaluation.json" or name == "report.html" or name.startswith("figures/"):
                run.client.log_artifact(run.run_id, str(evaluation.path / name), str(Path("evaluation", name).parent))
        run.client.log_dict(run.run_id, self.config, "config.json")


def _decision_json(decision: Decision) -> dict[str, Any]:
    return {"promote": decision.promote, "reasons": list(decision.reasons)}


def _summary(result: dict[str, Any]) -> str:
    decision = result["decision"]
    why = decision["reasons"][0]
    if result["model"] is None:
        return f"nothing registered: tracking.enabled is false; {why}"
    aliases = ", ".join(result["aliases"]) or "no alias"
    return f"{result['model']} version {result['model_version']} ({aliases}): {why}"
