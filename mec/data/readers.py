"""Rows as blocks of checked columns, whatever they are stored in.

``open_source`` resolves the preset, finds the files and checks the columns; ``Source.read`` streams
one partition. Nothing is ever read whole: memory is bounded by ``data.block_rows`` and by the
16 MiB range of a text file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mec.config import CategoricalField, DataConfig, NumericField, SyntheticConfig
from mec.data import columns as canonical
from mec.data.blocks import Block, Partition, RawRows
from mec.data.csv_reader import CsvRows
from mec.data.files import find_files
from mec.data.movielens import MovielensRows, movielens_directory
from mec.data.parquet_reader import ParquetRows
from mec.data.presets import PRESETS, Derived, Preset
from mec.data.reader_plugins import OWN_FORMATS, open_plugin
from mec.data.schema import Field, is_linear, resolve_vocabularies, vocabulary_of
from mec.data.splits import split_at_random, split_by_column, split_by_time
from mec.data.synthetic import SyntheticRows
from mec.errors import DataError

__all__ = ["Block", "Partition", "Source", "open_source"]

_T = TypeVar("_T")


@dataclass(frozen=True)
class Source:
    """Where rows come from and what their columns mean; pickles, holds no rows and no open file."""

    fields: tuple[Field, ...]  # categorical, then numeric, then sequence, as the config or preset lists them
    label: str
    vocabulary_types: dict[str, canonical.ValueType]  # linear fields have no vocabulary to count
    data: DataConfig  # after the preset
    seed: int
    rows: RawRows
    derived: dict[str, Derived]

    @property
    def data_version(self) -> str:
        """Identity of the rows, hexadecimal; changes when a file does."""
        return self.rows.version

    @property
    def num_rows_hint(self) -> int:
        """Rows in all partitions; for text an upper bound, as empty lines are counted."""
        return self.rows.num_rows_hint

    def partitions(self) -> list[Partition]:
        """All units of work, in row order."""
        return self.rows.partitions()

    def field(self, name: str) -> Field:
        """The field of that name."""
        return next(f for f in self.fields if f.name == name)

    def read(self, partition: Partition, columns: Sequence[str] | None = None) -> Iterator[Block]:
        """Stream the rows of one partition.

        Args:
            partition: One of ``partitions()``.
            columns: Names of the fields wanted; None: all. Label, split and time always come along.

        Yields:
            Blocks of at most ``data.block_rows`` rows, in order.

        Raises:
            DataError: A damaged file or a value that cannot be what the config says; file and row are named.
        """
        fields = self.fields if columns is None else tuple(self.field(name) for name in columns)
        split = self.data.split
        wanted = {self.label, *(f.name for f in fields)}
        wanted |= {split.column} if split.kind == "column" else set()
        wanted |= {self.data.time} if self.data.time is not None else set()
        stored = sorted({self.derived[name].source if name in self.derived else name for name in wanted})
        row = 0
        for batch in self.rows.read(partition, stored, self.data.block_rows):
            cells = _Cells(self, partition, row, batch)
            time = cells.take(self.data.time, canonical.time) if self.data.time is not None else None
            first_row = partition.first_row + row
            yield Block(
                columns={f.name: cells.take(f.name, self._converter(f)) for f in fields},
                num_rows=batch.num_rows,
                label=cells.take(self.label, canonical.label),
                split=self._split(cells, time, first_row, batch.num_rows),
                time=time,
                first_row=first_row,
                where=f"{partition.file or 'synthetic'}, source rows {first_row} to {first_row + batch.num_rows - 1}",
            )
            row += batch.num_rows

    def _converter(self, field: Field) -> Callable[[pa.Array], pa.Array]:
        if is_linear(field):
            return canonical.numeric
        target = self.vocabulary_types[vocabulary_of(field)]
        if isinstance(field, CategoricalField):
            return lambda array: canonical.categorical(array, target)
        if isinstance(field, NumericField):
            return canonical.bucketed
        return lambda array: canonical.sequence(array, target, separator=field.separator, max_length=field.max_length)

    def _split(
        self, cells: _Cells, time: NDArray[np.float64] | None, first_row: int, num_rows: int
    ) -> NDArray[np.uint8]:
        split = self.data.split
        if split.kind == "column":
            return split_by_column(cells.take(split.column, canonical.text), split)
        if split.kind == "time":
            assert time is not None
            return split_by_time(time, split)
        return split_at_random(first_row, num_rows, self.seed, split)


@dataclass(frozen=True)
class _Cells:
    """The stored columns of one batch; turns a bad value into an error that names file and row."""

    source: Source
    partition: Partition
    first_row: int  # within the partition
    batch: pa.RecordBatch

    def take(self, name: str, convert: Callable[[pa.Array], _T]) -> _T:
        derived = self.source.derived.get(name)
        stored = derived.source if derived is not None else name
        try:
            array = self.batch[stored]
            return convert(derived.make(array) if derived is not None else array)
        except canonical.BadValueError as error:
            where = self.source.rows.row_name(self.partition, self.first_row + error.row)
            raise DataError(f"{where}: column {stored!r} {error.problem}", found=error.found, fix=error.fix) from None
        except pa.ArrowInvalid as error:
            where = self.source.rows.row_name(self.partition, self.first_row)
            raise DataError(
                f"{where} and after: column {stored!r} cannot be converted", found=error, fix="repair the column"
            ) from error


def open_source(data: DataConfig, *, seed: int) -> Source:
    """Find the rows, resolve the preset and check every column that the config names.

    Reads footers of Parquet files; of text files, one pass that finds line ends.

    Args:
        data: The config's data section.
        seed: Of the random split and of the synthetic generator.

    Raises:
        DataError: No such file, an unreadable one, a missing or doubled column, or a column of the wrong type.
    """
    preset = PRESETS[data.preset] if data.preset is not None else None
    rows = _open_rows(data, preset, seed)
    known = rows.column_names()
    if preset is not None:
        data = preset.apply(data)
    elif data.path is None and not (data.categorical or data.numeric or data.sequence):
        names = [n for n in known if n.startswith("f")]
        data = data.model_copy(update={"categorical": tuple(CategoricalField(name=n, vocabulary=None) for n in names)})
    fields: tuple[Field, ...] = (*data.categorical, *data.numeric, *data.sequence)
    derived = {d.name: d for d in (preset.derived if preset is not None else ()) if d.name not in known}
    needed = [data.label, *(f.name for f in fields)]
    needed += [data.split.column] if data.split.kind == "column" else []
    needed += [data.time] if data.time is not None else []
    types: dict[str, tuple[pa.DataType, ...]] = {}
    for name in needed:
        if name in derived:
            rows.column_types(derived[name].source)
            types[name] = (derived[name].type,)
        else:
            types[name] = rows.column_types(name)
    if data.label in {f.name for f in fields}:
        raise DataError(f"column {data.label!r} is the label", fix="take it out of the fields")
    where = ", ".join(data.paths) or "the synthetic generator"
    return Source(
        fields=fields,
        label=data.label,
        vocabulary_types=resolve_vocabularies(fields, types, is_untyped=rows.is_untyped, where=where),
        data=data,
        seed=seed,
        rows=rows,
        derived=derived,
    )


def _open_rows(data: DataConfig, preset: Preset | None, seed: int) -> RawRows:
    if data.path is None:
        for setting in ("preset", "columns"):
            if getattr(data, setting) is not None:
                raise DataError(f"data.{setting} has no effect without data.path", fix="set data.path, or remove it")
        return SyntheticRows(data.synthetic or SyntheticConfig(), seed)
    only = data.paths[0] if len(data.paths) == 1 else None
    if data.preset == "movielens_1m" and only and (directory := movielens_directory(Path(only))) is not None:
        return MovielensRows(directory)
    if data.format not in OWN_FORMATS:
        for setting in ("preset", "columns"):
            if getattr(data, setting) is not None:
                raise DataError(f"data.{setting} has no effect with data.format {data.format!r}", fix="remove it")
        if not data.header:
            raise DataError(f"data.header has no effect with data.format {data.format!r}", fix="remove it")
        if only is None:
            raise DataError(f"data.format {data.format!r} is read from one path", found=data.paths, fix="name one")
        return open_plugin(data.format, only)
    files, format = find_files(data.paths, data.format, preset.format if preset is not None else None)
    if format == "parquet":
        if data.columns is not None:
            raise DataError("data.columns has no effect on Parquet files", found=str(files[0]), fix="remove it")
        return ParquetRows(files)
    delimiter = "," if format == "csv" else "\t"
    if preset is not None and preset.columns is not None:
        return CsvRows(files, delimiter, preset.columns, header_names=preset.label)
    if not data.header and data.columns is None:
        raise DataError(
            f"{files[0]} has no header (data.header is false) and data.columns is not set",
            fix="list the column names under data.columns",
        )
    return CsvRows(files, delimiter, data.columns)
