import json
from collections import Counter
from pathlib import Path
from typing import Any

import distributed
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mec.bundle import open_bundle
from mec.config import CountConfig, DataConfig
from mec.data import counting, value_counter
from mec.data.counting import count_source, count_step
from mec.data.merging import FieldTally, Moments, count_table, merge_tables, sort_table
from mec.data.readers import open_source
from mec.data.value_counter import Int64Counter, StringCounter
from mec.errors import ConfigError, DataError

SERIAL = CountConfig(scheduler="synchronous")


def config(path: Path, **fields: Any) -> DataConfig:
    split = {"kind": "column", "column": "split"}
    return DataConfig.model_validate({"path": str(path), "split": split, "block_rows": 1024, **fields})


def write(path: Path, columns: dict[str, Any], row_group_size: int = 500) -> Path:
    num_rows = len(next(iter(columns.values())))
    columns = {"label": [i % 2 for i in range(num_rows)], **columns}
    columns.setdefault("split", [("train", "train", "valid", "test")[i // 2 % 4] for i in range(num_rows)])
    pq.write_table(pa.table(columns), path, row_group_size=row_group_size)
    return path


def many(num_rows: int = 6000) -> dict[str, Any]:
    random = np.random.default_rng(0)
    return {
        "user": random.integers(0, 900, num_rows),
        "item": random.zipf(1.3, num_rows) % 1000,
        "liked": random.zipf(1.5, num_rows) % 1000,
        "city": pa.array([None if i % 7 == 0 else f"c{i % 11}" for i in range(num_rows)]),
        "price": pa.array([None if i % 9 == 0 else float(i % 13) for i in range(num_rows)]),
        "past": pa.array([[int(v) for v in random.zipf(1.5, i % 5)] for i in range(num_rows)]),
    }


FIELDS: dict[str, Any] = {
    "categorical": [
        "user",
        {"name": "item", "vocabulary": "thing"},
        {"name": "liked", "vocabulary": "thing"},
        "city",
    ],
    "numeric": [{"name": "price", "transform": "linear"}],
    "sequence": [{"name": "past", "vocabulary": "thing", "max_length": 3}],
}


def ranked(counts: Counter[Any]) -> list[tuple[Any, int]]:
    """Count descending, value ascending, null last: the reference order."""
    return sorted(counts.items(), key=lambda vn: (-vn[1], vn[0] is None, vn[0] if vn[0] is not None else 0))


def pairs(table: pa.Table) -> list[tuple[Any, int]]:
    return list(zip(table["value"].to_pylist(), table["count"].to_pylist(), strict=True))


def test_counts_equal_a_plain_counter(tmp_path: Path) -> None:
    columns = many()
    path = write(tmp_path / "x.parquet", columns)
    count_step(data=config(path, **FIELDS), count=CountConfig(), seed=0, out=tmp_path / "counts")
    bundle = open_bundle(tmp_path / "counts", "counts")
    table = pq.read_table(path).to_pylist()
    train = [row for row in table if row["split"] == "train"]
    expected = {
        "user": Counter(r["user"] for r in train),
        "city": Counter(r["city"] for r in train),
        "thing": Counter(v for r in train for v in [r["item"], r["liked"], *r["past"][-3:]]),
    }
    for name, counts in expected.items():
        counted = pq.read_table(bundle.file(f"{name}.parquet"))
        assert pairs(counted) == ranked(counts)
        assert counted.schema.types == [pa.string() if name == "city" else pa.int64(), pa.int64()]
    prices = [r["price"] for r in train if r["price"] is not None]
    fact = bundle.extra["numeric"]["price"]
    assert fact["mean"] == pytest.approx(np.mean(prices))
    assert fact["std"] == pytest.approx(np.std(prices))
    assert (fact["num_values"], fact["num_nulls"]) == (len(prices), len(train) - len(prices))
    assert bundle.extra["rows"] == {s: sum(r["split"] == s for r in table) for s in ("train", "valid", "test")}
    assert bundle.extra["vocabularies"]["city"] == {"type": "string", "distinct": 12}
    assert sorted(bundle.extra["vocabularies"]) == ["city", "thing", "user"]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.none() | st.integers(-(2**63), 2**63 - 1), st.none() | st.text(max_size=3)), min_size=8),
    st.integers(1, 9),
)
def test_any_values_counted_in_any_pieces(tmp_path: Path, rows: list[tuple[Any, Any]], row_group_size: int) -> None:
    columns = {"n": pa.array([r[0] for r in rows], pa.int64()), "s": pa.array([r[1] for r in rows], pa.string())}
    path = write(tmp_path / "x.parquet", columns, row_group_size)
    source = open_source(config(path, categorical=["n", "s"]), seed=0)
    tables, tally = count_source(source, SERIAL)
    train = [r for i, r in enumerate(rows) if i // 2 % 4 < 2]
    for place, name in enumerate(("n", "s")):
        expected = Counter(r[place] for r in train)
        assert pairs(tables[name]) == ranked(expected)
        facts = tally.fields[name].facts()
        assert (facts.num_values, facts.num_nulls) == (len(train), expected[None])
        assert facts.num_distinct == min(2, len(expected.keys() - {None}))


@given(st.lists(st.lists(st.none() | st.integers(-4, 4) | st.integers(-(2**63), 2**63 - 1)), min_size=1))
def test_int64_counter(blocks: list[list[int | None]]) -> None:
    counter = Int64Counter()
    for block in blocks:
        counter.add(pa.array(block, pa.int64()))
    expected = Counter(v for block in blocks for v in block)
    assert dict(pairs(merge_tables([counter.table()]))) == expected


def test_string_counter_merges_what_is_pending(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(value_counter, "_PENDING_ROWS", 4)
    counter = StringCounter()
    for _ in range(50):
        counter.add(pa.array(["a", "b", None, "c"]))
    assert counter.table().num_rows <= 4 + 4 + 4
    assert dict(pairs(merge_tables([counter.table()]))) == {"a": 50, "b": 50, "c": 50, None: 50}


@pytest.mark.parametrize("values", [[3, None, 1, 3, 2, None, 1, 9], ["b", None, "a", "b", None, "c"], [None], []])
def test_sorted_by_count_then_value_then_null(values: list[Any]) -> None:
    kind = pa.string() if "a" in values else pa.int64()
    table = sort_table(count_table(pa.array(values, kind)))
    assert pairs(table) == ranked(Counter(values))


def test_moments_of_pieces_are_moments_of_the_whole() -> None:
    x = np.random.default_rng(0).normal(1e6, 2.0, 1000)
    total = Moments()
    for piece in np.split(x, [0, 1, 500, 500, 900]):
        total.add(Moments.of(pa.array(piece)))
    assert (total.num, total.mean, total.std) == (1000, pytest.approx(x.mean(), rel=1e-12), pytest.approx(x.std()))


def test_tally_sees_no_more_than_two_values() -> None:
    tally = FieldTally()
    for values in ([None, 5], [5], [7, 9], [11]):
        tally.add(FieldTally.of(pa.array(values, pa.int64())))
    assert tally.facts().num_distinct == 2
    assert (tally.num_values, tally.num_nulls) == (6, 1)


def test_every_scheduler_gives_the_same_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "_LEAF_ROWS", 400)
    monkeypatch.setattr(counting, "_FAN_IN", 3)  # a tree of several levels
    monkeypatch.setattr("mec.data.parquet_reader._PARTITION_ROWS", 400)
    path = write(tmp_path / "x.parquet", many(), row_group_size=400)
    data = config(path, **FIELDS)
    assert len(open_source(data, seed=0).partitions()) == 15
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0", protocol="tcp"
    )
    with cluster:
        schedulers = ["threads", "synchronous", cluster.scheduler_address]
        for i, scheduler in enumerate(schedulers):
            count_step(data=data, count=CountConfig(scheduler=scheduler), seed=0, out=tmp_path / str(i))
    uuids = {open_bundle(tmp_path / str(i), "counts").uuid for i in range(3)}
    assert len(uuids) == 1


def test_bad_rows_are_named_by_every_scheduler(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", {"a": [1, 2] * 20, "label": [0, 1] * 19 + [0, 2]})
    data = config(path, categorical=["a"])
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0", protocol="tcp"
    ) as cluster:
        for scheduler in ("threads", "synchronous", cluster.scheduler_address):
            with pytest.raises(DataError, match=r"x\.parquet row 39 .*'label' is not 0 or 1"):
                count_step(data=data, count=CountConfig(scheduler=scheduler), seed=0, out=tmp_path / "c")
            assert not (tmp_path / "c").exists()


def test_scheduler_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mec.data.dask_run._CONNECT_S", 1)
    path = write(tmp_path / "x.parquet", {"a": [1, 2] * 20})
    with pytest.raises(ConfigError, match=r"count\.scheduler 'tcp://127\.0\.0\.1:1' does not answer"):
        count_step(
            data=config(path, categorical=["a"]),
            count=CountConfig(scheduler="tcp://127.0.0.1:1"),
            seed=0,
            out=tmp_path / "c",
        )


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"a": [1, 2] * 20, "label": [1] * 40}, "one class only"),
        ({"a": pa.nulls(40, pa.int64())}, "'a' is null .* in every training row"),
        ({"a": [7] * 40}, "'a' has a single value"),
        ({"a": [1, 2] * 20, "split": ["train"] * 20 + ["test"] * 20}, "valid split has no rows"),
    ],
)
def test_data_nothing_can_be_learned_from(tmp_path: Path, columns: dict[str, Any], problem: str) -> None:
    path = write(tmp_path / "x.parquet", columns)
    with pytest.raises(DataError, match=problem):
        count_step(data=config(path, categorical=["a"]), count=SERIAL, seed=0, out=tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_rows_of_no_split_are_noted_and_not_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "x.parquet", {"a": [1, 2] * 20, "split": ["train", "valid", "test", "other", None] * 8})
    count_step(data=config(path, categorical=["a"]), count=SERIAL, seed=0, out=tmp_path / "c")
    assert "[count] note: 16 rows belong to no split" in capsys.readouterr().out
    assert open_bundle(tmp_path / "c").extra["rows"] == {"train": 8, "valid": 8, "test": 8}


def test_a_killed_step_run_again_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", {"a": [1, 2] * 20})
    left = tmp_path / "c"
    left.mkdir()
    (left / "old.parquet").write_bytes(b"half a file")
    for out in (left, tmp_path / "fresh"):
        count_step(data=config(path, categorical=["a"]), count=SERIAL, seed=0, out=out)
    files = [{str(f.relative_to(d)): f.read_bytes() for f in d.rglob("*.parquet")} for d in (left, tmp_path / "fresh")]
    assert files[0] == files[1]
    assert open_bundle(left).uuid == open_bundle(tmp_path / "fresh").uuid


def test_progress_and_summary_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "x.parquet", {"a": [1, 2] * 20})
    count_step(data=config(path, categorical=["a"]), count=SERIAL, seed=0, out=tmp_path / "c")
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("[count] 100% ") for line in lines)
    assert lines[-1].endswith("20 training rows, 1 vocabularies, 2 values")
    assert json.loads((tmp_path / "c" / "step.json").read_text())["name"] == "count"


def test_leaf_ranges_cover_every_partition_once() -> None:
    for rows in ([5], [10] * 7, [100, 1, 1, 1, 50], [2_000_000] * 9):
        ranges = counting._leaf_ranges(rows)
        assert [i for begin, end in ranges for i in range(begin, end)] == list(range(len(rows)))
    assert len(counting._leaf_ranges([10] * 80)) == 8
