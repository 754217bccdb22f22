"""From a run's settings to the parameters of the train pipeline."""

from __future__ import annotations

from pathlib import Path

from mec.config import RunConfig

SECTIONS = ("data", "count", "pretrain", "quantize", "publish", "train", "evaluate", "tracking")


def section_parameters(config: RunConfig) -> dict[str, str | int]:
    """The parameters that carry settings: the name, the seed, the store, and each section as JSON."""
    sections = {name: getattr(config, name).model_dump_json() for name in SECTIONS}
    return {"name": config.name, "seed": config.seed, "store": config.store, **sections}


def resolve_paths(config: RunConfig) -> RunConfig:
    """Make the paths in a config absolute, taken from the working directory."""
    data, publish = config.data, config.publish
    if data.path is not None:
        data = data.model_copy(update={"path": str(Path(data.path).absolute())})
    if publish.feature_repo is not None:
        publish = publish.model_copy(update={"feature_repo": str(Path(publish.feature_repo).absolute())})
    return config.model_copy(update={"data": data, "publish": publish, "store": str(Path(config.store).absolute())})
