"""Decide on a refresh: promote the new generation, keep the old one, or escalate."""

from kfp import dsl


@dsl.component(base_image="mec-python", packages_to_install=[], install_kfp_package=False)
def decide(
    refresh: str,
    code_hash: str,
    evaluation: dsl.Input[dsl.Artifact],
    decision: dsl.Output[dsl.Artifact],
) -> str:
    from pathlib import Path

    from mec.artifacts import label
    from mec.config import RefreshConfig, section
    from mec.refresh.deciding import branch_after, decision_step

    settings = section(RefreshConfig, refresh)
    decision_step(refresh=settings, evaluation=Path(evaluation.path), out=Path(decision.path))
    label(decision)
    return branch_after(Path(decision.path), settings)
