"""Leave what is in service as it is, log why, and on escalation say what to run, and on which rows."""

from typing import NamedTuple

from kfp import dsl


@dsl.component(base_image="mec-python", packages_to_install=[], install_kfp_package=False)
def keep_champion(
    tracking: str,
    name: str,
    store: str,
    data: str,
    new_data: str,
    seed: int,
    then_train: bool,
    run_id: str,
    champion: dsl.Input[dsl.Artifact],
    evaluation: dsl.Input[dsl.Artifact],
    decision: dsl.Input[dsl.Artifact],
    outcome: dsl.Output[dsl.Artifact],
) -> NamedTuple("Kept", [("facts", str), ("train_data", str), ("train_data_version", str)]):  # type: ignore[valid-type]
    from pathlib import Path

    from mec import artifacts
    from mec.config import DataConfig, TrackingConfig, section
    from mec.tracking.keeping import keep_champion_step
    from mec.tracking.training_rows import TrainingRows

    rows = TrainingRows(section(DataConfig, data), section(DataConfig, new_data), seed)
    paths = artifacts.paths(champion=champion, evaluation=evaluation, decision=decision, out=outcome)
    train_data, version = keep_champion_step(
        tracking=section(TrackingConfig, tracking), name=name, store=Path(store), rows=rows, then_train=then_train,
        run_id=run_id, **paths,
    )  # fmt: skip
    artifacts.label(outcome)
    return Path(outcome.path, "outcome.json").read_text(encoding="utf-8"), train_data, version
