"""A page of docs/ followed literally in an empty directory: its files are written, its commands are run.

The commands ``pip``, ``python`` and ``mec`` are those of this environment, except that pip installs into a directory of
the test.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


class Page:
    """What a page of docs/ has its reader do.

    Attributes:
        files: Name -> text of every block that is a file; its first line is its name, in a comment.
        commands: The lines of all ``sh`` blocks, in order.
    """

    def __init__(self, name: str) -> None:
        text = (ROOT / "docs" / name).read_text(encoding="utf-8")
        blocks = re.findall(r"^```(\w+)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
        self.files = {text.splitlines()[0].removeprefix("# "): text for language, text in blocks if language != "sh"}
        self.commands = [line for language, text in blocks if language == "sh" for line in text.splitlines()]

    def write(self, directory: Path) -> None:
        """Write the page's files."""
        for name, text in self.files.items():
            assert re.fullmatch(r"[a-z_]+\.\w+", name), "a file's first line is its name"
            (directory / name).write_text(text, encoding="utf-8")


class Follower:
    """Someone who follows a page in an empty directory, ``home``, with its files in it."""

    def __init__(self, page: Page, path: Path) -> None:
        self.home, self.site, self.programs = path / "home", path / "site", path / "bin"
        self.home.mkdir()
        self.programs.mkdir()
        page.write(self.home)
        options = f'--target "{self.site}" --no-build-isolation --no-deps --no-index'
        self._program("python", f'exec "{sys.executable}" "$@"')
        self._program("mec", 'exec python -m mec "$@"')
        self._program("pip", f'exec python -m pip "$@" {options}')

    def run(self, command: str) -> str:
        """Standard output of a command; it must succeed, within five minutes."""
        environment = os.environ | {
            "PATH": f"{self.programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": f"{self.site}{os.pathsep}{ROOT}",
        }
        done = subprocess.run(
            ["sh", "-c", command], cwd=self.home, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def _program(self, name: str, line: str) -> None:
        file = self.programs / name
        file.write_text(f"#!/bin/sh\n{line}\n", encoding="utf-8")
        file.chmod(0o755)
