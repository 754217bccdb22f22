"""Turn the pre-trained vectors into codebooks and packed codes."""

from kfp import dsl


@dsl.component(base_image="mec-python", packages_to_install=[], install_kfp_package=False)
def quantize(
    quantize: str,
    seed: int,
    code_hash: str,
    pretrained: dsl.Input[dsl.Model],
    vocabulary: dsl.Input[dsl.Artifact],
    codebook: dsl.Output[dsl.Model],
    codes: dsl.Output[dsl.Artifact],
) -> None:
    from pathlib import Path

    from mec.artifacts import label
    from mec.config import QuantizeConfig, section
    from mec.quantize.quantizing import quantize_step

    quantize_step(
        quantize=section(QuantizeConfig, quantize),
        pretrained=Path(pretrained.path),
        vocabulary=Path(vocabulary.path),
        seed=seed,
        out_codebook=Path(codebook.path),
        out_codes=Path(codes.path),
    )
    label(codebook, codes)
