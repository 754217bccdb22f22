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
    pretrained: dsl.Input[dsl.Model],
    codebook: dsl.Input[dsl.Model],
    codes: dsl.Input[dsl.Artifact],
    model: dsl.Input[dsl.Model],
    publication: dsl.Input[dsl.Artifact],
    evaluation: dsl.Input[dsl.Artifact],
    registration: dsl.Output[dsl.Artifact],
) -> None:
    from pathlib import Path

    from mec import artifacts, config
    from mec.tracking.registering import register_step

    args = artifacts.paths(dataset=dataset, vocabulary=vocabulary, pretrained=pretrained, codebook=codebook)
    args |= artifacts.paths(codes=codes, model=model, publication=publication, evaluation=evaluation, out=registration)
    text = config.joined(name, seed, store, data, count, pretrain, quantize, publish, train, evaluate, tracking)
    settings = config.section(config.TrackingConfig, tracking)
    register_step(tracking=settings, name=name, store=Path(store), run_id=run_id, config_json=text, **args)
    artifacts.label(registration)
