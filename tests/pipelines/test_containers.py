"""The image, and train and refresh runs in containers of it: the bytes that processes make, and nothing left behind."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.errors import APIError, DockerException

from mec.version import __version__
from pipelines.containers import RUN_LABEL
from tests.pipelines.periods import ROOT, mec, start, write_periods

IMAGE = f"mec:{__version__}-cpu"
MAX_BYTES = 2.5e9
TRAIN = ("--set", "train.model=[lr,pnn]")
REFRESH = ("--set", "train.model=lr", "--set", "tracking.model_name=shop-lr", "--data", "period-1.parquet")
IN_CONTAINERS = ("--runner", "docker", "--set", f"image={IMAGE}")
ESCALATE = ("--set", "refresh.bounds.min_auc=1")  # no refresh is that good, so nothing in service changes
# their bundles hold times, or names of things outside the run
OUTSIDE = {"publication", "comparison", "evaluation", "registration"}
FACTS = """
id -u; id -g
touch ~/here && echo "home is writable"
for program in cc gcc g++ clang make ld; do command -v $program; done
find /opt/venv -type d -name tests; ls -d /root/.cache/pip /home/mec/.cache /var/lib/apt/lists/*
python -c 'import getpass; getpass.getuser()'
"""

pytestmark = pytest.mark.containers


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    try:
        client = docker.from_env()
        client.ping()
    except (DockerException, OSError) as error:
        pytest.skip(f"no container engine answers: {error}")
    with contextlib.closing(client):
        yield client


@pytest.fixture(scope="module")
def image(engine: Any) -> Any:
    done = subprocess.run(["make", "images"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return engine.images.get(IMAGE)


def test_the_image_is_what_a_cluster_wants(image: Any) -> None:
    settings = image.attrs["Config"]
    user, group = settings["User"].split(":")
    assert int(user) > 0
    assert int(group) > 0
    assert not settings.get("Entrypoint")
    labels = settings["Labels"]
    assert labels["org.opencontainers.image.version"] == __version__
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", labels["org.opencontainers.image.revision"])
    assert image.attrs["Size"] < MAX_BYTES


@pytest.mark.parametrize("user", [None, "4321:0", "4321:4321"])
def test_any_user_finds_a_home_and_no_compiler_cache_or_test(engine: Any, image: Any, user: str | None) -> None:
    told = engine.containers.run(image.id, ["sh", "-c", FACTS], user=user, remove=True, network_mode="none")
    expected = user or image.attrs["Config"]["User"]
    assert told.decode().split("\n") == [*expected.split(":"), "home is writable", ""]


def containers_of(engine: Any, out: Path) -> list[Any]:
    return list(engine.containers.list(all=True, filters={"label": f"{RUN_LABEL}={out}"}, sparse=True))


def begun(engine: Any, runner: subprocess.Popen[str], out: Path, step: str) -> None:
    """Wait until a step's container runs."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        assert runner.poll() is None, f"the run ended before {step} began"
        for container in containers_of(engine, out):
            try:
                container.reload()
            except APIError:  # gone meanwhile; podman answers 500, not 404
                continue
            if container.attrs["State"]["Running"] and container.attrs["Config"]["Cmd"][-1] == step:
                return
        time.sleep(0.1)
    raise AssertionError(f"{step} did not begin")


def summary(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "summary.json").read_text(encoding="utf-8")))


def uuids(part: dict[str, Any]) -> dict[str, str]:
    return {name: uuid for name, uuid in part["lineage"].items() if name not in OUTSIDE}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with rows and settings; the runs in containers use its default store."""
    directory = tmp_path_factory.mktemp("shop")
    write_periods(directory, num_rows=9_000, num_periods=2)
    return directory


class TestRuns:
    """In the order written: each test goes on where the one before left the directory."""

    def test_an_interrupted_run_leaves_no_container(self, engine: Any, image: Any, shop: Path) -> None:
        out = shop / "run0"
        with start(shop, "run", "config.yaml", "--out", "run0", *TRAIN, *IN_CONTAINERS) as runner:
            begun(engine, runner, out, "train")
            runner.send_signal(signal.SIGINT)
            _, stderr = runner.communicate(timeout=600)
        assert runner.returncode == 130, stderr
        assert stderr.splitlines()[-1] == "interrupted"
        assert containers_of(engine, out) == []

    def test_training_makes_the_same_bytes_as_in_processes(self, engine: Any, shop: Path) -> None:
        for out, runner in (("run0", IN_CONTAINERS), ("plain", ("--set", "store=plain-store"))):
            done = mec(shop, "run", "config.yaml", "--out", out, *TRAIN, *runner)
            assert done.returncode == 0, done.stderr
        boxed, plain = summary(shop / "run0"), summary(shop / "plain")
        assert (boxed["runner"], plain["runner"]) == ("docker", "subprocess")
        assert boxed["steps"]["pretrain"]["reused"], "finished before the interruption"
        assert uuids(boxed) == uuids(plain)
        assert set(uuids(boxed)) == {"counts", "vocabulary", "dataset", "pretrained", "codebook", "codes"}
        assert boxed["published_rows"] == plain["published_rows"] > 0
        for name in ("lr", "pnn"):
            ours, theirs = boxed["models"][name], plain["models"][name]
            assert uuids(ours) == uuids(theirs)
            assert (ours["auc"], ours["logloss"]) == (theirs["auc"], theirs["logloss"])
            assert ours["model"] == f"shop-{name}"
        assert containers_of(engine, shop / "run0") == []

    def test_what_containers_write_belongs_to_the_user(self, shop: Path) -> None:
        owners = {(path.stat().st_uid, path.stat().st_gid) for path in shop.rglob("*") if path.exists()}
        assert owners == {(os.getuid(), os.getgid())}

    def test_a_refresh_makes_the_same_bytes_as_in_processes(self, engine: Any, shop: Path) -> None:
        for out, runner in (("processes", ESCALATE), ("containers", IN_CONTAINERS)):
            done = mec(shop, "refresh", "config.yaml", *REFRESH, "--out", out, *runner)
            assert done.returncode == 0, done.stdout + done.stderr
        plain, boxed = summary(shop / "processes"), summary(shop / "containers")
        assert (plain["decision"], boxed["decision"]) == ("escalate", "promote")
        for name in ("counts", "vocabulary", "dataset", "pretrained", "codes"):
            assert boxed["lineage"][name] == plain["lineage"][name]
        assert boxed["auc_refreshed"] == plain["auc_refreshed"]
        assert (boxed["runner"], boxed["generation"], boxed["model_version"]) == ("docker", 1, 2)
        assert containers_of(engine, shop / "containers") == []

    def test_a_container_of_a_killed_run_does_not_outlive_the_next(self, engine: Any, shop: Path) -> None:
        out = shop / "killed"
        arguments = ("run", "config.yaml", "--out", "killed", "--set", "pretrain.max_epochs=500", *IN_CONTAINERS)
        with start(shop, *arguments) as runner:
            begun(engine, runner, out, "pretrain")
            runner.kill()
            runner.communicate(timeout=600)
        (orphan,) = containers_of(engine, out)
        with start(shop, *arguments) as runner:
            deadline = time.monotonic() + 600
            while orphan.id in [container.id for container in containers_of(engine, out)]:
                assert time.monotonic() < deadline, "the orphan is still there"
                time.sleep(0.2)
            begun(engine, runner, out, "pretrain")
            runner.send_signal(signal.SIGTERM)
            runner.communicate(timeout=600)
        assert runner.returncode == 130
        assert containers_of(engine, out) == []
