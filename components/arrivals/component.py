"""Refuse new rows that are incomplete, or not new, before anything is made of them."""

from kfp import dsl


@dsl.component(base_image="mec-python", packages_to_install=[], install_kfp_package=False)
def arrivals(
    refresh: str,
    new_data: str,
    seed: int,
    data_version: str,
    code_hash: str,
    champion: dsl.Input[dsl.Artifact],
    arrivals: dsl.Output[dsl.Artifact],
    row_hashes: dsl.Output[dsl.Artifact],
) -> None:
    from pathlib import Path

    from mec.artifacts import label
    from mec.config import DataConfig, RefreshConfig, section
    from mec.refresh.arriving import arrivals_step
    from mec.tracking.champion_step import Base

    base = Base.open(champion.path)
    arrivals_step(
        refresh=section(RefreshConfig, refresh),
        data=section(DataConfig, new_data),
        model=base.path("model"),
        earlier=base.paths("row_hashes"),
        seed=seed,
        out=Path(arrivals.path),
        out_hashes=Path(row_hashes.path),
    )
    label(arrivals, row_hashes)
