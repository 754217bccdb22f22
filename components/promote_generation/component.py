"""Register the new generation as a version of the model and make it champion."""

from kfp import dsl


@dsl.component(base_image="mec-python", packages_to_install=[], install_kfp_package=False)
def promote_generation(
    tracking: str,
    name: str,
    store: str,
    settings: str,
    new_data: str,
    run_id: str,
    champion: dsl.Input[dsl.Artifact],
    dataset: dsl.Input[dsl.Dataset],
    vocabulary: dsl.Input[dsl.Artifact],
    row_hashes: dsl.Input[dsl.Artifact],
    pretrained: dsl.Input[dsl.Model],
    codebook: dsl.Input[dsl.Model],
    codes: dsl.Input[dsl.Artifact],
    evaluation: dsl.Input[dsl.Artifact],
    decision: dsl.Input[dsl.Artifact],
    publication: dsl.Input[dsl.Artifact],
    outcome: dsl.Output[dsl.Artifact],
) -> str:
    from pathlib import Path
    from typing import Any

    from mec.artifacts import label
    from mec.config import DataConfig, TrackingConfig, section
    from mec.tracking.promoting import promote_generation_step

    roles = {"dataset": dataset, "vocabulary": vocabulary, "row_hashes": row_hashes, "pretrained": pretrained}
    roles |= {"codebook": codebook, "codes": codes, "evaluation": evaluation, "decision": decision}
    given: dict[str, Any] = {"name": name, "store": Path(store), "config_json": settings, "run_id": run_id}
    given |= {"tracking": section(TrackingConfig, tracking), "data": section(DataConfig, new_data)}
    bundles = {role: Path(bundle.path) for role, bundle in (roles | {"publication": publication}).items()}
    promote_generation_step(**given, champion=Path(champion.path), bundles=bundles, out=Path(outcome.path))
    label(outcome)
    return Path(outcome.path, "outcome.json").read_text(encoding="utf-8")
