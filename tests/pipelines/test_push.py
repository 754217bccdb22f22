"""`make push`: it prints the name that the registry answers to, of each target, and nothing else."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from mec.version import __version__

ROOT = Path(__file__).parents[2]
REGISTRY = "registry.example/team"
DIGESTS = {"cpu": f"sha256:{'a1' * 32}", "gpu": f"sha256:{'b2' * 32}"}
# prints what docker does; an engine's own digest, of which a registry may know nothing, is another
DOCKER = f"""\
#!/bin/sh
echo "$@" >> calls
case $1 in
  push)
    case $2 in *-cpu) digest={DIGESTS["cpu"]};; *-gpu) digest={DIGESTS["gpu"]};; esac
    echo "The push refers to repository [{REGISTRY}/mec]"
    echo "5f70bf18a086: Pushed"
    echo "tag: digest: $digest size: 1379" ;;
  inspect) echo "{REGISTRY}/mec@sha256:{"c3" * 32}" ;;
esac
"""
REFUSING = "#!/bin/sh\ntest $1 = tag || { echo unauthorized >&2; exit 1; }\n"


def push(docker: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it with a stand-in for docker, which notes its calls in a file of the folder."""
    program = folder / "docker"
    program.write_text(docker.replace("calls", str(folder / "calls")))
    program.chmod(0o755)
    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}
    command = ["make", "--no-print-directory", "push", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_the_names_are_those_of_the_registry(tmp_path: Path) -> None:
    done = push(DOCKER, tmp_path, f"REGISTRY={REGISTRY}", "TARGETS=cpu gpu")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{REGISTRY}/mec@{DIGESTS['cpu']}", f"{REGISTRY}/mec@{DIGESTS['gpu']}"]
    assert (tmp_path / "calls").read_text().splitlines() == [
        f"{command} {REGISTRY}/mec:{__version__}-{target}".replace("tag ", f"tag mec:{__version__}-{target} ")
        for target in ("cpu", "gpu")
        for command in ("tag", "push")
    ]


@pytest.mark.parametrize(
    ("docker", "arguments", "problem"),
    [
        (REFUSING, [f"REGISTRY={REGISTRY}"], "unauthorized"),
        ("#!/bin/sh\n", [f"REGISTRY={REGISTRY}"], "named no digest"),
        (DOCKER, [], "name a registry"),
    ],
)
def test_a_push_that_fails_prints_no_name(docker: str, arguments: list[str], problem: str, tmp_path: Path) -> None:
    done = push(docker, tmp_path, *arguments)
    assert done.returncode != 0
    assert problem in done.stdout + done.stderr
    assert "@sha256" not in done.stdout
