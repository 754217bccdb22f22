"""Write rows as ids, in memory-mapped shards."""

from kfp import dsl


@dsl.component(base_image="mec-python", packages_to_install=[], install_kfp_package=False)
def encode(
    data: str,
    seed: int,
    data_version: str,
    code_hash: str,
    vocabulary: dsl.Input[dsl.Artifact],
    dataset: dsl.Output[dsl.Dataset],
) -> None:
    from pathlib import Path

    from mec.artifacts import label
    from mec.config import DataConfig, section
    from mec.data.encoding import encode_step

    encode_step(
        data=section(DataConfig, data),
        vocabulary=Path(vocabulary.path),
        seed=seed,
        out=Path(dataset.path),
    )
    label(dataset)
