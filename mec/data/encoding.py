"""Encode step: rows to id shards, one pass in source order, memory bounded by ``data.block_rows``."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mec.bundle import write_bundle
from mec.config import DataConfig, NumericField, SequenceField
from mec.data.blocks import Block
from mec.data.layout import PAD_ID, FieldLayout, FieldSlots
from mec.data.readers import Source, open_source
from mec.data.schema import Field, is_linear, vocabulary_of
from mec.data.shards import SPLITS, DatasetWriter
from mec.data.splits import NO_SPLIT
from mec.data.vocabulary import Vocabularies
from mec.errors import DataError
from mec.progress import Progress, note
from mec.steps import step

_THREADS = 2  # blocks encoded at a time, while the next is read and the last is written

_In = TypeVar("_In")
_Out = TypeVar("_Out")


@dataclass(frozen=True)
class EncodedBlock:
    """One block's rows as arrays; ``split`` tells where each goes."""

    ids: NDArray[np.uint32]  # (N, S)
    numerics: NDArray[np.float32] | None  # (N, L)
    label: NDArray[np.uint8]  # (N,)
    split: NDArray[np.uint8]  # (N,)
    time: NDArray[np.float64] | None  # (N,)


def encode_step(*, data: DataConfig, vocabulary: Path, seed: int, out: Path) -> None:
    """Look every value up and write the ``dataset`` bundle.

    Values that training did not count get id 0. Rows of no split are left out.

    Args:
        data: Where the rows are; as it was when they were counted.
        vocabulary: Bundle of the vocabulary step.
        seed: Of the random split and of the synthetic generator; as in the count step.
        out: Directory of the bundle: shards per split, see ``mec.data.dataset``.

    Raises:
        DataError: Rows that cannot be read, or that are not those the vocabulary was made from.
        BundleError: No vocabulary bundle, or a corrupt one.
    """
    with step("encode", out) as record:
        source = open_source(data, seed=seed)
        vocabularies = Vocabularies.open(vocabulary)
        layout = field_layout(source, vocabularies)
        with write_bundle(
            out,
            "dataset",
            parents={"vocabulary": vocabularies.bundle},
            config={"data": data.model_dump(mode="json"), "seed": seed},
            data_version=source.data_version,
        ) as draft:
            progress = Progress("encode", source.num_rows_hint)
            num_dropped = 0
            with DatasetWriter(draft.path, layout, with_time=source.data.time is not None) as writer:
                for block in _in_threads(lambda b: encode_block(b, source, vocabularies, layout), _blocks(source)):
                    _write(writer, block)
                    num_dropped += int((block.split == NO_SPLIT).sum())
                    progress.update(len(block.label))
            if progress.done < progress.total:  # of text, the hint counts empty lines too
                progress.set(progress.total)
            draft.extra = writer.extra()
            _check_rows(draft.extra["rows"], vocabularies)
            if num_dropped:
                note("encode", f"{num_dropped} rows belong to no split and are left out")
        rows = draft.extra["rows"]
        record.summary = ", ".join(f"{split} {rows[split]}" for split in SPLITS) + f" rows, {layout.num_slots} slots"


def field_layout(source: Source, vocabularies: Vocabularies) -> FieldLayout:
    """Slots of all fields in order; vocabularies in the order in which fields name them.

    Raises:
        DataError: A field's vocabulary is missing, or holds values of another type.
    """
    fields: list[FieldSlots] = []
    slot = 0
    for field in source.fields:
        name = vocabulary_of(field)
        expected = "linear" if is_linear(field) else source.vocabulary_types[name]
        if vocabularies.types.get(name) != expected:
            raise DataError(
                f"field {field.name!r} needs a vocabulary {name!r} of type {expected}",
                found=vocabularies.types,
                fix="run the count and vocabulary steps again with this config's data section",
            )
        num_slots = field.max_length if isinstance(field, SequenceField) else 1
        pooling = field.pooling if isinstance(field, SequenceField) else "none"
        fields.append(FieldSlots(field.name, _kind(field), name, slot, num_slots, pooling))
        slot += num_slots
    names = dict.fromkeys(f.vocabulary for f in fields)
    return FieldLayout(tuple(fields), tuple((name, vocabularies.sizes[name]) for name in names))


def encode_block(block: Block, source: Source, vocabularies: Vocabularies, layout: FieldLayout) -> EncodedBlock:
    """Encode one block's rows, all of them, in order."""
    ids = np.empty((block.num_rows, layout.num_slots), dtype=np.uint32)
    numerics = []
    for field in layout.fields:
        column = block.columns[field.name]
        slots = slice(field.first_slot, field.first_slot + field.num_slots)
        if field.kind == "sequence":
            ids[:, slots] = _padded(column, vocabularies.ids(field.vocabulary, column.flatten()), field.num_slots)
        else:
            ids[:, field.first_slot] = vocabularies.ids(field.vocabulary, column)
        if field.kind == "linear":
            numerics.append(vocabularies.weights(field.name, column))
    weights = np.stack(numerics, axis=1) if numerics else None
    return EncodedBlock(ids, weights, block.label, block.split, block.time)


def _padded(lists: pa.ListArray, flat: NDArray[np.uint32], num_slots: int) -> NDArray[np.uint32]:
    """(N, num_slots) the lists' ids from the left, then ``PAD_ID``."""
    lengths = np.asarray(pc.list_value_length(lists))
    filled = np.arange(num_slots) < lengths[:, None]  # (N, num_slots)
    result = np.full(filled.shape, PAD_ID, dtype=np.uint32)
    result[filled] = flat
    return result


def _kind(field: Field) -> Literal["categorical", "bucketed", "linear", "sequence"]:
    if isinstance(field, SequenceField):
        return "sequence"
    if is_linear(field):
        return "linear"
    return "bucketed" if isinstance(field, NumericField) else "categorical"


def _write(writer: DatasetWriter, block: EncodedBlock) -> None:
    for code, split in enumerate(SPLITS):
        chosen = block.split == code
        if chosen.any():
            rows = slice(None) if chosen.all() else chosen
            writer.append(
                split,
                block.ids[rows],
                block.label[rows],
                numerics=None if block.numerics is None else block.numerics[rows],
                time=None if block.time is None else block.time[rows],
            )


def _check_rows(rows: dict[str, int], vocabularies: Vocabularies) -> None:
    counted = vocabularies.bundle.extra["rows"]
    if rows != counted:
        raise DataError(
            "the rows are not those that the vocabulary was counted from",
            found=f"{rows} against {counted}",
            fix="run the count step again with the same data, config and seed",
        )


def _blocks(source: Source) -> Iterator[Block]:
    for partition in source.partitions():
        yield from source.read(partition)


def _in_threads(function: Callable[[_In], _Out], items: Iterable[_In]) -> Iterator[_Out]:
    """Results in the order of the items; at most ``_THREADS`` + 1 items are held at a time."""
    with ThreadPoolExecutor(_THREADS) as pool:
        running: deque[Future[_Out]] = deque()
        for item in items:
            running.append(pool.submit(function, item))
            if len(running) > _THREADS:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
