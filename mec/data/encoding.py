"""Encode step: rows to memory-mapped shards of ids, in source order, a block at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mec.bundle import write_bundle
from mec.config import DataConfig, NumericField, SequenceField
from mec.data.blocks import Block
from mec.data.layout import OOV_ID, PAD_ID, FieldLayout, FieldSlots
from mec.data.readers import Source, open_source
from mec.data.schema import Field, is_linear, vocabulary_of
from mec.data.shards import SPLITS, DatasetWriter
from mec.data.vocabulary import Vocabularies
from mec.errors import DataError
from mec.progress import Progress
from mec.steps import step

_LINEAR_ID = 1  # the one direction of a linear field; id 0 stands for null


def encode_step(*, data: DataConfig, vocabulary: Path, seed: int, out: Path) -> None:
    """Encode every row and write the ``dataset`` bundle; memory is bounded by ``data.block_rows``.

    Args:
        data: Where the rows are.
        vocabulary: Vocabulary bundle; values that it does not hold become id 0.
        seed: Of the random split and of the synthetic generator.
        out: Directory of the bundle.

    Raises:
        DataError: Rows that cannot be read, or whose types are not those that were counted.
    """
    with step("encode", out) as record:
        source = open_source(data, seed=seed)
        vocabularies = Vocabularies.open(vocabulary)
        check_types(source, vocabularies)
        layout = layout_of(source, vocabularies)
        config = {"data": data.model_dump(mode="json"), "seed": seed}
        parents = {"vocabulary": vocabularies.bundle}
        with write_bundle(out, "dataset", parents=parents, config=config, data_version=source.data_version) as draft:
            with DatasetWriter(draft.path, layout, with_time=data.time is not None) as writer:
                encoder = Encoder(source, vocabularies, layout)
                bar = Progress("encode", source.num_rows_hint)
                for partition in source.partitions():
                    for block in source.read(partition):
                        _append(encoder, block, writer)
                        bar.update(block.num_rows, "rows")
                bar.set(bar.total, "rows")
            draft.extra = writer.extra()
        rows = draft.extra["rows"]
        record.summary = f"{rows['train']} train, {rows['valid']} valid, {rows['test']} test rows of {layout.num_slots} ids"


def layout_of(source: Source, vocabularies: Vocabularies) -> FieldLayout:
    """Fields in config order (categorical, numeric, sequence), each with its slots."""
    fields, first = [], 0
    for field in source.fields:
        num_slots = field.max_length if isinstance(field, SequenceField) else 1
        pooling = field.pooling if isinstance(field, SequenceField) else "none"
        fields.append(FieldSlots(field.name, _kind(field), vocabulary_of(field), first, num_slots, pooling))
        first += num_slots
    names = dict.fromkeys(f.vocabulary for f in fields)
    return FieldLayout(tuple(fields), tuple((name, vocabularies.sizes[name]) for name in names))


def check_types(source: Source, vocabularies: Vocabularies) -> None:
    """Refuse rows whose vocabularies are not those that were counted, or are of other types."""
    wanted = dict(source.vocabulary_types) | {f.name: "int64" for f in source.fields if is_linear(f)}
    if wanted != vocabularies.types:
        raise DataError(
            f"the data's vocabularies and types are not those of {vocabularies.bundle.path}: {vocabularies.types}",
            found=wanted,
            fix="count again, or give the columns the names and types they had",
        )


class Encoder:
    """Blocks of rows to ids.

    Args:
        source: For its fields.
        vocabularies: Value -> id, and the linear fields' mean and standard deviation.
        layout: Slots of the fields.
    """

    def __init__(self, source: Source, vocabularies: Vocabularies, layout: FieldLayout) -> None:
        self._fields = list(zip(source.fields, layout.fields, strict=True))
        self._vocabularies = vocabularies
        self._layout = layout
        self._moments = vocabularies.bundle.extra["numeric"]

    def encode(self, block: Block) -> tuple[NDArray[np.uint32], NDArray[np.float32] | None]:
        """(n, S) ids, and (n, L) weights of the linear fields if there are any."""
        ids = np.empty((block.num_rows, self._layout.num_slots), dtype=np.uint32)
        weights: list[NDArray[np.float32]] = []
        for field, slots in self._fields:
            column = block.columns[field.name]
            if slots.kind == "linear":
                weights.append(self._linear(field.name, column, ids[:, slots.first_slot]))
            elif slots.kind == "sequence":
                self._sequence(slots, column, ids[:, slots.first_slot : slots.first_slot + slots.num_slots])
            else:
                ids[:, slots.first_slot] = self._vocabularies.ids(slots.vocabulary, column)
        return ids, np.stack(weights, axis=1) if weights else None

    def _linear(self, name: str, column: pa.Array, ids: NDArray[np.uint32]) -> NDArray[np.float32]:
        missing = np.asarray(pc.is_null(column))
        x = (np.asarray(pc.fill_null(column, 0.0)) - self._moments[name]["mean"]) / self._moments[name]["std"]
        ids[:] = np.where(missing, OOV_ID, _LINEAR_ID)
        return np.where(missing, 1.0, x).astype(np.float32)

    def _sequence(self, slots: FieldSlots, column: pa.Array, ids: NDArray[np.uint32]) -> None:
        ids[:] = PAD_ID
        lengths = np.asarray(pc.fill_null(pc.list_value_length(column), 0), dtype=np.int64)
        rows = np.repeat(np.arange(len(lengths)), lengths)
        places = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        ids[rows, places] = self._vocabularies.ids(slots.vocabulary, column.flatten())


def _append(encoder: Encoder, block: Block, writer: DatasetWriter) -> None:
    ids, weights = encoder.encode(block)
    for code, name in enumerate(SPLITS):
        rows = np.flatnonzero(block.split == code)
        if len(rows):
            writer.append(
                name,
                ids[rows],
                block.label[rows],
                numerics=None if weights is None else weights[rows],
                time=None if block.time is None else block.time[rows],
            )


def _kind(field: Field) -> Literal["categorical", "bucketed", "linear", "sequence"]:
    if isinstance(field, SequenceField):
        return "sequence"
    if is_linear(field):
        return "linear"
    return "bucketed" if isinstance(field, NumericField) else "categorical"
