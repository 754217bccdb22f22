"""Run the steps in containers of ``config.image`` on this machine, through ``kfp.local.DockerRunner``."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kfp import components, local

from mec.config import RunConfig
from mec.errors import ConfigError
from pipelines.compiling import PIPELINES, pipeline_name, pipeline_yaml

_ENDPOINTS_AND_CREDENTIALS = (
    "MLFLOW_TRACKING_URI",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
)


def image_id(config: RunConfig) -> str:
    """Id of ``config.image`` in the container engine; it stands for the code in the image.

    Raises:
        ConfigError: No image set, no engine, or an engine that does not have the image.
    """
    import docker
    from docker.errors import DockerException, ImageNotFound

    if config.image is None:
        raise ConfigError(
            "the docker runner needs an image", fix="build one with mec installed and pass --set image=NAME:TAG"
        )
    try:
        with contextlib.closing(docker.from_env()) as client:
            return str(client.images.get(config.image).id)
    except ImageNotFound:
        raise ConfigError(
            "the container engine does not have the image", found=config.image, fix="build it or pull it first"
        ) from None
    except DockerException as error:
        raise ConfigError(
            "no container engine answers",
            found=error,
            fix="start Docker, or podman with its Docker API, and set DOCKER_HOST; or use --runner subprocess",
        ) from None


def containerized(config: RunConfig, out: Path) -> tuple[Callable[..., Any], local.DockerRunner]:
    """The pipeline that the config asks for with the image in it, and the runner with the config's directories mounted.

    Args:
        config: Settings, paths resolved.
        out: The run's directory; Kubeflow mounts its pipeline root in it, this adds the checkpoints.
    """
    from docker.types import Mount

    assert config.image is not None, "image_id refuses it"
    writable = [Path(config.store), out / "checkpoints"]
    for directory in writable:
        directory.mkdir(parents=True, exist_ok=True)
    readable = [_existing(Path(path)) for path in (config.data.path, config.publish.feature_repo) if path is not None]
    mounts = [Mount(str(path), str(path), "bind") for path in writable]
    mounts += [Mount(str(path), str(path), "bind", read_only=True) for path in readable]
    environment = {name: os.environ[name] for name in _ENDPOINTS_AND_CREDENTIALS if name in os.environ}
    runner = local.DockerRunner(
        user=f"{os.getuid()}:{os.getgid()}", environment={"HOME": "/tmp", **environment}, mounts=mounts
    )
    text = pipeline_yaml(config.image, PIPELINES[pipeline_name(config)], branches_at_once=1)
    return components.load_component_from_text(text), runner


def _existing(path: Path) -> Path:
    """The path, or for a pattern the deepest directory above it that is there."""
    while not path.exists():
        path = path.parent
    return path
