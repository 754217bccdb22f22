"""What readers deal in: partitions (units of work), raw batches, and blocks of checked rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


@dataclass(frozen=True)
class Partition:
    """One unit of work: a range of a file (or of the generator), small enough to retry."""

    index: int  # 0, 1, ... in row order
    file: str  # absolute path; empty for the generator
    begin: int  # Parquet: first row group; text: first byte; generator: first row
    end: int  # one past the last, in the same unit
    first_row: int  # number of its first row within the source
    num_rows: int  # text: lines, empty ones included, so at least its rows


@dataclass(frozen=True)
class Block:
    """Rows held in memory together.

    ``columns`` maps each field asked for to its canonical array: int64 or string for categorical
    and bucketed fields, float64 for linear ones, list<int64> or list<string> for sequences.
    """

    columns: dict[str, pa.Array]
    num_rows: int
    label: NDArray[np.uint8]  # (num_rows,) 0 or 1
    split: NDArray[np.uint8]  # (num_rows,) 0 train, 1 valid, 2 test, 255 none of them
    time: NDArray[np.float64] | None  # (num_rows,)
    first_row: int  # number of its first row within the source, whatever the block size
    where: str  # file and rows, for messages


class RawRows(Protocol):
    """Rows as they lie in the files, before any column is checked; must pickle."""

    version: str  # identity of the rows
    num_rows_hint: int  # rows, or for text an upper bound
    is_untyped: bool  # columns are text whatever they hold, so numbers are parsed

    def column_names(self) -> tuple[str, ...]:
        """Columns that can be read."""

    def column_types(self, name: str) -> tuple[pa.DataType, ...]:
        """The different types a column has over the files; a ``DataError`` if a file lacks it."""

    def partitions(self) -> list[Partition]:
        """All units of work, in row order."""

    def read(self, partition: Partition, columns: Sequence[str], block_rows: int) -> Iterator[pa.RecordBatch]:
        """Batches of at most ``block_rows`` rows, in order."""

    def row_name(self, partition: Partition, row: int) -> str:
        """File and place of one row, counted from the partition's start, for messages."""
