"""Backbones of other packages: found by entry point, refused by name, and one that is installed for real."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mec.errors import ConfigError
from mec.models import BACKBONES, Backbone, build_backbone
from mec.models.plugins import PluginRegistry

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests" / "plugins" / "mec_tiny_backbone"
MODULE = "from mec.models.lr import LR\nclass Mine(LR): ...\nNOT_ONE = 3\n"


def registry() -> PluginRegistry[Backbone]:
    """With one backbone of its own, ``own``."""
    made: PluginRegistry[Backbone] = PluginRegistry("backbone", "train.model", "mec.backbones", Backbone)
    made.register("own")(BACKBONES.get("fm"))
    return made


def install(site: Path, package: str, entry_point: str, module: str = MODULE) -> None:
    """A package as pip leaves it: a module, and metadata with one entry point."""
    name = package.replace("-", "_")
    metadata = site / f"{name}-0.1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 0.1\n")
    (metadata / "entry_points.txt").write_text(f"[mec.backbones]\n{entry_point}\n")
    (site / f"{name}.py").write_text(module)


@pytest.fixture
def site(tmp_path, monkeypatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("plug_"):
            del sys.modules[name]


def test_a_plugin_is_found_listed_and_built(site):
    install(site, "plug-good", "mine = plug_good:Mine")
    assert registry().names() == ["mine", "own"]
    assert "plug_good" not in sys.modules
    assert registry().get("mine").__name__ == "Mine"
    assert registry().get("own") is BACKBONES.get("fm")
    assert type(build_backbone("mine", 3, 2, {})).__module__ == "plug_good"
    with pytest.raises(ConfigError, match=r"unknown backbone; found: nope; .* one of mine, own"):
        registry().get("nope")


def install_registering(site: Path, target: str) -> None:
    """A package whose submodule registers ``mine`` by the decorator, and that offers ``target`` under that name."""
    install(site, "plug-deep", f"mine = {target}", "from plug_deep.models import Mine, Other\n")
    (site / "plug_deep").mkdir()
    (site / "plug_deep.py").rename(site / "plug_deep" / "__init__.py")
    (site / "plug_deep" / "models.py").write_text(
        "from mec.models import BACKBONES\nfrom mec.models.lr import LR\nclass Other(LR): ...\n"
        '@BACKBONES.register("mine")\nclass Mine(LR): ...\n'
    )


@pytest.mark.parametrize("target", ["plug_deep:Mine", "plug_deep.models:Mine"])
def test_a_plugin_that_registers_itself_too_is_one_backbone(site, monkeypatch, target):
    monkeypatch.setattr(BACKBONES, "_items", dict(BACKBONES._items))
    install_registering(site, target)
    own = BACKBONES.get("fm")
    names = BACKBONES.names()
    assert names.count("mine") == 1
    mine = BACKBONES.get("mine")
    assert mine.__module__ == "plug_deep.models"
    assert "mine" in BACKBONES._items, "the decorator has registered it"
    assert BACKBONES.get("mine") is mine
    assert BACKBONES.get("fm") is own
    assert BACKBONES.names() == names


def test_a_plugin_that_registers_another_class_than_it_offers_is_refused(site, monkeypatch):
    monkeypatch.setattr(BACKBONES, "_items", dict(BACKBONES._items))
    install_registering(site, "plug_deep:Other")
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"'plug-deep' .* 'mine', but another .* plug_deep\.models\.Mine;"):
            BACKBONES.get("mine")
        assert BACKBONES.get("fm").__name__ == "FM", "it stops no other"


@pytest.mark.parametrize(
    ("entry_point", "module", "message"),
    [
        ("mine = plug_bad:Mine", "import nowhere_at_all\n", "ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("mine = plug_bad:Mine", "1 / 0\n", "ZeroDivisionError: division by zero"),
        ("mine = plug_bad:Nine", MODULE, "AttributeError: .*Nine"),
        ("mine = plug_bad:NOT_ONE", MODULE, "no subclass of mec.models.base.Backbone; found: 3"),
        ("mine = plug_bad:dict", "", "no subclass of mec.models.base.Backbone|has no attribute 'dict'"),
    ],
)
def test_a_broken_plugin_names_its_package_and_stops_no_other(site, entry_point, module, message):
    install(site, "plug-bad", entry_point, module)
    assert registry().names() == ["mine", "own"]
    assert registry().get("own") is BACKBONES.get("fm")
    with pytest.raises(ConfigError, match=rf"'mine' of the package 'plug-bad' .*({message}).*fix: "):
        registry().get("mine")


def test_a_plugin_may_not_take_a_name(site):
    install(site, "plug-thief", "own = plug_thief:Mine")
    for look in (registry().names, lambda: registry().get("own")):
        with pytest.raises(
            ConfigError, match=r"'plug-thief' offers the backbone 'own', which is the name .* mec's own"
        ):
            look()


def test_two_plugins_may_not_share_a_name(site):
    install(site, "plug-one", "mine = plug_one:Mine")
    install(site, "plug-two", "mine = plug_two:Mine")
    with pytest.raises(ConfigError, match=r"'plug-(one|two)' offers .* and so does the package 'plug-(one|two)'"):
        registry().get("mine")


@pytest.mark.slow
def test_an_installed_package_is_checked_on_the_command_line(tmp_path):
    source, target = tmp_path / "source", tmp_path / "site"
    shutil.copytree(TINY, source)
    pip = [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "--no-index"]
    done = subprocess.run([*pip, "--target", str(target), str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    def mec(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHONPATH": f"{target}{os.pathsep}{ROOT}"}
        command = [sys.executable, "-m", "mec", "check-backbone", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    done = mec("tiny", "--set", "scale=0.5")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("tiny: conforms (shapes, ")
    done = mec("tiny", "--set", "scale=0")
    assert (done.returncode, done.stdout) == (2, "")
    assert "bad settings of the backbone 'tiny'; found: scale: " in done.stderr
    assert "tiny" in mec("nope").stderr
