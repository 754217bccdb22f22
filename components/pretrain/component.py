"""Pre-train the small model whose embeddings are compressed."""

from kfp import dsl


@dsl.component(base_image="mec-python", packages_to_install=[], install_kfp_package=False)
def pretrain(
    pretrain: str,
    seed: int,
    work_dir: str,
    code_hash: str,
    dataset: dsl.Input[dsl.Dataset],
    vocabulary: dsl.Input[dsl.Artifact],
    pretrained: dsl.Output[dsl.Model],
) -> None:
    from pathlib import Path

    from mec.artifacts import label
    from mec.config import PretrainConfig, section
    from mec.pretraining import pretrain_step

    pretrain_step(
        pretrain=section(PretrainConfig, pretrain),
        dataset=Path(dataset.path),
        vocabulary=Path(vocabulary.path),
        seed=seed,
        checkpoints=Path(work_dir, "pretrain") if work_dir else None,
        out=Path(pretrained.path),
    )
    label(pretrained)
