"""Ask the registry which version is to be refreshed."""

from kfp import dsl


@dsl.component(base_image="mec-python", packages_to_install=[], install_kfp_package=False)
def find_champion(tracking: str, name: str, store: str, version: str, data_version: str) -> str:
    from pathlib import Path

    from mec.config import TrackingConfig, section
    from mec.tracking.base_version import find_champion_step

    return find_champion_step(
        tracking=section(TrackingConfig, tracking),
        name=name,
        store=Path(store),
        version=version,
        data_version=data_version,
    )
