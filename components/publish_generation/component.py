"""Write to the online store what differs from the generation in service."""

from kfp import dsl


@dsl.component(base_image="mec-python", packages_to_install=[], install_kfp_package=False)
def publish_generation(
    publish: str,
    store: str,
    champion: dsl.Input[dsl.Artifact],
    vocabulary: dsl.Input[dsl.Artifact],
    codebook: dsl.Input[dsl.Model],
    codes: dsl.Input[dsl.Artifact],
    publication: dsl.Output[dsl.Artifact],
) -> None:
    from pathlib import Path

    from mec.artifacts import label
    from mec.config import PublishConfig, section
    from mec.publish.publishing import publish_step
    from mec.tracking.champion_step import Base

    base = Base.open(champion.path)
    publish_step(
        publish=section(PublishConfig, publish),
        store=Path(store),
        vocabulary=Path(vocabulary.path),
        codebook=Path(codebook.path),
        codes=Path(codes.path),
        online_codes=base.path("codes"),
        online_vocabulary=base.path("vocabulary"),
        out=Path(publication.path),
    )
    label(publication)
