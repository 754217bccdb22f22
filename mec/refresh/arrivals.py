"""Whether all of the new data is there, asked before anything is written.

A scheduler may start a refresh while files are still on their way. What should be there is stated by the one who
knows, as names of files or as values of a column such as the day; here it is compared with what is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from mec.data.blocks import Partition
from mec.data.csv_reader import CsvRows
from mec.data.files import find_files
from mec.data.parquet_reader import ParquetRows
from mec.data.presets import PRESETS
from mec.data.readers import Source
from mec.errors import ConfigError, DataError

_SHOWN = 8  # names in a message


@dataclass(frozen=True)
class Expected:
    """What the data of one period must hold.

    Attributes:
        files: Names or glob patterns, matched from the end of a file's path as in ``day=2026-01-0[1-7]/*.parquet``;
            each must match a file.
        column: Column whose values tell the parts of the data; empty: none.
        values: Values of ``column``, as text, that must all occur.
        min_rows: Rows that all files together hold at least.
        min_part_rows: Rows that each file holds at least, or each of ``values`` where there are any. Rows of text
            files are counted as lines, empty ones included.
    """

    files: tuple[str, ...] = ()
    column: str = ""
    values: tuple[str, ...] = ()
    min_rows: int = 1
    min_part_rows: int = 1

    def __post_init__(self) -> None:
        if bool(self.column) != bool(self.values):
            raise ConfigError(
                "expected values need their column, and the column its values",
                found=f"column {self.column!r}, values {self.values}",
                fix="give both, or neither",
            )
        if min(self.min_rows, self.min_part_rows) < 1:
            raise ConfigError(
                "data without rows is never complete",
                found=f"min_rows {self.min_rows}, min_part_rows {self.min_part_rows}",
                fix="set both to 1 at least",
            )


@dataclass(frozen=True)
class Arrived:
    """What is there: rows per file (text: lines), and per value of the column, those not expected included."""

    file_rows: Mapping[str, int]
    value_rows: Mapping[str, int]


def check_arrived(source: Source, expected: Expected) -> Arrived:
    """Compare a source with what is expected of it; reads the column, if one is named, and nothing else.

    Raises:
        DataError: Files or values that are missing, empty or too small; they are named.
    """
    file_rows = _file_rows(source)
    _require(
        [pattern for pattern in expected.files if not any(Path(file).match(pattern) for file in file_rows)],
        "expected files are missing",
        found=_shown(list(file_rows)),
    )
    floor = 1 if expected.values else expected.min_part_rows
    _require(
        [f"{file} ({rows})" for file, rows in file_rows.items() if rows < floor],
        "files hold fewer rows than a complete one",
        found=f"fewer than {floor} rows each",
    )
    total = sum(file_rows.values())
    if total < expected.min_rows:
        raise DataError(
            f"the new data holds fewer than {expected.min_rows} rows",
            found=f"{total} rows in {len(file_rows)} files",
            fix="wait until all of it has arrived, or lower min_rows",
        )
    value_rows = _value_rows(source, expected.column) if expected.column else {}
    _require(
        [value for value in expected.values if value not in value_rows],
        f"expected values of column {expected.column!r} are missing",
        found=_shown(sorted(value_rows)),
    )
    short = [value for value in expected.values if value_rows[value] < expected.min_part_rows]
    _require(
        [f"{value} ({value_rows[value]})" for value in short],
        f"values of column {expected.column!r} have fewer rows than a complete part",
        found=f"fewer than {expected.min_part_rows} rows each",
    )
    return Arrived(file_rows, value_rows)


def _file_rows(source: Source) -> dict[str, int]:
    """Rows of every file; our file readers pass over files without rows, so these are listed anew."""
    rows: dict[str, int] = {}
    data = source.data
    if data.path is not None and isinstance(source.rows, (ParquetRows, CsvRows)):
        preset = PRESETS[data.preset] if data.preset is not None else None
        files, _ = find_files(data.paths, data.format, preset.format if preset is not None else None)
        rows = dict.fromkeys((str(file) for file in files), 0)
    for partition in source.partitions():
        file = partition.file or "synthetic"
        rows[file] = rows.get(file, 0) + partition.num_rows
    return rows


def _value_rows(source: Source, column: str) -> dict[str, int]:
    source.rows.column_types(column)  # a file that lacks it is named before any is read
    counts: Counter[str] = Counter()
    for partition in source.partitions():
        counts.update(_partition_values(source, partition, column))
    return dict(counts)


def _partition_values(source: Source, partition: Partition, column: str) -> Counter[str]:
    counts: Counter[str] = Counter()
    for batch in source.rows.read(partition, [column], source.data.block_rows):
        for entry in pc.value_counts(pc.cast(batch[column].drop_null(), pa.string())):
            counts[str(entry["values"].as_py())] += entry["counts"].as_py()
    return counts


def _require(missing: list[str], problem: str, *, found: str) -> None:
    if missing:
        raise DataError(
            f"{problem}: {_shown(missing)}",
            found=found,
            fix="wait until all of the data has arrived, then refresh; nothing was written",
        )


def _shown(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
