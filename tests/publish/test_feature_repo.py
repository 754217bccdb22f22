"""feature_repo/ and the embedded repo: the same settings, and `feast apply` works in both."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from mec.publish.definitions import Published, build_definitions, published_definitions
from mec.publish.embedded import embedded_repo
from mec.publish.reader import CodesReader
from mec.publish.store import open_store
from mec.publish.writer import FeastWriter

CODEBOOK = "0a0b0c0d-1111-4111-8111-111111111111"
VIEW = "codes_0a0b0c0d"
ROOT = Path(__file__).resolve().parents[2]


def feast_apply(repo: Path) -> str:
    """Run the Feast command line in a repo, as a platform engineer would."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "default"}
    command = [sys.executable, "-m", "feast.cli.cli", "apply"]
    done = subprocess.run(command, cwd=repo, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_embedded_repo_is_feature_repo(tmp_path: Path) -> None:
    repo = embedded_repo(tmp_path)
    assert (repo / "definitions.py").read_text() == (ROOT / "feature_repo/definitions.py").read_text()
    ours, embedded = (yaml.safe_load((d / "feature_store.yaml").read_text()) for d in (ROOT / "feature_repo", repo))
    assert ours == embedded


def test_embedded_repo_keeps_what_is_there(tmp_path: Path) -> None:
    repo = embedded_repo(tmp_path)
    (repo / "feature_store.yaml").write_text("project: mine\n")
    assert embedded_repo(tmp_path) == repo
    assert (repo / "feature_store.yaml").read_text() == "project: mine\n"


@pytest.mark.slow
def test_feast_apply_keeps_published_codes(tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    shutil.copytree(ROOT / "feature_repo", repo, ignore=shutil.ignore_patterns("data", "__pycache__"))
    published = Published(CODEBOOK, "codes", 3, 1, "complete", "2026-01-01T00:00:00+00:00")
    store = open_store(repo)
    store.apply(build_definitions(published))
    FeastWriter(store, VIEW, datetime.now(UTC)).write(["item=1"], [b"\x0a\x0b\x0c\x0d\x07"])
    (repo / "own.py").write_text(
        "from feast import Entity, ValueType\n\nuser = Entity(name='user', value_type=ValueType.INT64)\n"
    )
    said = feast_apply(repo)
    assert "Created entity user" in said
    assert "feature view" not in said
    assert "feature service" not in said
    assert "Deleted" not in said
    again = open_store(repo)
    assert Published.from_tags(VIEW, dict(again.get_feature_view(VIEW).tags)) == published
    assert CodesReader(repo, VIEW, CODEBOOK).fetch(["item=1"]) == [b"\x07"]


def test_nothing_is_declared_before_anything_is_published(tmp_path: Path) -> None:
    assert published_definitions(embedded_repo(tmp_path)) == {}
