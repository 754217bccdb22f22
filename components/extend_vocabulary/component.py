"""Append the values of the new rows to the vocabulary in service."""

from kfp import dsl


@dsl.component(base_image="mec-python", packages_to_install=[], install_kfp_package=False)
def extend_vocabulary(
    count: str,
    refresh: str,
    code_hash: str,
    champion: dsl.Input[dsl.Artifact],
    counts: dsl.Input[dsl.Artifact],
    vocabulary: dsl.Output[dsl.Artifact],
) -> None:
    from pathlib import Path

    from mec.artifacts import label
    from mec.config import CountConfig, RefreshConfig, section
    from mec.refresh.vocabulary import extend_vocabulary_step
    from mec.tracking.champion_step import Base

    extend_vocabulary_step(
        parent=Base.open(champion.path).path("vocabulary"),
        counts=Path(counts.path),
        count=section(CountConfig, count),
        keep=section(RefreshConfig, refresh).keep_counts,
        out=Path(vocabulary.path),
    )
    label(vocabulary)
