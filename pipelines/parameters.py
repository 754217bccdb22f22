"""From a run's settings to the parameters of the pipelines."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from mec.config import DataConfig, RunConfig
from mec.errors import ConfigError
from mec.publish.store import store_file
from mec.tracking.runs import tracking_uri

SECTIONS = ("data", "count", "pretrain", "quantize", "publish", "train", "evaluate", "tracking")
REFRESH_SECTIONS = (*SECTIONS, "refresh")


def section_parameters(config: RunConfig) -> dict[str, Any]:
    """The parameters that carry settings: the name, the seed, the store, and each section as JSON.

    With several backbones, ``backbones`` takes the place of ``train``: one item for each, with the train section
    that its own training reads and a tracking section that names its registered model.
    """
    sections = {name: getattr(config, name).model_dump_json() for name in SECTIONS}
    parameters = {"name": config.name, "seed": config.seed, "store": config.store, **sections}
    if config.train.several:
        del parameters["train"]
        parameters["backbones"] = [
            {"train": train.model_dump_json(), "tracking": _branch_tracking(config, train.model)}
            for train in config.train.each()
        ]
    return parameters


def refresh_parameters(config: RunConfig, new_data: DataConfig, version: str) -> dict[str, Any]:
    """The parameters of the refresh pipeline that carry settings; see ``pipelines.refresh``.

    Args:
        config: Settings.
        new_data: Data section of the new rows.
        version: Number of the version to refresh; empty: the champion.
    """
    sections = {name: getattr(config, name).model_dump_json() for name in REFRESH_SECTIONS}
    own = {"name": config.name, "seed": config.seed, "store": config.store, "version": version}
    settings = {name: json.loads(text) for name, text in sections.items()} | {"name": config.name, "seed": config.seed}
    settings["new_data"] = new_data.model_dump(mode="json")
    return {**own, **sections, "new_data": new_data.model_dump_json(), "settings": json.dumps(settings)}


def refuse_to_refresh(config: RunConfig) -> None:
    """Refuse a config whose models no refresh can find.

    Raises:
        ConfigError: Tracking is off, or it names several backbones.
    """
    if not config.tracking.enabled:
        raise ConfigError(
            "a refresh looks its champion up in the model registry",
            found="tracking.enabled false",
            fix="enable tracking, for the train run as well",
        )
    if config.train.several:
        names = ", ".join(f"{config.tracking.model_name or config.name}-{train.model}" for train in config.train.each())
        raise ConfigError(
            "one registered model is refreshed at a time",
            found=names,
            fix="name its backbone and model, such as --set train.model=pnn --set tracking.model_name=NAME-pnn",
        )


def _branch_tracking(config: RunConfig, backbone: str) -> str:
    name = f"{config.tracking.model_name or config.name}-{backbone}"
    return config.tracking.model_copy(update={"model_name": name}).model_dump_json()


def refuse_wrong_backbone(config: RunConfig) -> None:
    """Refuse an unknown backbone, or settings of another model, before the steps ahead of training are run.

    Defaults need no look, so that torch is not imported for them.

    Raises:
        ConfigError: As ``check_backbone_settings``.
    """
    default = type(config.train).model_fields["model"].default
    for train in config.train.each():
        if train.settings or train.model != default:
            from mec.models import check_backbone_settings

            check_backbone_settings(train.model, train.settings)
    if config.pretrain.settings:
        from mec.models import check_backbone_settings

        check_backbone_settings(config.pretrain.model, config.pretrain.settings)


def refuse_what_is_not_here(config: RunConfig, *, devices: bool = True) -> None:
    """Refuse devices and stores that steps on this machine would look for in vain, some of them late.

    Args:
        config: Settings, paths resolved.
        devices: Whether the steps use the torch that is installed here, so that its devices are theirs.

    Raises:
        ConfigError: A device is not on this machine, or the ``store`` that the run needs cannot be written.
        PublishError: ``publish.feature_repo`` is no feature repo.
        TrackingError: MLflow does not take ``tracking.uri``.
    """
    if devices:
        _refuse_missing_devices(config)
    store, needs_store = Path(config.store), False
    if config.publish.enabled:
        needs_store = config.publish.feature_repo is None
        if config.publish.feature_repo is not None:
            store_file(Path(config.publish.feature_repo))
    if config.tracking.enabled:
        needs_store |= str(store.resolve()) in tracking_uri(config.tracking, store)
    if needs_store:
        _refuse_unwritable(store)


def _refuse_missing_devices(config: RunConfig) -> None:
    devices = {"pretrain.device": config.pretrain.device, "train.device": config.train.device}
    devices["quantize.device"] = config.quantize.device
    if config.evaluate.reference == "full":
        devices["evaluate.full.device"] = config.evaluate.full.device
    for setting, device in devices.items():
        if device != "cpu":
            from mec.devices import find_device

            find_device(device, setting)


def _refuse_unwritable(store: Path) -> None:
    """Try what there is of a directory, or its nearest parent, and leave nothing there."""
    existing = next(path for path in (store, *store.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise ConfigError(
            f"cannot write to the store {store}",
            found=error.strerror,
            fix="set `store` to a directory that you may write to, or one that is not there yet",
        ) from None


def resolve_paths(config: RunConfig) -> RunConfig:
    """Make the paths in a config absolute, taken from the working directory."""
    data, publish = config.data, config.publish
    if data.path is not None:
        places = tuple(str(Path(path).absolute()) for path in data.paths)
        data = data.model_copy(update={"path": places[0] if isinstance(data.path, str) else places})
    if publish.feature_repo is not None:
        publish = publish.model_copy(update={"feature_repo": str(Path(publish.feature_repo).absolute())})
    return config.model_copy(update={"data": data, "publish": publish, "store": str(Path(config.store).absolute())})
