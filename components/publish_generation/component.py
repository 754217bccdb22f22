"""Write to the online store what differs from the generation in service."""

from kfp import dsl


@dsl.component(base_image="mec-python", packages_to_install=[], install_kfp_package=False)
def publish_generation(
    publish: str,
    tracking: str,
    store: str,
    champion: dsl.Input[dsl.Artifact],
    vocabulary: dsl.Input[dsl.Artifact],
    codebook: dsl.Input[dsl.Model],
    codes: dsl.Input[dsl.Artifact],
    publication: dsl.Output[dsl.Artifact],
) -> None:
    from pathlib import Path

    from mec.artifacts import label
    from mec.config import PublishConfig, TrackingConfig, section
    from mec.tracking.publishing import publish_generation_step

    publish_generation_step(
        publish=section(PublishConfig, publish),
        tracking=section(TrackingConfig, tracking),
        store=Path(store),
        champion=Path(champion.path),
        vocabulary=Path(vocabulary.path),
        codebook=Path(codebook.path),
        codes=Path(codes.path),
        out=Path(publication.path),
    )
    label(publication)
