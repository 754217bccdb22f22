"""Train and measure one compression method at one budget with one seed."""

from kfp import dsl


@dsl.component(base_image="mec-python", packages_to_install=[], install_kfp_package=False)
def bakeoff_cell(
    cell: str,
    train: str,
    evaluate: str,
    work_dir: str,
    code_hash: str,
    dataset: dsl.Input[dsl.Dataset],
    vocabulary: dsl.Input[dsl.Artifact],
    pretrained: dsl.Input[dsl.Model],
    result: dsl.Output[dsl.Artifact],
) -> None:
    from pathlib import Path

    from mec.artifacts import label, paths
    from mec.bakeoff.cell_step import bakeoff_cell_step
    from mec.bakeoff.cells import Cell
    from mec.config import EvaluateConfig, TrainConfig, section

    bakeoff_cell_step(
        cell=section(Cell, cell),
        train=section(TrainConfig, train),
        evaluate=section(EvaluateConfig, evaluate),
        **paths(dataset=dataset, vocabulary=vocabulary, pretrained=pretrained),
        checkpoints=Path(work_dir, "bakeoff") if work_dir else None,
        out=Path(result.path),
    )
    label(result)
