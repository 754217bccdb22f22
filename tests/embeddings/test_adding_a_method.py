"""docs/adding-a-method.md, followed literally in an empty directory: its files are written, its commands are run.

The commands ``pip``, ``python`` and ``mec`` are those of this environment, except that pip installs into a directory of
the test.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "adding-a-method.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
COMMANDS = [line for language, text in BLOCKS if language == "sh" for line in text.splitlines()]
FILES = {text.splitlines()[0].removeprefix("# "): text for language, text in BLOCKS if language != "sh"}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("reader")
    for name, text in FILES.items():
        assert re.fullmatch(r"[a-z_]+\.\w+", name), "a file's first line is its name"
        (directory / name).write_text(text, encoding="utf-8")
    return directory


def test_the_page_is_the_whole_way():
    assert set(FILES) == {"mec_bloom.py", "pyproject.toml", "test_bloom.py", "served.py"}
    assert [command.split()[0] for command in COMMANDS] == ["pip", "mec", "mec", "python"]


def test_the_example_conforms_and_is_the_equation(home, monkeypatch):
    monkeypatch.syspath_prepend(home)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    import mec_bloom
    import torch

    from mec.embeddings.hash_functions import bucket
    from mec.testing_method_data import inputs
    from mec.testing_methods import check_method

    assert check_method(mec_bloom.Bloom) == []
    method = mec_bloom.Bloom(inputs(), mec_bloom.BloomSettings(num_hashes=3)).eval()
    weight = method.tables[0].table.weight.normal_()
    places = [bucket(torch.tensor([77]), inputs().salt("hash", "user", j), 70) for j in range(3)]
    expected = weight[places[0]] + weight[places[1]] + weight[places[2]]
    ids = torch.tensor([[77, 0, 0, 0, 0]], dtype=torch.int32)
    torch.testing.assert_close(method(ids)[:, 0], expected)


@pytest.mark.slow
def test_the_commands_lead_to_served_rows(home, tmp_path):
    site, programs = tmp_path / "site", tmp_path / "bin"
    programs.mkdir()
    options = f'--target "{site}" --no-build-isolation --no-deps --no-index'
    lines = {
        "python": f'exec "{sys.executable}" "$@"',
        "mec": 'exec python -m mec "$@"',
        "pip": f'exec python -m pip "$@" {options}',
    }
    for name, line in lines.items():
        (programs / name).write_text(f"#!/bin/sh\n{line}\n", encoding="utf-8")
        (programs / name).chmod(0o755)
    environment = os.environ | {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{site}{os.pathsep}{ROOT}",
    }
    outputs = []
    for command in [*COMMANDS, "python -m pytest -q -p no:cacheprovider test_bloom.py"]:
        done = subprocess.run(["sh", "-c", command], cwd=home, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        outputs.append(done.stdout)
    assert all(output.startswith("bloom: conforms (shapes, ") for output in outputs[1:3])
    assert re.fullmatch(r"5\d\.\dx smaller: \{'codes': 0, .*\n", outputs[3])
