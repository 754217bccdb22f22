"""Missing and partial data is named, and refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mec.config import DataConfig
from mec.data.readers import Source, open_source
from mec.errors import ConfigError, DataError
from mec.refresh.arrivals import Arrived, Expected, check_arrived
from tests.refresh.periods import make_rows, open_rows, write_rows


@pytest.fixture
def three_days(tmp_path: Path) -> Source:
    for day, num_rows in ((1, 30), (2, 40), (3, 50)):
        write_rows(tmp_path / "data" / f"day-{day}.parquet", make_rows(num_rows, day, day=day))
    return open_rows(tmp_path / "data")


def _by_name(arrived: Arrived) -> dict[str, int]:
    return {Path(file).name: rows for file, rows in arrived.file_rows.items()}


def test_complete_data_passes(three_days: Source) -> None:
    names = ("day-1.parquet", "day-[23].parquet")
    expected = Expected(files=names, column="day", values=("1", "2", "3"), min_rows=120, min_part_rows=30)
    arrived = check_arrived(three_days, expected)
    assert _by_name(arrived) == {"day-1.parquet": 30, "day-2.parquet": 40, "day-3.parquet": 50}
    assert arrived.value_rows == {"1": 30, "2": 40, "3": 50}
    assert check_arrived(three_days, Expected(min_part_rows=30)).value_rows == {}


@pytest.mark.parametrize(
    ("expected", "words"),
    [
        ({"files": ("day-1.parquet", "day-4.parquet")}, r"files are missing: day-4\.parquet; found: .*day-1\.parquet"),
        ({"files": ("other/day-1.parquet",)}, r"files are missing: other/day-1\.parquet"),
        ({"files": ("data/day-1.parquet", "day-[45].parquet")}, r"missing: day-\[45\]\.parquet"),
        ({"column": "day", "values": ("2", "4", "5")}, r"column 'day' are missing: 4, 5; found: 1, 2, 3"),
        ({"column": "day", "values": ("1", "3"), "min_part_rows": 31}, r"fewer rows than a complete part: 1 \(30\)"),
        ({"min_part_rows": 41}, r"fewer rows than a complete one: .*day-1\.parquet \(30\), .*day-2\.parquet \(40\)"),
        ({"min_rows": 121}, r"fewer than 121 rows; found: 120 rows in 3 files"),
        ({"column": "hour", "values": ("1",)}, r"column 'hour' is missing"),
    ],
)
def test_incomplete_data_is_named(three_days: Source, expected: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        check_arrived(three_days, Expected(**expected))


def test_a_parquet_file_without_rows_is_found(tmp_path: Path, three_days: Source) -> None:
    write_rows(tmp_path / "data" / "day-4.parquet", {name: [] for name in make_rows(1, 0)} | {"day": []})
    source = open_rows(tmp_path / "data")
    assert {Path(p.file).name for p in source.partitions()} == {"day-1.parquet", "day-2.parquet", "day-3.parquet"}
    with pytest.raises(DataError, match=r"complete one: .*day-4\.parquet \(0\)"):
        check_arrived(source, Expected())


def test_only_expected_values_need_rows(tmp_path: Path) -> None:
    rows = make_rows(50, 0, day=1)
    rows["day"][:2] = [0, None]
    source = open_rows(write_rows(tmp_path / "a.parquet", rows))
    arrived = check_arrived(source, Expected(column="day", values=("1",), min_part_rows=48))
    assert arrived.value_rows == {"0": 1, "1": 48}


def test_text_files(tmp_path: Path) -> None:
    for day in (1, 2):
        lines = [f"{i % 7},{i % 2},{day}" for i in range(10 * day)]
        (tmp_path / f"{day}.csv").write_text("\n".join(["user,label,day", *lines]) + "\n")
    source = open_source(DataConfig.model_validate({"path": str(tmp_path), "categorical": ["user"]}), seed=0)
    arrived = check_arrived(source, Expected(files=("1.csv", "2.csv"), column="day", values=("1", "2")))
    assert _by_name(arrived) == {"1.csv": 10, "2.csv": 20}
    assert arrived.value_rows == {"1": 10, "2": 20}


def test_a_text_file_of_a_header_alone_is_found(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("user,label\n1,0\n2,1\n")
    (tmp_path / "2.csv").write_text("user,label\n")
    source = open_source(DataConfig.model_validate({"path": str(tmp_path), "categorical": ["user"]}), seed=0)
    with pytest.raises(DataError, match=r"complete one: .*2\.csv \(0\)"):
        check_arrived(source, Expected())


def test_generated_rows_have_no_files() -> None:
    source = open_source(DataConfig.model_validate({"synthetic": {"num_rows": 500}}), seed=0)
    assert check_arrived(source, Expected(min_rows=500)).file_rows == {"synthetic": 500}
    with pytest.raises(DataError, match="files are missing"):
        check_arrived(source, Expected(files=("a.parquet",)))


@pytest.mark.parametrize(
    ("expected", "words"),
    [
        ({"column": "day"}, "values need their column"),
        ({"values": ("1",)}, "values need their column"),
        ({"min_rows": 0}, "never complete"),
        ({"min_part_rows": 0}, "never complete"),
    ],
)
def test_expectations_that_mean_nothing_are_refused(expected: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Expected(**expected)
