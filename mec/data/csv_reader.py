"""CSV and TSV files, read in byte ranges cut at line ends; every cell arrives as text, an empty one as null.

A quoted cell may hold the separator but no line end: one line is one row.
"""

from __future__ import annotations

import csv
import hashlib
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv

from mec.data.blocks import Partition
from mec.data.parquet_reader import missing_column, refuse_doubled
from mec.errors import DataError

PARTITION_BYTES = 16 << 20
_PARSE_BYTES = 4 << 20
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class TextRange:
    """A byte range of a text file that starts and ends at line ends."""

    begin: int
    end: int
    first_line: int  # of the file, from 1
    num_lines: int


class CsvRows:
    """Rows of one or more CSV or TSV files; opening reads them once to find and count lines.

    Args:
        files: Absolute paths, in row order.
        delimiter: ``,`` or a tab.
        columns: Column names where the files have no header; None: the first line names them.
        header_names: A column name that, with ``columns`` given, marks a first line as a header all the same.

    Raises:
        DataError: A missing, doubled or unreadable header, or no rows at all.
    """

    is_untyped = True

    def __init__(
        self,
        files: Sequence[Path],
        delimiter: str,
        columns: Sequence[str] | None,
        header_names: str | None = None,
    ) -> None:
        digest = hashlib.sha256()
        self._delimiter = delimiter
        self._columns: dict[str, tuple[str, ...]] = {}
        self._first_lines: list[int] = []
        self._partitions: list[Partition] = []
        first_row = 0
        for file in files:
            names, begin, first_line = _header(file, delimiter, columns, header_names)
            refuse_doubled(file, names)
            self._columns[str(file)] = tuple(names)
            ranges, checksum = scan_lines(file, begin, first_line)
            digest.update(f"{file.name}\0{file.stat().st_size}\0{checksum}\0{names}".encode())
            for part in ranges:
                self._partitions.append(
                    Partition(len(self._partitions), str(file), part.begin, part.end, first_row, part.num_lines)
                )
                self._first_lines.append(part.first_line)
                first_row += part.num_lines
        self.version = digest.hexdigest()
        self.num_rows_hint = first_row
        if not first_row:
            raise DataError(f"{files[0]} has no rows", found="a header at most", fix="write it again with rows in it")

    def column_names(self) -> tuple[str, ...]:
        return next(iter(self._columns.values()))

    def column_types(self, name: str) -> tuple[pa.DataType, ...]:
        for file, names in self._columns.items():
            if name not in names:
                raise missing_column(file, name, names)
        return (pa.string(),)

    def partitions(self) -> list[Partition]:
        return list(self._partitions)

    def read(self, partition: Partition, columns: Sequence[str], block_rows: int) -> Iterator[pa.RecordBatch]:
        text = read_range(partition.file, partition.begin, partition.end)
        names = self._columns[partition.file]
        first_line = self._first_lines[partition.index]
        yield from parse_lines(text, names, columns, self._delimiter, block_rows, partition.file, first_line)

    def row_name(self, partition: Partition, row: int) -> str:
        text = read_range(partition.file, partition.begin, partition.end)
        return f"{partition.file} line {self._first_lines[partition.index] + line_of_row(text, row)}"


def scan_lines(file: Path, begin: int, first_line: int) -> tuple[list[TextRange], int]:
    """Cut a text file into ranges of about 16 MiB at line ends, counting lines.

    Args:
        file: The file.
        begin: First byte after the header, if there is one.
        first_line: Number of the line there, from 1.

    Returns:
        The ranges, and the CRC-32 of the bytes from ``begin`` on.
    """
    ranges: list[TextRange] = []
    checksum = 0
    line = first_line
    with file.open("rb") as stream:
        stream.seek(begin)
        while text := stream.read(PARTITION_BYTES):
            cut = text.rfind(b"\n") + 1
            if not cut:
                text += stream.readline()
                cut = len(text)
            elif cut < len(text):
                stream.seek(cut - len(text), 1)
                text = text[:cut]
            checksum = zlib.crc32(text, checksum)
            num_lines = count_lines(text)
            ranges.append(TextRange(begin, begin + cut, line, num_lines))
            begin += cut
            line += num_lines
    return ranges, checksum


def count_lines(text: bytes) -> int:
    """Lines in a text, empty ones included; the last needs no line end."""
    return text.count(b"\n") + (not text.endswith(b"\n"))


def read_range(file: str, begin: int, end: int) -> bytes:
    """Bytes ``begin`` to ``end`` of a file."""
    try:
        with Path(file).open("rb") as stream:
            stream.seek(begin)
            return stream.read(end - begin)
    except OSError as error:
        raise DataError(
            f"{file} cannot be read", found=error.strerror, fix="do not move files while they are read"
        ) from None


def parse_lines(
    text: bytes,
    names: Sequence[str],
    columns: Sequence[str],
    delimiter: str,
    block_rows: int,
    file: str,
    first_line: int,
) -> Iterator[pa.RecordBatch]:
    """Parse whole lines into string columns, an empty cell as null; empty lines are left out.

    Raises:
        DataError: A line with too few or too many cells, or bytes that are not UTF-8; file and line are named.
    """
    num_rows = 0
    if not text.strip(b"\r\n"):
        return
    try:
        reader = pacsv.open_csv(
            pa.BufferReader(text),
            read_options=pacsv.ReadOptions(use_threads=False, block_size=_PARSE_BYTES, column_names=list(names)),
            parse_options=pacsv.ParseOptions(delimiter=delimiter),
            convert_options=pacsv.ConvertOptions(
                column_types=dict.fromkeys(columns, pa.string()),
                include_columns=list(columns),
                null_values=[""],
                strings_can_be_null=True,
            ),
        )
        for batch in reader:
            num_rows += batch.num_rows
            for begin in range(0, batch.num_rows, block_rows):
                yield batch.slice(begin, block_rows)
    except pa.ArrowInvalid as error:
        raise _bad_line(text, names, delimiter, file, first_line, str(error)) from None
    if num_rows != count_lines(text) and num_rows != sum(1 for _ in _filled_lines(text)):
        raise _bad_line(text, names, delimiter, file, first_line, "a quote or a carriage return inside a line")


def line_of_row(text: bytes, row: int) -> int:
    """Index of the line that holds a row, empty lines counted."""
    for number, (line, _) in enumerate(_filled_lines(text)):
        if number == row:
            return line
    raise AssertionError(f"row {row} of {len(text)} bytes")


def _filled_lines(text: bytes) -> Iterator[tuple[int, bytes]]:
    for number, line in enumerate(text.split(b"\n")):
        if line.strip(b"\r"):
            yield number, line


def _bad_line(text: bytes, names: Sequence[str], delimiter: str, file: str, first_line: int, reason: str) -> DataError:
    for number, line in _filled_lines(text):
        where = f"{file} line {first_line + number}"
        try:
            decoded = line.decode("utf-8")
        except UnicodeDecodeError as error:
            return DataError(
                f"{where} is not UTF-8",
                found=f"byte 0x{line[error.start]:02x} at position {error.start} of the line",
                fix="convert the file to UTF-8, for example with iconv",
            )
        try:
            (cells,) = csv.reader([decoded.rstrip("\r")], delimiter=delimiter, strict=True)
        except csv.Error as error:
            return DataError(f"{where} has a broken quotation", found=error, fix="close the quote within the line")
        if len(cells) != len(names):
            return DataError(
                f"{where} does not have {len(names)} cells",
                found=f"{len(cells)}: {decoded[:80]!r}",
                fix="repair or remove the line, or check data.columns, data.header and data.format",
            )
    return DataError(f"{file} from line {first_line} on cannot be parsed", found=reason, fix="repair the file")


def _header(
    file: Path, delimiter: str, columns: Sequence[str] | None, header_names: str | None
) -> tuple[list[str], int, int]:
    """Column names, first byte and first line (from 1) of the rows."""
    with file.open("rb") as stream:
        first = stream.readline()
    bom = len(_BOM) if first.startswith(_BOM) else 0
    if columns is not None and header_names is None:
        return list(columns), bom, 1
    try:
        line = first[bom:].decode("utf-8").rstrip("\r\n")
        (names,) = csv.reader([line], delimiter=delimiter, strict=True)
    except (UnicodeDecodeError, csv.Error, ValueError) as error:
        raise DataError(f"{file} line 1 is no header", found=error, fix="name the columns there, in UTF-8") from None
    if columns is not None and header_names not in names:
        return list(columns), bom, 1
    if not names or "" in names:
        raise DataError(
            f"{file} line 1 is no header: a column has no name",
            found=line[:80],
            fix="name every column, or set data.header=false and data.columns",
        )
    return names, len(first), 2
