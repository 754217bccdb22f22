"""Train the small model on the new rows, and bring its tables into the space in service."""

from kfp import dsl


@dsl.component(base_image="mec-python", packages_to_install=[], install_kfp_package=False)
def refresh_pretrain(
    refresh: str,
    pretrain: str,
    seed: int,
    work_dir: str,
    code_hash: str,
    champion: dsl.Input[dsl.Artifact],
    dataset: dsl.Input[dsl.Dataset],
    vocabulary: dsl.Input[dsl.Artifact],
    pretrained: dsl.Output[dsl.Model],
) -> None:
    from pathlib import Path

    from mec.artifacts import label
    from mec.config import PretrainConfig, RefreshConfig, section
    from mec.refresh.pretraining import refresh_pretrain_step
    from mec.tracking.champion_step import Base

    base = Base.open(champion.path)
    refresh_pretrain_step(
        refresh=section(RefreshConfig, refresh),
        pretrain=section(PretrainConfig, pretrain),
        dataset=Path(dataset.path),
        replay=base.paths("dataset"),
        vocabulary=Path(vocabulary.path),
        pretrained=base.path("pretrained"),
        seed=seed,
        checkpoints=Path(work_dir, "refresh_pretrain") if work_dir else None,
        out=Path(pretrained.path),
    )
    label(pretrained)
