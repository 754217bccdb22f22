"""Count how often each value occurs in the training rows."""

from kfp import dsl


@dsl.component(base_image="mec-python", packages_to_install=[], install_kfp_package=False)
def count(
    data: str,
    count: str,
    seed: int,
    data_version: str,
    code_hash: str,
    counts: dsl.Output[dsl.Artifact],
) -> None:
    from pathlib import Path

    from mec.artifacts import label
    from mec.config import CountConfig, DataConfig, section
    from mec.data.counting import count_step

    count_step(
        data=section(DataConfig, data),
        count=section(CountConfig, count),
        seed=seed,
        out=Path(counts.path),
    )
    label(counts)
