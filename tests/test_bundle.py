"""Bundles: written last, checked when read, named by their contents."""

from __future__ import annotations

from pathlib import Path

import pytest

from mec.bundle import MANIFEST, Bundle, open_bundle, write_bundle
from mec.errors import BundleError


def make(path: Path, text: str = "hello", **config: int) -> Bundle:
    with write_bundle(path, "counts", config=config, data_version="v1") as draft:
        (draft.path / "sub").mkdir()
        (draft.path / "sub" / "a.txt").write_text(text)
        draft.extra["rows"] = 3
    return open_bundle(path, "counts")


def test_round_trip(tmp_path: Path) -> None:
    bundle = make(tmp_path / "b")
    assert bundle.extra == {"rows": 3}
    assert bundle.file("sub/a.txt").read_text() == "hello"
    assert bundle.num_bytes() == 5
    assert bundle.manifest.data_version == "v1"


def test_same_contents_same_uuid_and_anything_else_another(tmp_path: Path) -> None:
    first = make(tmp_path / "a", k=1)
    assert make(tmp_path / "b", k=1).uuid == first.uuid
    assert make(tmp_path / "c", k=2).uuid != first.uuid
    assert make(tmp_path / "d", text="hallo", k=1).uuid != first.uuid


def test_children_name_their_parents_and_inherit_the_data_version(tmp_path: Path) -> None:
    parent = make(tmp_path / "a")
    with write_bundle(tmp_path / "b", "vocabulary", parents={"counts": parent}):
        pass
    child = open_bundle(tmp_path / "b", "vocabulary")
    assert child.manifest.parents == {"counts": parent.uuid}
    assert child.manifest.data_version == "v1"


def test_a_directory_without_manifest_does_not_exist(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "a.txt").write_text("half")
    with pytest.raises(BundleError, match=r"it has no manifest\.json"):
        open_bundle(tmp_path / "b")


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with write_bundle(tmp_path / "b", "counts") as draft:
            (draft.path / "a.txt").write_text("half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert not (tmp_path / "b").exists()


def test_leftovers_of_a_killed_attempt_are_removed(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "stale.bin").write_text("old")
    assert list(make(tmp_path / "b").manifest.files) == ["sub/a.txt"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: p.write_text("hellO"), "a.txt does not match its checksum"),
        (lambda p: p.write_text("hello!"), r"a.txt does not have the size"),
        (lambda p: p.unlink(), r"misses its file 'sub/a.txt'"),
    ],
)
def test_damage_is_named(tmp_path: Path, damage: object, message: str) -> None:
    bundle = make(tmp_path / "b")
    damage(bundle.path / "sub" / "a.txt")  # type: ignore[operator]
    with pytest.raises(BundleError, match=message):
        open_bundle(bundle.path)


def test_a_manifest_that_is_no_manifest(tmp_path: Path) -> None:
    bundle = make(tmp_path / "b")
    (bundle.path / MANIFEST).write_text("{")
    with pytest.raises(BundleError, match="is not a bundle manifest"):
        open_bundle(bundle.path)


def test_the_wrong_kind_and_unknown_files_are_refused(tmp_path: Path) -> None:
    bundle = make(tmp_path / "b")
    with pytest.raises(BundleError, match="is not a codes bundle; found: counts"):
        open_bundle(bundle.path, "codes")
    with pytest.raises(BundleError, match=r"has no file 'nope'"):
        bundle.file("nope")


def test_an_unwritable_place_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(BundleError, match="cannot write the counts bundle"),
        write_bundle(tmp_path / "file" / "b", "counts"),
    ):
        pass
