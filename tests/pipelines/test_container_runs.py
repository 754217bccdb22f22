"""The docker runner without an engine: what is mounted, and what becomes of one container."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from docker.errors import APIError, DockerException
from kfp.local import docker_task_handler

from mec.config import RunConfig
from pipelines import containers
from pipelines.containers import REFUSED, run_container
from pipelines.parameters import resolve_paths


class FakeContainer:
    """Prints ``chunks``, ends with ``code``, and counts how often it was removed."""

    def __init__(self, chunks: list[bytes], code: int = 0, interrupted: bool = False) -> None:
        self.chunks, self.code, self.interrupted = chunks, code, interrupted
        self.removed = 0

    def logs(self, *, stream: bool) -> Any:
        assert stream
        yield from self.chunks
        if self.interrupted:
            raise KeyboardInterrupt

    def wait(self) -> dict[str, int]:
        assert not self.removed
        return {"StatusCode": self.code}

    def remove(self, *, force: bool) -> None:
        assert force
        self.removed += 1


class FakeClient:
    def __init__(self, container: FakeContainer | Exception) -> None:
        self.containers, self.container = self, container
        self.asked: dict[str, Any] = {}

    def run(self, **settings: Any) -> FakeContainer:
        self.asked = settings
        if isinstance(self.container, Exception):
            raise self.container
        return self.container


def ran(container: FakeContainer | Exception, **settings: Any) -> tuple[int, FakeClient]:
    client = FakeClient(container)
    return run_container(client=client, image="sha256:1", command=["step"], volumes={}, **settings), client


def test_it_takes_what_kubeflow_gives_its_own():
    ours, theirs = (
        [(p.name, p.kind) for p in inspect.signature(function).parameters.values()]
        for function in (run_container, docker_task_handler.run_docker_container)
    )
    assert [name for name, _ in ours][:4] == [name for name, _ in theirs][:4]
    assert [kind for _, kind in ours] == [kind for _, kind in theirs]


@pytest.mark.parametrize("code", [0, 3, 137])
def test_the_exit_code_is_the_containers_and_nothing_stays(code):
    container = FakeContainer([b"x\n"], code)
    returned, client = ran(container, user="1:1")
    assert (returned, container.removed) == (code, 1)
    assert client.asked == {
        "image": "sha256:1",
        "command": ["step"],
        "detach": True,
        "volumes": {},
        "user": "1:1",
    }


def test_lines_are_whole_wherever_the_stream_is_cut(capsys):
    text = "[train] 1 µ 2\n    é\n\nend"
    for size in (1, 2, 3, 100):
        data = text.encode()
        ran(FakeContainer([data[i : i + size] for i in range(0, len(data), size)]))
        assert capsys.readouterr().out == text + "\n"


def test_bytes_that_are_no_text_do_not_end_the_run(capsys):
    assert ran(FakeContainer([b"\xff\xfe ok\n\xc3"]))[0] == 0
    assert capsys.readouterr().out == "�� ok\n�\n"


def test_an_interrupted_container_is_removed():
    container = FakeContainer([b"x\n"], interrupted=True)
    with pytest.raises(KeyboardInterrupt):
        ran(container)
    assert container.removed == 1


@pytest.mark.parametrize("error", [DockerException("no such device"), ConnectionError("no such device")])
def test_what_the_engine_refuses_is_told_as_a_failed_step(error, capsys):
    assert ran(error)[0] == REFUSED
    assert capsys.readouterr().out == "the container engine did not start the step: no such device\n"


@pytest.mark.parametrize(
    ("status", "is_there", "raised"),
    [(404, False, False), (409, True, False), (500, True, True), (500, False, False)],  # the last is podman's
)
def test_a_container_that_is_gone_already_is_no_error(status, is_there, raised, monkeypatch):
    class Response:
        status_code = status

    class Engine:
        @property
        def containers(self) -> Engine:
            return self

        def list(self, **asked: Any) -> list[Any]:
            assert asked == {"all": True, "sparse": True, "filters": {"id": container.id}}
            return [container] if is_there else []

    def remove(*, force: bool) -> None:
        raise APIError("no", response=Response())

    container = FakeContainer([])
    container.id, container.client = "c1", Engine()
    monkeypatch.setattr(container, "remove", remove)
    if raised:
        with pytest.raises(APIError):
            ran(container)
    else:
        assert ran(container)[0] == 0


class TestMounts:
    """Directory -> whether it is read-only."""

    @pytest.fixture(autouse=True)
    def here(self, tmp_path, monkeypatch) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def mounted(self, tmp_path: Path, *reads: Path, **sections: Any) -> dict[str, bool]:
        config = resolve_paths(RunConfig.model_validate({"store": "store", **sections}))
        found = list(containers._mounts(config, tmp_path / "out", reads))
        assert all(mount["Source"] == mount["Target"] for mount in found)
        names = [str(Path(mount["Target"]).relative_to(tmp_path)) for mount in found]
        assert len(set(names)) == len(names)
        return dict(zip(names, [bool(mount["ReadOnly"]) for mount in found], strict=True))

    def test_synthetic_rows_need_only_what_is_written(self, tmp_path):
        assert self.mounted(tmp_path) == {"store": False, "out/checkpoints": False}
        assert (tmp_path / "store").is_dir()
        assert (tmp_path / "out" / "checkpoints").is_dir()

    def test_rows_are_read_only_and_a_pattern_gives_its_directory(self, tmp_path):
        (tmp_path / "rows" / "a").mkdir(parents=True)
        for path, mount in [("rows", "rows"), ("rows/*.csv", "rows"), ("rows/a/**/*.parquet", "rows/a")]:
            found = self.mounted(tmp_path, data={"path": path, "categorical": ["x"]})
            assert found == {"store": False, "out/checkpoints": False, mount: True}

    def test_rows_below_the_store_need_no_mount_of_their_own(self, tmp_path):
        (tmp_path / "store" / "rows").mkdir(parents=True)
        found = self.mounted(tmp_path, data={"path": "store/rows", "categorical": ["x"]})
        assert found == {"store": False, "out/checkpoints": False}

    def test_a_link_is_there_by_both_names(self, tmp_path):
        (tmp_path / "real").mkdir()
        (tmp_path / "store").symlink_to("real")
        found = self.mounted(tmp_path, tracking={"enabled": False})
        assert found == {"store": False, "real": False, "out/checkpoints": False}

    def test_a_feature_repo_and_a_database_elsewhere_are_written(self, tmp_path):
        (tmp_path / "repo").mkdir()
        uri = f"sqlite:///{tmp_path}/mlflow/runs.db"
        found = self.mounted(tmp_path, publish={"feature_repo": "repo"}, tracking={"uri": uri})
        assert found == {"store": False, "out/checkpoints": False, "repo": False, "mlflow": False}

    def test_what_is_turned_off_or_a_server_is_not_mounted(self, tmp_path):
        (tmp_path / "repo").mkdir()
        found = self.mounted(
            tmp_path,
            publish={"feature_repo": "repo", "enabled": False},
            tracking={"uri": "http://mlflow.example:5000"},
        )
        assert found == {"store": False, "out/checkpoints": False}

    def test_bundles_of_earlier_runs_are_read_where_they_still_are(self, tmp_path):
        old = tmp_path / "runs" / "old" / "dataset"
        old.mkdir(parents=True)
        found = self.mounted(tmp_path, old, tmp_path / "runs" / "gone")
        assert found == {"store": False, "out/checkpoints": False, "runs/old/dataset": True}
