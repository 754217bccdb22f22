"""Write the codes to the Feast online store."""

from kfp import dsl


@dsl.component(base_image="mec-python", packages_to_install=[], install_kfp_package=False)
def publish(
    publish: str,
    store: str,
    vocabulary: dsl.Input[dsl.Artifact],
    codebook: dsl.Input[dsl.Model],
    codes: dsl.Input[dsl.Artifact],
    publication: dsl.Output[dsl.Artifact],
) -> None:
    from pathlib import Path

    from mec.artifacts import label
    from mec.config import PublishConfig, section
    from mec.publish.publishing import publish_step

    publish_step(
        publish=section(PublishConfig, publish),
        store=Path(store),
        vocabulary=Path(vocabulary.path),
        codebook=Path(codebook.path),
        codes=Path(codes.path),
        out=Path(publication.path),
    )
    label(publication)
