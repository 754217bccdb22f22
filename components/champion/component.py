"""Look up what is in service: the version to refresh, and its bundles."""

from kfp import dsl


@dsl.component(base_image="mec-python", packages_to_install=[], install_kfp_package=False)
def champion(
    tracking: str,
    name: str,
    store: str,
    version: str,
    data: str,
    refresh: str,
    seed: int,
    data_version: str,
    code_hash: str,
    champion: dsl.Output[dsl.Artifact],
) -> None:
    from pathlib import Path

    from mec.artifacts import label
    from mec.config import DataConfig, RefreshConfig, TrackingConfig, section
    from mec.tracking.champion_step import champion_step

    champion_step(
        tracking=section(TrackingConfig, tracking),
        name=name,
        store=Path(store),
        version=version,
        data=section(DataConfig, data),
        data_version=data_version,
        refresh=section(RefreshConfig, refresh),
        seed=seed,
        out=Path(champion.path),
    )
    label(champion)
