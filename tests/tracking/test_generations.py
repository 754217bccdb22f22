"""Generations in a real registry: what continues what, what an operator means, what is kept, who replaced whom."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mec.bundle import Bundle, open_bundle, write_bundle
from mec.config import TrackingConfig
from mec.errors import BundleError, PublishError, TrackingError
from mec.publish.locking import publisher_lock, refresh_lock
from mec.tracking.generations import find_version, history, knows_rows, lineage, version_before
from mec.tracking.kept import bundle_tags, keep_bundle, keep_bundles, tagged_bundle
from mec.tracking.registry import ModelRegistry, Version
from mec.tracking.runs import connected, open_run
from mec.tracking.switching import rollback


@pytest.fixture
def registry(store: Path) -> Iterator[ModelRegistry]:
    with open_run(TrackingConfig(), store=store, run_name="shop", run_id="run-1") as run:
        yield ModelRegistry(run, "shop")


def add(registry: ModelRegistry, generation: int, parent: str | None = None, **tags: str) -> Version:
    """A version with tags and without files."""
    run = registry._run
    known = {"codes_generation": str(generation), **tags} | ({"parent_version": parent} if parent else {})
    uri = run.client.get_run(run.run_id).info.artifact_uri
    made = run.client.create_model_version("shop", uri, run.run_id, tags=known)
    return registry.version(str(made.version))


def small_bundle(path: Path, text: str = "rows", kind: str = "codes") -> Bundle:
    with write_bundle(path, kind) as draft:
        (draft.path / "part").mkdir()
        (draft.path / "part" / "data.txt").write_text(text)
    return open_bundle(path)


class TestLineage:
    def test_goes_back_to_the_trained_version(self, registry: ModelRegistry) -> None:
        trained = add(registry, 0, data_version="monday")
        first = add(registry, 1, trained.number, refreshed_on="tuesday", data_version="tuesday")
        second = add(registry, 2, first.number, refreshed_on="wednesday")
        add(registry, 2, first.number, refreshed_on="thursday")
        assert [v.number for v in lineage(registry, second)] == ["3", "2", "1"]
        known = [day for day in ("monday", "tuesday", "wednesday", "thursday") if knows_rows(registry, second, day)]
        assert known == ["monday", "tuesday", "wednesday"]

    def test_a_circle_is_refused(self, registry: ModelRegistry) -> None:
        first = add(registry, 1, "2")
        add(registry, 2, "1")
        with pytest.raises(TrackingError, match="in a circle; found: 1 -> 2 -> 1"):
            lineage(registry, first)


class TestFinding:
    def test_by_version_and_by_generation(self, registry: ModelRegistry) -> None:
        for generation in (0, 1, 4):
            add(registry, generation)
        assert [find_version(registry, wanted).number for wanted in ("v1", "1", "4")] == ["1", "2", "3"]

    @pytest.mark.parametrize(
        ("wanted", "message"),
        [("2", "no such version"), ("v9", "no such version"), ("last", "neither a version nor a generation")],
    )
    def test_what_is_not_there_lists_what_is(self, registry: ModelRegistry, wanted: str, message: str) -> None:
        add(registry, 0)
        with pytest.raises(TrackingError, match=rf"{message}.*v1 \(generation 0\)"):
            find_version(registry, wanted)

    def test_two_versions_of_a_generation(self, registry: ModelRegistry) -> None:
        add(registry, 0)
        for _ in range(2):
            add(registry, 1, "1")
        with pytest.raises(TrackingError, match="2 versions of shop have generation 1; found: v2, v3"):
            find_version(registry, "1")

    def test_unknown_models_list_the_known_ones(self, registry: ModelRegistry, store: Path) -> None:
        with pytest.raises(TrackingError, match="no registered model 'shopp'; found: shop;"):
            rollback("shopp", None, tracking=TrackingConfig(), store=store)

    def test_a_store_without_a_database_is_not_given_one(self, tmp_path: Path, registry: ModelRegistry) -> None:
        empty = tmp_path / "empty"
        with (
            pytest.raises(TrackingError, match="nothing was ever registered"),
            connected(TrackingConfig(), store=empty),
        ):
            pass
        assert not empty.exists()


class TestSwitches:
    def test_every_change_of_champion_is_told(self, registry: ModelRegistry) -> None:
        a, b = add(registry, 0), add(registry, 1, "1", auc_stale="0.5", auc_refreshed="0.75", rows_rewritten="7")
        registry.promote(a, over=None)
        registry.promote(b, over=a, why="refresh")
        with pytest.raises(TrackingError, match="neither a version nor a generation"):
            find_version(registry, "previous")
        assert version_before(registry).number == a.number
        registry.promote(a, over=b, why="rollback")
        switches = [(s.number, s.replaced, s.version, s.why) for s in registry.switches()]
        assert switches == [
            (1, None, "1", "promoted by the gate"),
            (2, "1", "2", "refresh"),
            (3, "2", "1", "rollback"),
        ]
        rows = history(registry)
        assert [(row.aliases, len(row.switches)) for row in rows] == [(("champion",), 2), (("previous",), 1)]
        assert (rows[1].measured, rows[1].rows_rewritten) == ({"auc_stale": 0.5, "auc_refreshed": 0.75}, 7)
        assert (rows[0].parent, rows[1].parent, rows[0].rows_rewritten) == (None, "1", None)

    def test_a_step_that_was_killed_before_it_moved_the_alias_tells_it_once(
        self, registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        a = add(registry, 0)
        with monkeypatch.context() as broken:
            broken.setattr(registry._client, "set_registered_model_alias", lambda *_: exec("raise KeyboardInterrupt"))
            with pytest.raises(KeyboardInterrupt):
                registry.promote(a, over=None)
        assert registry.champion() is None
        registry.promote(a, over=None)
        assert [s.version for s in registry.switches()] == ["1"]

    def test_nothing_to_go_back_to(self, registry: ModelRegistry) -> None:
        registry.promote(add(registry, 0), over=None)
        with pytest.raises(TrackingError, match=r"no previous version.*champion: v1"):
            version_before(registry)


def test_the_same_scorer_on_other_codes_is_another_version(registry: ModelRegistry, tmp_path: Path) -> None:
    def save(model_id: str) -> Path:
        folder = tmp_path / model_id
        folder.mkdir()
        (folder / "MLmodel").write_text("flavors: {}\n")
        return folder

    first = registry.register("scorer", "codes 0", save, {"feature_service": "a"}, challenger=True)
    again = registry.register("scorer", "codes 0", save, {"feature_service": "b"}, challenger=False)
    other = registry.register("scorer", "codes 1", save, {"feature_service": "b"}, challenger=False)
    assert [v.number for v in (first, again, other)] == ["1", "1", "2"]
    assert [registry.version(n).tags["feature_service"] for n in ("1", "2")] == ["a", "b"]
    assert registry.aliases() == {"challenger": "1"}  # a trained model that waits for the gate goes on waiting
    registry.promote(other, over=None)
    assert registry.aliases() == {"challenger": "1", "champion": "2"}


class TestKept:
    def test_outlives_the_run_without_a_second_copy(self, tmp_path: Path) -> None:
        bundle = small_bundle(tmp_path / "run" / "codes")
        place = keep_bundle(bundle, tmp_path / "store")
        assert (place / "part" / "data.txt").samefile(bundle.path / "part" / "data.txt")
        again = keep_bundle(bundle, tmp_path / "store")
        assert again == place
        (bundle.path / "part" / "data.txt").unlink()
        assert open_bundle(place).uuid == bundle.uuid

    def test_what_was_cut_off_or_damaged_is_kept_again(self, tmp_path: Path) -> None:
        bundle = small_bundle(tmp_path / "codes")
        place = keep_bundle(bundle, tmp_path / "store")
        (place / "manifest.json").unlink()
        keep_bundle(bundle, tmp_path / "store")
        assert open_bundle(place).uuid == bundle.uuid
        assert [path.name for path in place.parent.iterdir()] == [place.name]

    def test_tags_find_it_again_and_say_what_is_wrong(self, tmp_path: Path) -> None:
        bundles = {
            "codes": small_bundle(tmp_path / "codes"),
            "dataset": small_bundle(tmp_path / "dataset", kind="dataset"),
        }
        places = keep_bundles(bundles, tmp_path / "store")
        assert {place.parent for place in places.values()} == {tmp_path / "store" / "bundles"}
        tags: dict[str, Any] = bundle_tags(bundles, places)
        assert tagged_bundle(tags, "codes", owner="shop version 1").path == places["codes"]
        with pytest.raises(BundleError, match="shop version 1 does not say where its pretrained bundle is"):
            tagged_bundle(tags, "pretrained", owner="shop version 1")
        other = small_bundle(tmp_path / "other", "others")
        moved = {"bundle.codes": json.dumps({"uri": str(other.path), "uuid": bundles["codes"].uuid})}
        with pytest.raises(BundleError, match="is not the codes bundle of shop version 1"):
            tagged_bundle(moved, "codes", owner="shop version 1")
        (places["codes"] / "part" / "data.txt").write_text("rots")
        with pytest.raises(BundleError, match=r"version 1 is gone or damaged: .* does not match its checksum"):
            tagged_bundle(tags, "codes", owner="shop version 1")


def test_a_rollback_waits_for_no_refresh(registry: ModelRegistry, store: Path) -> None:
    a, b = add(registry, 0), add(registry, 1, "1")
    registry.promote(a, over=None)
    registry.promote(b, over=a)
    with (
        publisher_lock(refresh_lock(store, "shop"), who="refresh or switch of shop"),
        pytest.raises(PublishError, match=rf"another refresh or switch of shop holds .*found: pid {os.getpid()} on"),
    ):
        rollback("shop", None, tracking=TrackingConfig(), store=store)
    assert registry.aliases() == {"champion": "2", "previous": "1"}


def test_a_rollback_without_its_bundles_changes_nothing(registry: ModelRegistry, store: Path) -> None:
    a, b = add(registry, 0), add(registry, 1, "1")
    registry.promote(a, over=None)
    registry.promote(b, over=a)
    with pytest.raises(BundleError, match="shop version 1 does not say where its vocabulary bundle is"):
        rollback("shop", None, tracking=TrackingConfig(), store=store)
    assert registry.aliases() == {"champion": "2", "previous": "1"}
