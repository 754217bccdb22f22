"""Run the steps in containers of ``config.image`` on this machine, through ``kfp.local.DockerRunner``.

A container sees the run's directory, the store, the rows and the feature repo where they lie here, and this machine's
network, so that every setting means what it means to a step in a process.
"""

from __future__ import annotations

import codecs
import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from kfp import components, local
from kfp.local import docker_task_handler

from mec.config import RunConfig
from mec.errors import ConfigError
from mec.tracking.runs import tracking_uri
from pipelines.compiling import PIPELINES, pipeline_yaml

RUN_LABEL = "mec.run"  # on every container; its value is the run's directory
REFUSED = 125  # exit code of a container that the engine did not start, as of ``docker run``
# endpoints, credentials, and how many threads a step may use
_PASSED_ON = ("AWS_", "FEAST_", "MLFLOW_", "OMP_NUM_THREADS")
_SQLITE = "sqlite:///"


def image_id(config: RunConfig) -> str:
    """Id of ``config.image`` in the container engine; it stands for the code in the image.

    Raises:
        ConfigError: No image set, no engine, or an engine that does not have the image.
    """
    import docker
    from docker.errors import DockerException, ImageNotFound

    if config.image is None:
        raise ConfigError("the docker runner needs an image", fix="`make images`, and pass --set image=NAME:TAG")
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


class Containers(contextlib.AbstractContextManager["Containers"]):
    """The containers of one run: what they see and who they are; none of them is there before the block or after it.

    Inside the block Kubeflow's runner starts containers by ``run_container``.

    Args:
        config: Settings, paths resolved.
        out: The run's directory, absolute.
        image: Id of the image.
        reads: What steps read beside the paths in the config.
    """

    def __init__(self, config: RunConfig, out: Path, image: str, reads: Sequence[Path] = ()) -> None:
        self._image = image
        self._label = f"{RUN_LABEL}={out}"
        self._kubeflows = docker_task_handler.run_docker_container
        arguments: dict[str, Any] = {
            "user": _user(),
            "environment": {name: value for name, value in os.environ.items() if name.startswith(_PASSED_ON)},
            "mounts": list(_mounts(config, out, reads)),
            "labels": {RUN_LABEL: str(out)},
            "network_mode": "host",
            "security_opt": ["label=disable"],  # else SELinux keeps the mounted directories from the steps
        }
        if '"device":"cuda' in config.model_dump_json():
            from docker.types import DeviceRequest

            arguments["device_requests"] = [DeviceRequest(count=-1, capabilities=[["gpu"]])]
        self.runner = local.DockerRunner(**arguments)

    def pipeline(self, name: str) -> Callable[..., Any]:
        """One of ``PIPELINES`` with the image in it; branches of a loop run one at a time, as in processes."""
        text = pipeline_yaml(self._image, PIPELINES[name], branches_at_once=1)
        pipeline: Callable[..., Any] = components.load_component_from_text(text)
        return pipeline

    def __enter__(self) -> Containers:
        self._remove()  # what a run that was killed left, which may still be writing here
        docker_task_handler.run_docker_container = run_container
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        docker_task_handler.run_docker_container = self._kubeflows
        self._remove()

    def kill(self) -> None:
        """End the steps that run now; safe to repeat, from any thread."""
        import docker
        from docker.errors import DockerException

        with contextlib.suppress(DockerException, OSError), contextlib.closing(docker.from_env()) as client:
            for container in client.containers.list(filters={"label": self._label}, sparse=True):
                with contextlib.suppress(DockerException):  # ended by itself meanwhile
                    container.kill()

    def _remove(self) -> None:
        import docker

        with contextlib.closing(docker.from_env()) as client:
            # sparse: without a second question about each, which fails where one goes away meanwhile
            for container in client.containers.list(all=True, filters={"label": self._label}, sparse=True):
                _discard(container)


def run_container(client: Any, image: str, command: list[str], volumes: dict[str, Any], **settings: Any) -> int:
    """Run one container to its end, its output line by line on standard output.

    It takes the place of Kubeflow's own function, which has the engine remove a container when it ends and takes one
    that is gone before its exit code was asked for to have succeeded, which pulls images that have an id and no name,
    and which leaves the container running when it is interrupted.

    Args:
        client: Of the docker SDK.
        image: Name or id.
        command: All of it; an image must have no entrypoint.
        volumes: As the docker SDK takes them.
        settings: Others of ``containers.run``.

    Returns:
        The container's exit code; ``REFUSED`` if the engine did not start it.
    """
    from docker.errors import DockerException

    try:
        container = client.containers.run(image=image, command=command, detach=True, volumes=volumes, **settings)
    except (DockerException, OSError) as error:
        print(f"the container engine did not start the step: {error}")
        return REFUSED
    try:
        for line in _lines(container.logs(stream=True)):
            print(line)
        return int(container.wait()["StatusCode"])
    finally:
        _discard(container)


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    """Whole lines of a stream whose pieces end anywhere, inside a character too."""
    decoder, pending = codecs.getincrementaldecoder("utf-8")(errors="replace"), ""
    for chunk in chunks:
        *lines, pending = (pending + decoder.decode(chunk)).split("\n")
        yield from lines
    pending += decoder.decode(b"", final=True)
    if pending:
        yield pending


def _discard(container: Any) -> None:
    from docker.errors import APIError

    try:
        container.remove(force=True)
    except APIError as error:
        gone_or_going = error.status_code in (404, 409)
        # podman answers 500 for one that goes away while it is asked
        if not gone_or_going and container.client.containers.list(all=True, filters={"id": container.id}, sparse=True):
            raise


def _user() -> str:
    """Whoever owns the run's directory. In a rootless engine that is root, which stands for the user outside."""
    import docker

    with contextlib.closing(docker.from_env()) as client:
        rootless = any("rootless" in option for option in client.info().get("SecurityOptions") or ())
    return "0:0" if rootless else f"{os.getuid()}:{os.getgid()}"


def _mounts(config: RunConfig, out: Path, reads: Sequence[Path]) -> Iterator[Any]:
    """What a run writes and reads, by the names that it has here; Kubeflow adds its pipeline root."""
    from docker.types import Mount

    writes = [Path(config.store), out / "checkpoints"]
    if config.tracking.enabled and (uri := tracking_uri(config.tracking, Path(config.store))).startswith(_SQLITE):
        writes.append(Path(uri.removeprefix(_SQLITE)).parent)
    if config.publish.enabled and config.publish.feature_repo is not None:
        writes.append(Path(config.publish.feature_repo))
    for directory in writes:
        directory.mkdir(parents=True, exist_ok=True)
    read = [existing_place(Path(path)) for path in config.data.paths]
    read += [path for path in reads if path.exists()]  # a step names what is gone
    mounted: dict[Path, bool] = {}
    for path, read_only in [(path, False) for path in writes] + [(path, True) for path in read]:
        for name in (path, path.resolve()):
            if not any(name == other or (other in name.parents and read_only) for other in mounted):
                mounted[name] = read_only
    for name, read_only in mounted.items():
        yield Mount(str(name), str(name), "bind", read_only=read_only)


def existing_place(path: Path) -> Path:
    """The path, or for a pattern the deepest directory above it that is there."""
    while not path.exists():
        path = path.parent
    return path
