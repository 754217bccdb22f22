"""Decide on a refresh: promote the new generation, keep the old one, or escalate."""

from kfp import dsl


@dsl.component(base_image="mec-python", packages_to_install=[], install_kfp_package=False)
def decide(
    refresh: str,
    code_hash: str,
    evaluation: dsl.Input[dsl.Artifact],
    decision: dsl.Output[dsl.Artifact],
) -> str:
    import json
    from pathlib import Path

    from mec.artifacts import label
    from mec.config import RefreshConfig, section
    from mec.refresh.steps import decision_step

    out = Path(decision.path)
    decision_step(refresh=section(RefreshConfig, refresh), evaluation=Path(evaluation.path), out=out)
    label(decision)
    return str(json.loads((out / "decision.json").read_bytes())["action"])
