"""The adapters: thin, alike, and light."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from pipelines.compiling import PLACEHOLDER_IMAGE

FOLDERS = sorted(path.parent for path in (Path(__file__).parents[2] / "components").glob("*/component.py"))


def test_there_is_a_folder_per_step():
    assert len(FOLDERS) == 24


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
class TestComponent:
    def test_is_at_most_40_lines(self, folder):
        assert len((folder / "component.py").read_text(encoding="utf-8").splitlines()) <= 40

    def test_imports_only_kfp_and_the_standard_library_at_its_top(self, folder):
        tree = ast.parse((folder / "component.py").read_text(encoding="utf-8"))
        names = [alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names]
        names += [str(node.module) for node in tree.body if isinstance(node, ast.ImportFrom)]
        assert {name.split(".")[0] for name in names} <= {"kfp", *sys.stdlib_module_names}

    def test_runs_on_our_image_and_installs_nothing(self, folder):
        source = (folder / "component.py").read_text(encoding="utf-8")
        decorator = (
            f'@dsl.component(base_image="{PLACEHOLDER_IMAGE}", packages_to_install=[], install_kfp_package=False)'
        )
        assert source.count(decorator) == 1

    def test_defines_one_function_named_like_its_folder(self, folder):
        tree = ast.parse((folder / "component.py").read_text(encoding="utf-8"))
        assert [node.name for node in tree.body if isinstance(node, ast.FunctionDef)] == [folder.name]

    def test_has_a_readme_that_names_the_function_behind_it(self, folder):
        readme = (folder / "README.md").read_text(encoding="utf-8")
        step = next(line for line in (folder / "component.py").read_text(encoding="utf-8").split() if "_step(" in line)
        assert step.split("(")[0].split(".")[-1] in readme
