"""Code the refreshed tables: the next generation."""

from kfp import dsl


@dsl.component(base_image="mec-python", packages_to_install=[], install_kfp_package=False)
def recode(
    refresh: str,
    quantize: str,
    seed: int,
    code_hash: str,
    champion: dsl.Input[dsl.Artifact],
    pretrained: dsl.Input[dsl.Model],
    vocabulary: dsl.Input[dsl.Artifact],
    codebook: dsl.Output[dsl.Model],
    codes: dsl.Output[dsl.Artifact],
) -> None:
    from pathlib import Path

    from mec.artifacts import label
    from mec.config import QuantizeConfig, RefreshConfig, section
    from mec.refresh.recode_step import recode_step
    from mec.tracking.champion_step import Base

    base = Base.open(champion.path)
    recode_step(
        refresh=section(RefreshConfig, refresh),
        quantize=section(QuantizeConfig, quantize),
        pretrained=Path(pretrained.path),
        codebook=base.path("codebook"),
        codes=base.path("codes"),
        vocabulary=Path(vocabulary.path),
        seed=seed,
        out_codebook=Path(codebook.path),
        out_codes=Path(codes.path),
    )
    label(codebook, codes)
