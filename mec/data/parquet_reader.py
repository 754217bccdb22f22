"""Parquet files, read row group by row group, only the columns asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mec.data.blocks import Partition
from mec.errors import DataError

_PARTITION_ROWS = 262_144  # small row groups are taken together up to here
_BUFFER_BYTES = 1 << 20  # of a column chunk, read at a time


class ParquetRows:
    """Rows of one or more Parquet files; opening reads the footers only.

    Args:
        files: Absolute paths, in row order.

    Raises:
        DataError: Not a Parquet file, a damaged footer, a column named twice, or no rows at all.
    """

    is_untyped = False

    def __init__(self, files: Sequence[Path]) -> None:
        digest = hashlib.sha256()
        self._files: list[str] = []
        self._types: list[dict[str, pa.DataType]] = []
        self._partitions: list[Partition] = []
        first_row = 0
        for file in files:
            with _open(file) as parquet:
                schema = parquet.schema_arrow
                refuse_doubled(file, schema.names)
                self._files.append(str(file))
                self._types.append({f.name: f.type for f in schema})
                rows = [parquet.metadata.row_group(g).num_rows for g in range(parquet.num_row_groups)]
            digest.update(f"{file.name}\0{file.stat().st_size}\0".encode() + _footer(file))
            begin = 0
            for end in range(1, len(rows) + 1):
                num_rows = sum(rows[begin:end])
                if num_rows and (end == len(rows) or num_rows + rows[end] > _PARTITION_ROWS):
                    self._partitions.append(
                        Partition(len(self._partitions), str(file), begin, end, first_row, num_rows)
                    )
                    first_row += num_rows
                    begin = end
        self.version = digest.hexdigest()
        self.num_rows_hint = first_row
        if not first_row:
            raise DataError(f"{files[0]} has no rows", found="0 rows", fix="write it again with rows in it")

    def column_names(self) -> tuple[str, ...]:
        return tuple(self._types[0])

    def column_types(self, name: str) -> tuple[pa.DataType, ...]:
        found: list[pa.DataType] = []
        for file, types in zip(self._files, self._types, strict=True):
            if name not in types:
                raise missing_column(file, name, types)
            if types[name] not in found:
                found.append(types[name])
        return tuple(found)

    def partitions(self) -> list[Partition]:
        return list(self._partitions)

    def read(self, partition: Partition, columns: Sequence[str], block_rows: int) -> Iterator[pa.RecordBatch]:
        file = Path(partition.file)
        with _open(file) as parquet:
            for group in range(partition.begin, partition.end):
                expected = parquet.metadata.row_group(group).num_rows
                found = 0
                try:
                    for batch in parquet.iter_batches(block_rows, [group], list(columns), use_threads=False):
                        for column in batch.columns:
                            column.validate(full=True)  # text is UTF-8
                        found += batch.num_rows
                        yield batch
                except (OSError, pa.ArrowException) as error:
                    raise _damaged(file, group, error) from error
                if found != expected:
                    raise _damaged(file, group, f"{found} of {expected} rows")

    def row_name(self, partition: Partition, row: int) -> str:
        return f"{partition.file} row {self._first_row_in_file(partition) + row} (from 0)"

    def _first_row_in_file(self, partition: Partition) -> int:
        return partition.first_row - min(p.first_row for p in self._partitions if p.file == partition.file)


def missing_column(file: str, name: str, known: Sequence[str] | dict[str, pa.DataType]) -> DataError:
    """The error for a column that a file lacks; lists those it has."""
    names = list(known)
    shown = ", ".join(names[:40]) + (" …" if len(names) > 40 else "")
    return DataError(
        f"{file}: column {name!r} is missing", found=shown, fix="correct the name in the config's data section"
    )


def refuse_doubled(file: Path, names: Sequence[str]) -> None:
    """Refuse a file that names a column twice."""
    doubled = sorted({n for n in names if list(names).count(n) > 1})
    if doubled:
        raise DataError(f"{file}: columns named twice", found=doubled, fix="give every column its own name")


def _open(file: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file, buffer_size=_BUFFER_BYTES, page_checksum_verification=True)
    except FileNotFoundError:
        raise DataError(f"{file} is gone", fix="do not move files while they are read") from None
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{file} is not a readable Parquet file", found=_first_line(error), fix="fetch or write it again"
        ) from error


def _footer(file: Path) -> bytes:
    with file.open("rb") as stream:
        stream.seek(-8, 2)
        length = int.from_bytes(stream.read(4), "little")
        stream.seek(-8 - length, 2)
        return stream.read(length)


def _damaged(file: Path, group: int, found: object) -> DataError:
    return DataError(
        f"{file}: row group {group} (from 0) cannot be read, the file is damaged",
        found=_first_line(found),
        fix="fetch or write it again",
    )


def _first_line(error: object) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
