"""Train the backbone on codes."""

from kfp import dsl


@dsl.component(base_image="mec-python", packages_to_install=[], install_kfp_package=False)
def train(
    train: str,
    seed: int,
    work_dir: str,
    code_hash: str,
    dataset: dsl.Input[dsl.Dataset],
    pretrained: dsl.Input[dsl.Model],
    codebook: dsl.Input[dsl.Model],
    codes: dsl.Input[dsl.Artifact],
    model: dsl.Output[dsl.Model],
) -> None:
    from pathlib import Path

    from mec.artifacts import label
    from mec.config import TrainConfig, section
    from mec.training_steps import train_step

    train_step(
        train=section(TrainConfig, train),
        dataset=Path(dataset.path),
        pretrained=Path(pretrained.path),
        codebook=Path(codebook.path),
        codes=Path(codes.path),
        seed=seed,
        checkpoints=Path(work_dir, "train") if work_dir else None,
        out=Path(model.path),
    )
    label(model)
