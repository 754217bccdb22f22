"""Ask the registry which version is to be refreshed, and whether a training could follow where it is wanted."""

from kfp import dsl


@dsl.component(base_image="mec-python", packages_to_install=[], install_kfp_package=False)
def find_champion(
    tracking: str,
    name: str,
    store: str,
    version: str,
    refresh: str,
    data: str,
    new_data: str,
    seed: int,
    data_version: str,
) -> str:
    from pathlib import Path

    from mec.config import DataConfig, RefreshConfig, TrackingConfig, section
    from mec.tracking.base_version import find_champion_step
    from mec.tracking.training_rows import TrainingRows

    trains = section(RefreshConfig, refresh).on_escalation == "train"
    rows = TrainingRows(section(DataConfig, data), section(DataConfig, new_data), seed) if trains else None
    return find_champion_step(
        tracking=section(TrackingConfig, tracking),
        name=name,
        store=Path(store),
        version=version,
        data_version=data_version,
        training=rows,
    )
