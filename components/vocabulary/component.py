"""Give every counted value an id."""

from kfp import dsl


@dsl.component(base_image="mec-python", packages_to_install=[], install_kfp_package=False)
def vocabulary(
    count: str,
    code_hash: str,
    counts: dsl.Input[dsl.Artifact],
    vocabulary: dsl.Output[dsl.Artifact],
) -> None:
    from pathlib import Path

    from mec.artifacts import label
    from mec.config import CountConfig, section
    from mec.data.vocabulary import vocabulary_step

    vocabulary_step(
        counts=Path(counts.path),
        count=section(CountConfig, count),
        out=Path(vocabulary.path),
    )
    label(vocabulary)
