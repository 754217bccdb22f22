"""What goes of old versions, and that what stays can still be put in service, refreshed and compared with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from mec.bundle import Bundle, open_bundle, write_bundle
from mec.cli import main
from mec.config import TrackingConfig
from mec.errors import BundleError, PublishError, TrackingError
from mec.publish.locking import publisher_lock
from mec.tracking.kept import bundle_tags, keep_bundles, tagged_bundle, tagged_by_role
from mec.tracking.pruning import prune
from mec.tracking.registry import ModelRegistry, Version
from mec.tracking.runs import TrackedRun, open_run
from mec.tracking.switching import refresh_lock

TRACKING = TrackingConfig()


@pytest.fixture
def run(store: Path) -> Iterator[TrackedRun]:
    with open_run(TRACKING, store=store, run_name="shop", run_id="run-1") as run:
        yield run


def bundle(folder: Path, kind: str, text: str) -> Bundle:
    at = folder / f"{kind} {text}"
    if not at.exists():
        with write_bundle(at, kind) as draft:
            (draft.path / "data.txt").write_text(text)
    return open_bundle(at)


def add(run: TrackedRun, store: Path, model: str, parent: str | None, **texts: str) -> Version:
    """A version with kept bundles; equal texts are one bundle."""
    folder = store.parent / "run"
    bundles = {role: bundle(folder, role, text) for role, text in texts.items()}
    tags = bundle_tags(bundles, keep_bundles(bundles, store)) | ({"parent_version": parent} if parent else {})
    registry = ModelRegistry(run, model)
    made = run.client.create_model_version(
        model, run.client.get_run(run.run_id).info.artifact_uri, run.run_id, tags=tags
    )
    return registry.version(str(made.version))


@pytest.fixture
def registry(run: TrackedRun, store: Path) -> ModelRegistry:
    """Version 1 trained, 2 to 5 each a refresh of the one before; 3 previous, 4 champion; codes 2 are shared."""
    registry = ModelRegistry(run, "shop")
    versions = [
        add(
            run, store, "shop", str(n - 1) if n > 1 else None,
            dataset=f"{n}", codebook="frozen", codes=f"{n}", row_hashes=f"{n}",
        )
        for n in range(1, 6)
    ]  # fmt: skip
    add(run, store, "other", None, codes="2")
    registry.promote(versions[2], over=None)
    registry.promote(versions[3], over=versions[2])
    return registry


def kept(store: Path) -> set[str]:
    """Texts of the bundles that are there."""
    return {f"{p.name.rsplit('-', 5)[0]} {(p / 'data.txt').read_text()}" for p in (store / "bundles").iterdir()}


def test_only_what_no_version_needs_goes(registry: ModelRegistry, store: Path) -> None:
    before = kept(store)
    shown = prune("shop", 1, tracking=TRACKING, store=store, delete=False)
    assert kept(store) == before
    assert "pruned" not in registry.version("1").tags
    done = prune("shop", 1, tracking=TRACKING, store=store, delete=True)
    assert done == shown
    assert done.versions == ("1",)
    assert before - kept(store) == {"codes 1"}  # codes 2 are another model's, rows are the champion's history
    assert done.num_bytes > 0
    with pytest.raises(BundleError, match="codes bundle of shop version 1 was deleted by `mec prune`, at 20"):
        tagged_bundle(registry.version("1").tags, "codes", owner="shop version 1")
    for number in ("3", "4", "5"):
        for role in tagged_by_role(registry.version(number).tags):
            tagged_bundle(registry.version(number).tags, role, owner=number)
    assert all(tagged_by_role(registry.version("1").tags)[role].is_dir() for role in ("dataset", "row_hashes"))
    again = prune("shop", 1, tracking=TRACKING, store=store, delete=True)
    assert (again.versions, again.places) == ((), ())


def test_the_newest_and_the_aliased_stay_whole(registry: ModelRegistry, store: Path, run: TrackedRun) -> None:
    run.client.delete_registered_model("other")
    assert prune("shop", 3, tracking=TRACKING, store=store, delete=False).versions == ("1", "2")
    assert prune("shop", 4, tracking=TRACKING, store=store, delete=False).versions == ("1",)
    assert prune("shop", 5, tracking=TRACKING, store=store, delete=False).versions == ()


def test_row_hashes_of_a_branch_that_is_left_go(registry: ModelRegistry, store: Path, run: TrackedRun) -> None:
    add(run, store, "shop", "1", dataset="6", codebook="frozen", codes="6", row_hashes="6")
    add(run, store, "shop", "4", dataset="7", codebook="frozen", codes="7", row_hashes="7")
    before, rows = kept(store), ("dataset", "row_hashes")
    assert prune("shop", 1, tracking=TRACKING, store=store, delete=True).versions == ("1", "5", "6")
    assert before - kept(store) == {f"codes {n}" for n in (1, 5, 6)} | {f"{r} {n}" for n in (5, 6) for r in rows}


def test_not_while_a_refresh_goes_on(registry: ModelRegistry, store: Path) -> None:
    with (
        publisher_lock(refresh_lock(store, "shop"), who="refresh"),
        pytest.raises(PublishError, match="another refresh or switch of shop"),
    ):
        prune("shop", 1, tracking=TRACKING, store=store, delete=True)
    with pytest.raises(TrackingError, match="at least the newest version stays; found: keep 0"):
        prune("shop", 0, tracking=TRACKING, store=store, delete=True)


def test_the_command_deletes_only_when_told(registry: ModelRegistry, store: Path) -> None:
    def command(*arguments: str) -> str:
        done = CliRunner().invoke(main, ["prune", "shop", "--keep", "1", "--store", str(store), *arguments])
        assert done.exit_code == 0, done.output
        return done.output

    before = kept(store)
    assert "of v1 would be deleted (--yes does it): 1 codes" in command()
    assert kept(store) == before
    assert "of v1 deleted: 1 codes" in command("--yes")
    assert kept(store) != before
    assert "nothing to delete" in command("--yes")
