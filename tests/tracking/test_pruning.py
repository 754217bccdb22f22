"""What goes of old versions, and that what stays can still be put in service, refreshed and compared with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from mec.bundle import Bundle, open_bundle, write_bundle
from mec.cli import main
from mec.config import PublishConfig, TrackingConfig
from mec.errors import BundleError, PublishError, TrackingError
from mec.publish.locking import publisher_lock, refresh_lock
from mec.publish.publishing import publish_step
from mec.publish.retiring import find_published
from mec.tracking import pruning
from mec.tracking.kept import bundle_tags, keep_bundles, tagged_bundle, tagged_by_role
from mec.tracking.pruning import prune
from mec.tracking.registry import ModelRegistry, Version
from mec.tracking.runs import TrackedRun, open_run
from tests.publish.bundles import make_codebook, make_codes, make_vocabulary

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


def renewed(run: TrackedRun, store: Path, books: str) -> dict[str, str]:
    """Versions of shop, each served with the codebook of its letter, published; letter -> uuid."""
    made, folder = {}, store.parent / "made"
    vocabulary = make_vocabulary(folder / "vocabulary", 20)
    for seed, book in enumerate(sorted(set(books))):
        codebook = make_codebook(folder / book, seed)
        make_codes(folder / f"{book} codes", vocabulary, codebook, seed=seed)
        publish_step(
            publish=PublishConfig(writer="bulk"), store=store, vocabulary=vocabulary, codebook=codebook,
            codes=folder / f"{book} codes", out=folder / f"{book} out",
        )  # fmt: skip
        made[book] = open_bundle(codebook).uuid
    registry = ModelRegistry(run, "shop")
    for number, book in enumerate(books, start=1):
        version = add(run, store, "shop", str(number - 1) if number > 1 else None, codes=f"{number}")
        registry.tag(version, {"codebook": made[book], "feature_repo": str(store / "feast")})
    return made


def online(store: Path, made: dict[str, str]) -> str:
    found = find_published(store / "feast", made.values())
    return "".join(sorted(book for book, codebook in made.items() if codebook in found))


def test_codes_of_codebooks_that_no_version_names_leave_the_online_store(
    run: TrackedRun, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = renewed(run, store, "ABCADEF")
    registry = ModelRegistry(run, "shop")
    registry.promote(registry.version("4"), over=None)  # previous, of codebook A, as version 1
    registry.promote(registry.version("6"), over=registry.version("4"))
    theirs = add(run, store, "other", None, codes="other")
    ModelRegistry(run, "other").tag(theirs, {"codebook": made["C"], "feature_repo": str(store / "feast")})

    shown = prune("shop", 1, tracking=TRACKING, store=store, delete=False)
    expected = [(made["B"], 25, ("2",)), (made["D"], 25, ("5",))]
    assert [(codes.codebook, codes.rows, codes.versions) for codes in shown.online] == expected
    assert (online(store, made), shown.gone) == ("ABCDEF", ())

    for cut in ("retire", "_delete"):  # killed before anything online went, and between that and the bundles
        with monkeypatch.context() as patch:
            patch.setattr(pruning, cut, lambda *_: exec("raise KeyboardInterrupt"))
            with pytest.raises(KeyboardInterrupt):
                prune("shop", 1, tracking=TRACKING, store=store, delete=True)
        assert online(store, made) == ("ABCDEF" if cut == "retire" else "ACEF")
    done = prune("shop", 1, tracking=TRACKING, store=store, delete=True)
    assert done.online == ()
    assert done.versions == ("1", "2", "3", "5")  # their codes bundles
    assert prune("shop", 1, tracking=TRACKING, store=store, delete=True).versions == ()

    run.client.delete_registered_model("other")
    assert [codes.versions for codes in prune("shop", 1, tracking=TRACKING, store=store, delete=True).online] == [
        ("3",)
    ]
    assert online(store, made) == "AEF"


def test_rows_that_a_killed_attempt_left_are_found_again(run: TrackedRun, store: Path) -> None:
    made = renewed(run, store, "AB")
    registry = ModelRegistry(run, "shop")
    registry.promote(registry.version("2"), over=None)
    prune("shop", 1, tracking=TRACKING, store=store, delete=True)
    assert online(store, made) == "B"
    run.client.delete_model_version_tag("shop", "1", pruning.RETIRED_TAG)  # killed before the rows were deleted
    found = prune("shop", 1, tracking=TRACKING, store=store, delete=True)
    assert [(codes.codebook, codes.rows) for codes in found.online] == [(made["A"], 0)]
    assert prune("shop", 1, tracking=TRACKING, store=store, delete=True).online == ()
    assert online(store, made) == "B"


def test_the_command_names_views_and_repos(run: TrackedRun, store: Path) -> None:
    made = renewed(run, store, "AB")
    registry = ModelRegistry(run, "shop")
    moved = add(run, store, "shop", None, codes="moved")
    registry.tag(moved, {"codebook": made["A"], "feature_repo": "/moved/away"})
    registry.promote(registry.version("2"), over=None)
    add(run, store, "shop", None, codes="newest")
    arguments = ["prune", "shop", "--keep", "1", "--store", str(store)]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert "no feature repo at /moved/away" in done.stderr
    view = f"feature view and service codes_{made['A'][:8]} of v1, 25 online rows, would be deleted"
    assert view in done.stdout
    assert "of v1, 25 online rows, deleted: " in CliRunner().invoke(main, [*arguments, "--yes"]).stdout
    assert "nothing to delete" in CliRunner().invoke(main, [*arguments, "--yes"]).stdout
