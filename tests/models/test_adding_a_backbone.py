"""docs/adding-a-backbone.md, followed literally in an empty directory: its files are written, its commands are run.

The commands ``pip`` and ``mec`` are those of this environment, except that pip installs into a directory of the test.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "adding-a-backbone.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
COMMANDS = [line for language, text in BLOCKS if language == "sh" for line in text.splitlines()]


@dataclass
class Reader:
    """Someone who follows the page in an empty directory."""

    path: Path

    def __post_init__(self) -> None:
        for language, text in BLOCKS:
            if language != "sh":
                name = text.splitlines()[0].removeprefix("# ")
                assert re.fullmatch(r"[a-z_]+\.\w+", name), "a file's first line is its name"
                (self.home / name).write_text(text, encoding="utf-8")
        self.program("python", f'exec "{sys.executable}" "$@"')
        self.program("mec", 'exec python -m mec "$@"')
        options = f'--target "{self.path / "site"}" --no-build-isolation --no-deps --no-index'
        self.program("pip", f'exec python -m pip "$@" {options}')

    @property
    def home(self) -> Path:
        (self.path / "home").mkdir(exist_ok=True)
        return self.path / "home"

    def program(self, name: str, line: str) -> None:
        (self.path / "bin").mkdir(exist_ok=True)
        file = self.path / "bin" / name
        file.write_text(f"#!/bin/sh\n{line}\n", encoding="utf-8")
        file.chmod(0o755)

    def run(self, command: str) -> str:
        environment = os.environ | {
            "PATH": f"{self.path / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": f"{self.path / 'site'}{os.pathsep}{ROOT}",
        }
        done = subprocess.run(
            ["sh", "-c", command], cwd=self.home, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def reader(tmp_path_factory) -> Reader:
    return Reader(tmp_path_factory.mktemp("reader"))


def test_the_page_is_the_whole_way():
    files = {text.splitlines()[0].removeprefix("# ") for language, text in BLOCKS if language != "sh"}
    assert files == {"mec_fwfm.py", "pyproject.toml", "test_fwfm.py", "config.yaml", "registered.py"}
    assert [command.split()[0] for command in COMMANDS] == ["pip", "mec", "mec", "mec", "python"]


def test_the_example_conforms_and_is_the_equation(reader, monkeypatch):
    monkeypatch.syspath_prepend(reader.home)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    import mec_fwfm
    import torch

    from mec.testing import check_backbone

    assert check_backbone(mec_fwfm.FwFM) == []
    model = mec_fwfm.FwFM(3, 2, mec_fwfm.FwFMSettings())
    with torch.no_grad():
        model.weight.copy_(torch.tensor([2.0, 3.0, 5.0]))  # r_01, r_02, r_12
    vectors = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]])
    assert model(vectors, torch.tensor([7.0])).tolist() == [7 + 2 * 11 + 3 * 17 + 5 * 39]


@pytest.mark.slow
def test_the_commands_lead_to_a_registered_model(reader):
    outputs = [reader.run(command) for command in COMMANDS]
    assert outputs[1].startswith("fwfm: conforms (")
    assert outputs[2].startswith("fwfm: conforms (")
    summary = json.loads((reader.home / "out" / "summary.json").read_text(encoding="utf-8"))
    assert (summary["model"], summary["model_version"]) == ("fwfm", 1)
    assert summary["published_rows"] > 0
    assert outputs[4].startswith("fwfm version 1: AUC 0.")
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_fwfm.py"]
    environment = os.environ | {"PYTHONPATH": f"{reader.path / 'site'}{os.pathsep}{ROOT}"}
    assert subprocess.run(tests, cwd=reader.home, env=environment, capture_output=True).returncode == 0
