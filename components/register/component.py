"""Log the run to MLflow and register its scorer; the gate decides whether it becomes champion."""

from kfp import dsl


@dsl.component(base_image="mec-python", packages_to_install=[], install_kfp_package=False)
def register(
    name: str,
    seed: int,
    store: str,
    data: str,
    count: str,
    pretrain: str,
    quantize: str,
    publish: str,
    train: str,
    evaluate: str,
    tracking: str,
    run_id: str,
    dataset: dsl.Input[dsl.Dataset],
    vocabulary: dsl.Input[dsl.Artifact],
    codebook: dsl.Input[dsl.Model],
    codes: dsl.Input[dsl.Artifact],
    model: dsl.Input[dsl.Model],
    publication: dsl.Input[dsl.Artifact],
    evaluation: dsl.Input[dsl.Artifact],
    registration: dsl.Output[dsl.Artifact],
) -> None:
    from pathlib import Path
    from typing import Any

    from mec.config import TrackingConfig, joined, section
    from mec.tracking.registering import register_step

    settings = joined(name, seed, store, data, count, pretrain, quantize, publish, train, evaluate, tracking)
    roles = {"dataset": dataset, "vocabulary": vocabulary, "codebook": codebook, "codes": codes, "model": model}
    roles |= {"publication": publication, "evaluation": evaluation}
    given: dict[str, Any] = {role: Path(bundle.path) for role, bundle in roles.items()}
    given |= {"name": name, "store": Path(store), "config_json": settings, "run_id": run_id}
    register_step(tracking=section(TrackingConfig, tracking), **given, out=Path(registration.path))
