"""Which version is refreshed, and that nothing is published over another one, in a real registry."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mec.bundle import Bundle, open_bundle, write_bundle
from mec.config import PublishConfig, TrackingConfig
from mec.errors import DataError, TrackingError
from mec.tracking import publishing
from mec.tracking.base_version import find_champion_step
from mec.tracking.publishing import publish_generation_step
from mec.tracking.registry import ModelRegistry, Version
from mec.tracking.runs import open_run

TRACKING = TrackingConfig()


@pytest.fixture
def versions(store: Path) -> Iterator[tuple[ModelRegistry, list[Version]]]:
    """Version 1 trained on monday, 2 refreshed on tuesday, 3 on wednesday; 3 is champion."""
    with open_run(TRACKING, store=store, run_name="shop", run_id="run-1") as run:
        registry, found = ModelRegistry(run, "shop"), []
        uri = run.client.get_run(run.run_id).info.artifact_uri
        for number, day in enumerate(["monday", "tuesday", "wednesday"]):
            tags = {"data_version": day, "codes": f"codes of {day}"}
            tags |= {"refreshed_on": day, "parent_version": str(number)} if number else {}
            made = run.client.create_model_version("shop", uri, run.run_id, tags=tags)
            found.append(registry.version(str(made.version)))
        registry.promote(found[-1], over=None)
        yield registry, found


def find(store: Path, data_version: str, version: str = "") -> str:
    return find_champion_step(tracking=TRACKING, name="shop", store=store, version=version, data_version=data_version)


def test_the_champion_is_refreshed_with_new_rows(store: Path, versions: Any) -> None:
    assert find(store, "thursday") == "3"


def test_the_same_rows_twice_start_where_they_started_before(store: Path, versions: Any) -> None:
    assert find(store, "wednesday") == "2"


@pytest.mark.parametrize("day", ["monday", "tuesday"])
def test_rows_from_before_the_last_refresh_are_refused(
    store: Path, versions: Any, capsys: pytest.CaptureFixture[str], day: str
) -> None:
    with pytest.raises(DataError, match=f"nothing new: version 3 of shop .*found: {day}"):
        find(store, day)
    assert "[find_champion] error: DataError: nothing new" in capsys.readouterr().out


def test_a_version_that_is_named_is_not_looked_up(tmp_path: Path) -> None:
    assert find(tmp_path / "no store", "monday", version="7") == "7"


def test_a_switch_changes_what_is_found(store: Path, versions: Any) -> None:
    registry, (_, second, third) = versions
    registry.promote(second, over=third)
    assert [find(store, day) for day in ("wednesday", "tuesday")] == ["2", "1"]


def champion_bundle(at: Path, version: str) -> Path:
    facts = {"model": "shop", "version": version, "generation": 1, "parent_generation": 0, "codebook": "book"}
    with write_bundle(at, "champion") as draft:
        draft.extra = facts | {"bundles": {"codes": str(at / "old codes"), "vocabulary": str(at / "old vocabulary")}}
    return at


def codes_bundle(at: Path) -> Bundle:
    with write_bundle(at, "codes") as draft:
        (draft.path / "codes.txt").write_text("new")
    return open_bundle(at)


@pytest.mark.parametrize("base", ["3", "2", "2, promoted already"])
def test_only_what_was_refreshed_is_published_over(
    store: Path, tmp_path: Path, versions: Any, monkeypatch: pytest.MonkeyPatch, base: str
) -> None:
    registry, (_, _, third) = versions
    published: list[dict[str, Any]] = []
    monkeypatch.setattr(publishing, "publish_step", lambda **given: published.append(given))
    codes = codes_bundle(tmp_path / "codes")
    if "promoted" in base:
        registry.tag(third, {"codes": codes.uuid})
    champion = champion_bundle(tmp_path / "champion", base[0])
    given: dict[str, Any] = {name: tmp_path / name for name in ("vocabulary", "codebook", "codes", "out")}
    given |= {"publish": PublishConfig(), "tracking": TRACKING, "store": store, "champion": champion}
    if base == "2":
        with pytest.raises(TrackingError, match=r"version 2 of shop .* no longer in service.*champion version 3"):
            publish_generation_step(**given)
        assert published == []
        return
    publish_generation_step(**given)
    assert [(p["online_codes"], p["codes"]) for p in published] == [(champion / "old codes", tmp_path / "codes")]
