"""Measure the untouched backbone on held-out new rows, with stale codes and with new ones."""

from kfp import dsl


@dsl.component(base_image="mec-python", packages_to_install=[], install_kfp_package=False)
def refresh_evaluate(
    refresh: str,
    evaluate: str,
    code_hash: str,
    champion: dsl.Input[dsl.Artifact],
    dataset: dsl.Input[dsl.Dataset],
    vocabulary: dsl.Input[dsl.Artifact],
    codebook: dsl.Input[dsl.Model],
    codes: dsl.Input[dsl.Artifact],
    evaluation: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
) -> None:
    from pathlib import Path

    from mec.artifacts import label, show
    from mec.config import EvaluateConfig, RefreshConfig, section
    from mec.refresh.evaluating import refresh_evaluate_step
    from mec.tracking.champion_step import Base

    base, out = Base.open(champion.path), Path(evaluation.path)
    refresh_evaluate_step(
        refresh=section(RefreshConfig, refresh),
        evaluate=section(EvaluateConfig, evaluate),
        dataset=Path(dataset.path),
        vocabulary=Path(vocabulary.path),
        **{role: base.path(role) for role in ("model", "evaluation", "codebook", "codes")},
        new_codebook=Path(codebook.path),
        new_codes=Path(codes.path),
        out=out,
    )
    show(Report=(report, (out / "report.html").read_text("utf-8")))
    label(evaluation)
