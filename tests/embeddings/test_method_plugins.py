"""Compression methods of other packages: found by entry point, refused by name, and one that is installed for real."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mec.embeddings.methods import METHODS, build_method, load_served
from mec.errors import ConfigError
from mec.testing_method_data import inputs
from mec.testing_methods import check_method

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests" / "plugins" / "mec_tiny_method"


def install(site: Path, package: str, entry_point: str, module: str) -> None:
    """A package as pip leaves it: a module, and metadata with one entry point."""
    name = package.replace("-", "_")
    metadata = site / f"{name}-0.1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 0.1\n")
    (metadata / "entry_points.txt").write_text(f"[mec.methods]\n{entry_point}\n")
    (site / f"{name}.py").write_text(module)


@pytest.fixture
def site(tmp_path, monkeypatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("plug_"):
            del sys.modules[name]


def test_a_plugin_is_found_checked_and_served(site):
    install(site, "plug-tiny", "modulo = plug_tiny:Modulo", (TINY / "mec_tiny_method.py").read_text())
    assert "modulo" in METHODS.names()
    assert "plug_tiny" not in sys.modules
    assert check_method("modulo", {"num_rows": 30}) == []
    method = build_method("modulo", inputs(), {})
    from mec.embeddings.export import write_export

    write_export(site / "export", method.export())
    assert load_served(site / "export").embedding_dim == 6


def test_a_plugin_that_registers_itself_in_a_submodule_stops_no_later_look_up(site, monkeypatch):
    monkeypatch.setattr(METHODS, "_items", dict(METHODS._items))
    install(site, "plug-deep", "modulo = plug_deep:Modulo", "from plug_deep.methods import Modulo\n")
    (site / "plug_deep").mkdir()
    (site / "plug_deep.py").rename(site / "plug_deep" / "__init__.py")
    source = (TINY / "mec_tiny_method.py").read_text()
    registering = "from mec.embeddings.method import METHODS\n@METHODS.register('modulo')\nclass Modulo("
    (site / "plug_deep" / "methods.py").write_text(source.replace("class Modulo(", registering))
    names = METHODS.names()
    mine = METHODS.get("modulo")
    assert mine is METHODS._items["modulo"], "the decorator has registered it"
    assert METHODS.get("modulo") is mine
    assert METHODS.get("full").name == "full"
    assert METHODS.names() == names


@pytest.mark.parametrize(
    ("entry_point", "module", "message"),
    [
        ("mine = plug_bad:Mine", "import nowhere_at_all\n", "ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("mine = plug_bad:Mine", "Mine = 3\n", "no subclass of mec.embeddings.method.Method; found: 3"),
    ],
)
def test_a_broken_plugin_names_its_package_and_stops_no_other(site, entry_point, module, message):
    install(site, "plug-bad", entry_point, module)
    assert METHODS.get("full").name == "full"
    with pytest.raises(ConfigError, match=rf"'mine' of the package 'plug-bad' .*({message}).*fix: "):
        METHODS.get("mine")


def test_a_plugin_may_not_take_a_name(site):
    install(site, "plug-thief", "hashing = plug_thief:Mine", "Mine = 3\n")
    with pytest.raises(ConfigError, match="'plug-thief' offers the compression method 'hashing', which is the name"):
        METHODS.names()


@pytest.mark.slow
def test_an_installed_package_is_checked_on_the_command_line(tmp_path):
    source, target = tmp_path / "source", tmp_path / "site"
    shutil.copytree(TINY, source)
    pip = [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "--no-index"]
    done = subprocess.run([*pip, "--target", str(target), str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    def mec(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHONPATH": f"{target}{os.pathsep}{ROOT}"}
        command = [sys.executable, "-m", "mec", "check-method", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    done = mec("modulo", "--set", "num_rows=20")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("modulo: conforms (shapes, ")
    done = mec("modulo", "--set", "num_rows=0")
    assert (done.returncode, done.stdout) == (2, "")
    assert "bad settings of the method 'modulo'; found: num_rows: " in done.stderr
    assert "modulo" in mec("nope").stderr
