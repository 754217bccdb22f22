"""The links to a run's bundles."""

from __future__ import annotations

from pathlib import Path

from mec.bundle import open_bundle, write_bundle
from pipelines.results import link_bundles


def _bundle(path: Path, text: str) -> str:
    with write_bundle(path, "counts") as draft:
        (draft.path / "file").write_text(text)
    return open_bundle(path).uuid


def test_links_are_bundles_and_move_with_the_run(tmp_path):
    uuid = _bundle(tmp_path / "run" / "kfp" / "counts", "a")
    link_bundles({"counts": tmp_path / "run" / "kfp" / "counts"}, tmp_path / "run" / "bundles")
    (tmp_path / "run").rename(tmp_path / "moved")
    assert open_bundle(tmp_path / "moved" / "bundles" / "counts").uuid == uuid


def test_a_later_run_takes_the_links_over(tmp_path):
    _bundle(tmp_path / "kfp" / "1", "a")
    uuid = _bundle(tmp_path / "kfp" / "2", "b")
    for name in ("1", "2"):
        link_bundles({"counts": tmp_path / "kfp" / name}, tmp_path / "bundles")
    assert open_bundle(tmp_path / "bundles" / "counts").uuid == uuid
    assert [path.name for path in (tmp_path / "bundles").iterdir()] == ["counts"]
