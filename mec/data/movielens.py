"""MovieLens-1M as it is distributed: ratings.dat joined with users.dat and movies.dat, ``::`` between cells.

https://grouplens.org/datasets/movielens/1m/ ; the files are latin-1.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from mec.data.blocks import Partition
from mec.data.csv_reader import line_of_row, parse_lines, read_range, scan_lines
from mec.data.parquet_reader import missing_column
from mec.errors import DataError

_RATINGS = ("user_id", "movie_id", "rating", "timestamp")
_USERS = ("user_id", "gender", "age", "occupation", "zip")
_MOVIES = ("movie_id", "title", "genres")
_WHOLE = frozenset({"user_id", "movie_id", "rating", "timestamp", "age", "occupation"})
_YEAR = re.compile(r"\((\d{4})\)\s*$")


def movielens_directory(path: Path) -> Path | None:
    """The directory of the raw ``.dat`` files that a path means (it, or its ratings.dat), if it does."""
    directory = path.parent if path.name == "ratings.dat" else path
    return directory if (directory / "ratings.dat").is_file() else None


class MovielensRows:
    """Rows of ratings.dat, each with its user's and its movie's columns; ``year`` is the one in the title.

    Args:
        directory: Where ratings.dat, users.dat and movies.dat are.

    Raises:
        DataError: A file is missing or empty, or a line of users.dat or movies.dat is broken.
    """

    is_untyped = False

    def __init__(self, directory: Path) -> None:
        ratings = (directory / "ratings.dat").absolute()
        self._users = _read_table(directory / "users.dat", _USERS)
        movies = _read_table(directory / "movies.dat", _MOVIES)
        years = [m.group(1) if (m := _YEAR.search(t or "")) else None for t in movies["title"].to_pylist()]
        self._movies = movies.append_column("year", pa.array(years, pa.string()))
        ranges, checksum = scan_lines(ratings, 0, 1)
        if not ranges:
            raise DataError(f"{ratings} is empty", found="0 bytes", fix="unpack the data set again")
        self._partitions = []
        self._first_lines = []
        first_row = 0
        for index, part in enumerate(ranges):
            self._partitions.append(Partition(index, str(ratings), part.begin, part.end, first_row, part.num_lines))
            self._first_lines.append(part.first_line)
            first_row += part.num_lines
        digest = hashlib.sha256(f"{ratings.stat().st_size} {checksum}".encode())
        for name in ("users.dat", "movies.dat"):
            digest.update(hashlib.sha256((directory / name).read_bytes()).digest())
        self.version = digest.hexdigest()
        self.num_rows_hint = first_row
        columns = {name: pa.int64() for name in _RATINGS}
        for table in (self._users, self._movies):
            columns |= {field.name: field.type for field in table.schema}
        self._types = columns

    def column_names(self) -> tuple[str, ...]:
        return tuple(self._types)

    def column_types(self, name: str) -> tuple[pa.DataType, ...]:
        if name not in self._types:
            raise missing_column(self._partitions[0].file, name, self._types)
        return (self._types[name],)

    def partitions(self) -> list[Partition]:
        return list(self._partitions)

    def read(self, partition: Partition, columns: Sequence[str], block_rows: int) -> Iterator[pa.RecordBatch]:
        text = read_range(partition.file, partition.begin, partition.end).replace(b"::", b"\t")
        first_line = self._first_lines[partition.index]
        row = 0
        for batch in parse_lines(text, _RATINGS, _RATINGS, "\t", block_rows, partition.file, first_line):
            found = {name: self._whole(batch[name], partition, row) for name in _RATINGS}
            for table, key in ((self._users, "user_id"), (self._movies, "movie_id")):
                places = pc.index_in(found[key], value_set=table[key].combine_chunks())
                if places.null_count:
                    at = places.is_null().index(True).as_py()
                    where = self.row_name(partition, row + at)
                    raise DataError(
                        f"{where}: its {key} is not in {key.removesuffix('_id')}s.dat",
                        found=found[key][at].as_py(),
                        fix="unpack the data set again",
                    )
                for name in table.column_names:
                    if name != key and name in columns:
                        found[name] = table[name].combine_chunks().take(places)
            row += batch.num_rows
            yield pa.RecordBatch.from_pydict({name: found[name] for name in columns})

    def row_name(self, partition: Partition, row: int) -> str:
        text = read_range(partition.file, partition.begin, partition.end)
        return f"{partition.file} line {self._first_lines[partition.index] + line_of_row(text, row)}"

    def _whole(self, cells: pa.Array, partition: Partition, row: int) -> pa.Array:
        try:
            return pc.cast(cells, pa.int64())
        except pa.ArrowInvalid:
            bad = next(i for i, cell in enumerate(cells.to_pylist()) if not (cell or "").lstrip("-").isdigit())
            raise DataError(
                f"{self.row_name(partition, row + bad)}: not a whole number",
                found=repr(cells[bad].as_py()),
                fix="unpack the data set again",
            ) from None


def _read_table(file: Path, names: Sequence[str]) -> pa.Table:
    try:
        lines = file.read_bytes().decode("latin-1").split("\n")
    except OSError as error:
        raise DataError(f"{file} cannot be read", found=error.strerror, fix="unpack the whole data set there") from None
    columns: dict[str, list[str | int]] = {name: [] for name in names}
    for number, line in enumerate(lines, start=1):
        line = line.rstrip("\r")
        if not line:
            continue
        cells = line.split("::")
        if len(cells) != len(names):
            raise DataError(
                f"{file} line {number} does not have {len(names)} cells",
                found=f"{len(cells)}: {line[:80]!r}",
                fix="unpack the data set again",
            )
        for name, cell in zip(names, cells, strict=True):
            if name in _WHOLE and not cell.isdigit():
                raise DataError(
                    f"{file} line {number}: {name} is not a whole number",
                    found=repr(cell),
                    fix="unpack the data set again",
                )
            columns[name].append(int(cell) if name in _WHOLE else cell)
    if not columns[names[0]]:
        raise DataError(f"{file} is empty", found="no rows", fix="unpack the data set again")
    return pa.table({n: pa.array(v, pa.int64() if n in _WHOLE else pa.string()) for n, v in columns.items()})
