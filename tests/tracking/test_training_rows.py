"""Which rows a training in place of a refresh learns from, in a real registry, and when it is refused ahead of time."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mec.config import DataConfig, TrackingConfig
from mec.data.readers import open_source
from mec.errors import ConfigError, DataError, MecError
from mec.tracking.base_version import before_these_rows, find_champion_step, has_learned
from mec.tracking.registry import ModelRegistry, Version
from mec.tracking.runs import connected, open_run
from mec.tracking.training_rows import TrainingRows, trained_on, trained_on_tag
from mec.tracking.waiting import waiting_tag

TRACKING = TrackingConfig()
WEEKS = ["week-0", "week-1", "week-2", "week-3", "week-4", "week-5"]


class Shop:
    """A registry, and a file of rows for each week."""

    def __init__(self, store: Path) -> None:
        self.store, self.files = store, {}
        for number, week in enumerate(WEEKS):
            file = store / f"{week}.parquet"
            pq.write_table(pa.table({"user": [number, number + 1], "label": [0, 1], "day": [number, number]}), file)
            self.files[week] = str(file)

    def data(self, *weeks: str, **changes: Any) -> DataConfig:
        paths = tuple(self.files[week] for week in weeks)
        path = paths[0] if len(paths) == 1 else paths
        return DataConfig.model_validate({"path": path, "categorical": ["user"], **changes})

    def content(self, *weeks: str) -> str:
        return open_source(self.data(*weeks), seed=0).data_version

    def add(self, tags: dict[str, str]) -> str:
        """A version with these tags; its number."""
        with open_run(TRACKING, store=self.store, run_name="shop", run_id="any") as run:
            ModelRegistry(run, "shop")
            uri = run.client.get_run(run.run_id).info.artifact_uri
            return str(run.client.create_model_version("shop", uri, run.run_id, tags=tags).version)

    def trained(self, *weeks: str) -> str:
        return self.add({"data_version": self.content(*weeks), **trained_on_tag(self.data(*weeks))})

    def refreshed(self, parent: str, *weeks: str) -> str:
        own = {"parent_version": parent, "refreshed_on": weeks[0], "data_version": self.content(*weeks)}
        return self.add(own | {"refreshed_paths": json.dumps([self.files[week] for week in weeks])})

    def waits(self, version: str, *weeks: str, decision: str = "keep", name: str = "", at: str = "") -> None:
        with connected(TRACKING, store=self.store) as server:
            registry = ModelRegistry(server, "shop", create=False)
            holder = registry.version(version)
            given: dict[str, Any] = {"decision": decision, "reason": "because", "run": "run"}
            given |= {"data_version": name or weeks[0], "content": self.content(*weeks)}
            paths = (at,) if at else self.data(*weeks).paths
            registry.tag(holder, waiting_tag(version=holder, paths=paths, **given))

    def registry(self) -> Any:
        return connected(TRACKING, store=self.store)

    def asked(self, version: str, rows: TrainingRows, data_version: str = "week-5") -> tuple[list[str], DataConfig]:
        with self.registry() as server:
            registry = ModelRegistry(server, "shop", create=False)
            paths = rows.paths(registry, registry.version(version), data_version)
            section, content = rows.section(registry, registry.version(version), data_version)
        assert section.paths == paths
        assert content == open_source(section, seed=0).data_version
        return [Path(path).stem for path in paths], section


@pytest.fixture
def shop(store: Path) -> Shop:
    return Shop(store)


def test_all_rows_after_two_refreshes_none_of_them_twice(shop: Shop) -> None:
    first = shop.trained("week-0")
    shop.waits(first, "week-1")  # learned from by the second refresh
    shop.waits(first, "week-2", at="/gone.parquet")  # learned from by the first, from another place
    second = shop.refreshed(first, "week-2")
    third = shop.refreshed(second, "week-3", "week-1", "week-2")
    shop.waits(third, "week-4")
    shop.waits(third, "week-5", at="/gone.parquet")  # this refresh, before its rows were moved
    shop.refreshed(first, "week-1")  # of another line
    new = shop.data("week-5", "week-4", split={"kind": "time", "valid_from": 5, "test_from": 6}, time="day")
    places, section = shop.asked(third, TrainingRows(shop.data("week-0"), new, 0))
    assert places == ["week-0", "week-2", "week-3", "week-1", "week-4", "week-5"]
    assert section.split == new.split
    assert section.model_copy(update={"path": None}) == new.model_copy(update={"path": None})
    assert shop.asked(second, TrainingRows(shop.data("week-0"), shop.data("week-5"), 0))[0] == [
        "week-0",
        "week-2",
        "week-1",
        "week-4",
        "week-5",
    ]


def test_a_trained_version_says_what_it_was_trained_on(shop: Shop) -> None:
    number = shop.trained("week-0", "week-1")
    assert shop.asked(number, TrainingRows(shop.data("week-0"), shop.data("week-5"), 0))[0] == [
        "week-0",
        "week-1",
        "week-5",
    ]
    config = shop.data("week-0")
    tagged = trained_on(Version("2", trained_on_tag(shop.data("week-1", split={"valid_fraction": 0.3}))), config)
    assert (tagged.path, tagged.split.valid_fraction) == (shop.files["week-1"], 0.3)
    assert trained_on(Version("1", {}), config) == config
    generated = DataConfig()
    assert trained_on(Version("1", trained_on_tag(generated)), generated) == generated


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ("gone", DataError, r"rows of the train run of version 1 are needed .*week-0.*no data files.*put them back"),
        ("other", DataError, r"rows of the refresh to version 2 have changed: .*week-1.parquet holds others"),
        ("waiting", DataError, r"rows of a refresh of 20.* that wait have changed: .*week-2.parquet holds others"),
        ("generated", DataError, r"rows of the train run of version 1 are needed .* in no file that is known"),
        ("untold", DataError, r"rows of the refresh to version 3 are needed .* in no file that is known"),
        ("column", ConfigError, r"split by a column, and old ones another way.*'column': 'week'.*on_escalation=mark"),
        ("columns", DataError, r"user"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(shop: Shop, change: str, error: type[MecError], message: str) -> None:
    old, new = shop.data("week-0"), shop.data("week-5")
    generated = DataConfig.model_validate({"path": None, "categorical": ["user"]})
    first = shop.add({"data_version": "generated"}) if change == "generated" else shop.trained("week-0")
    second = shop.refreshed(first, "week-1")
    shop.waits(second, "week-2")
    if change == "gone":
        Path(shop.files["week-0"]).unlink()
    elif change in ("other", "waiting"):
        table = pa.table({"user": [77], "label": [1], "day": [9]})
        pq.write_table(table, shop.files["week-1" if change == "other" else "week-2"])
    elif change == "untold":
        second = shop.add({"parent_version": first, "refreshed_on": "week-1", "data_version": "any"})
    elif change == "column":
        new = shop.data("week-5", split={"kind": "column", "column": "week"})
    elif change == "columns":
        pq.write_table(pa.table({"item": [1], "label": [1]}), shop.files["week-5"])
    rows = TrainingRows(generated if change == "generated" else old, new, 0)
    with pytest.raises(error, match=f"(?s){message}"):
        shop.asked(second, rows)
    with pytest.raises(error, match=f"(?s){message}"):  # in the pipeline's first step too
        find_champion_step(
            tracking=TRACKING, name="shop", store=shop.store, version=second, data_version="week-5", training=rows
        )


def test_a_training_has_learned_from_the_rows_that_called_for_it(shop: Shop) -> None:
    first = shop.trained("week-0")
    shop.waits(first, "week-1", decision="escalate")
    shop.waits(first, "week-2")
    second = shop.trained("week-0", "week-1", "week-2")
    time.sleep(1.1)  # the registry's times are whole seconds here
    shop.waits(first, "week-1", decision="escalate")  # repeated, with the time when the rows came
    shop.waits(first, "week-4", decision="escalate")
    shop.waits(first, "week-2", decision="escalate", name="later")  # where a training has read other rows
    third = shop.refreshed(second, "week-3")
    with shop.registry() as server:
        registry = ModelRegistry(server, "shop", create=False)
        one, two, three = (registry.version(number) for number in (first, second, third))
        learned = {v.number: [week for week in WEEKS if has_learned(registry, v, week)] for v in (one, two, three)}
        assert learned == {first: [], second: ["week-1", "week-2"], third: ["week-1", "week-2", "week-3"]}

        def before(version: Version, week: str, *, trains: bool = True) -> str | None:
            found = before_these_rows(registry, version, week, trains=trains)
            return found and found.number

        assert [before(two, week) for week in WEEKS] == [None, first, None, None, None, None]
        assert before(two, "week-1", trains=False) is None
        assert not has_learned(registry, two, "later")
        assert [before(three, week) for week in WEEKS] == [None, None, None, second, None, None]
        registry.promote(two, over=None)
    find: dict[str, Any] = {"tracking": TRACKING, "name": "shop", "store": shop.store, "version": ""}
    rows = TrainingRows(shop.data("week-0"), shop.data("week-1"), 0)
    assert find_champion_step(**find, data_version="week-1", training=rows) == first
    with pytest.raises(DataError, match="nothing new: version 2 of shop"):
        find_champion_step(**find, data_version="week-1")
    assert find_champion_step(**find, data_version="week-4") == second
