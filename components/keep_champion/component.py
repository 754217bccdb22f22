"""Leave what is in service as it is, log why, and on escalation say what to run."""

from kfp import dsl


@dsl.component(base_image="mec-python", packages_to_install=[], install_kfp_package=False)
def keep_champion(
    tracking: str,
    name: str,
    store: str,
    new_data: str,
    run_id: str,
    champion: dsl.Input[dsl.Artifact],
    evaluation: dsl.Input[dsl.Artifact],
    decision: dsl.Input[dsl.Artifact],
    outcome: dsl.Output[dsl.Artifact],
) -> str:
    from pathlib import Path

    from mec.artifacts import label
    from mec.config import DataConfig, TrackingConfig, section
    from mec.tracking.promoting import keep_champion_step

    keep_champion_step(
        tracking=section(TrackingConfig, tracking),
        name=name,
        store=Path(store),
        data=section(DataConfig, new_data),
        champion=Path(champion.path),
        evaluation=Path(evaluation.path),
        decision=Path(decision.path),
        run_id=run_id,
        out=Path(outcome.path),
    )
    label(outcome)
    return Path(outcome.path, "outcome.json").read_text(encoding="utf-8")
