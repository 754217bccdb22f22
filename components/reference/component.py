"""Train the same backbone on full tables, to compare with."""

from kfp import dsl


@dsl.component(base_image="mec-python", packages_to_install=[], install_kfp_package=False)
def reference(
    train: str,
    evaluate: str,
    seed: int,
    work_dir: str,
    code_hash: str,
    dataset: dsl.Input[dsl.Dataset],
    pretrained: dsl.Input[dsl.Model],
    model: dsl.Output[dsl.Model],
) -> None:
    from pathlib import Path

    from mec.artifacts import label
    from mec.config import EvaluateConfig, TrainConfig, section
    from mec.training_steps import reference_step

    reference_step(
        train=section(TrainConfig, train),
        evaluate=section(EvaluateConfig, evaluate),
        dataset=Path(dataset.path),
        pretrained=Path(pretrained.path),
        seed=seed,
        checkpoints=Path(work_dir, "reference") if work_dir else None,
        out=Path(model.path),
    )
    label(model)
