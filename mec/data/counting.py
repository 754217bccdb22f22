"""Count step: how often each value occurs in the training split, per vocabulary.

A Dask graph: each leaf streams a range of partitions once and counts every column with hash tables of its own thread,
on one core; then, per vocabulary, a tree of merges, so that partial tables never all live at once.
With a distributed scheduler ``data.path`` must be readable by every worker.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from dask.delayed import Delayed, delayed
from numpy.typing import NDArray

from mec.bundle import write_bundle
from mec.config import CountConfig, DataConfig
from mec.data.blocks import Block
from mec.data.dask_run import compute
from mec.data.merging import FieldTally, Tally, merge_tables, sort_table
from mec.data.readers import Source, open_source
from mec.data.schema import check_facts, is_linear, vocabulary_of
from mec.data.shards import SPLITS
from mec.data.splits import NO_SPLIT, TRAIN
from mec.data.value_counter import ValueCounter, value_counter
from mec.progress import Progress, note
from mec.steps import step

_LEAF_ROWS = 2_000_000  # at most, but for a partition that is larger
_MIN_LEAVES = 8  # where there are partitions enough
_FAN_IN = 16  # tables per merge
_Leaf = tuple[dict[str, pa.Table], Tally]


def count_step(*, data: DataConfig, count: CountConfig, seed: int, out: Path) -> None:
    """Count the training split's values and write the ``counts`` bundle.

    Args:
        data: Where the rows are.
        count: Scheduler and workers; they do not change the result.
        seed: Of the random split and of the synthetic generator.
        out: Directory of the bundle: ``<vocabulary>.parquet`` (value, count), most frequent first.

    Raises:
        DataError: Rows that cannot be read, or data nothing can be learned from.
        ConfigError: The Dask scheduler does not answer.
    """
    with step("count", out) as record:
        source = open_source(data, seed=seed)
        with write_bundle(
            out,
            "counts",
            config={"data": data.model_dump(mode="json"), "seed": seed},
            data_version=source.data_version,
        ) as draft:
            tables, tally = count_source(source, count)
            rows = {name: tally.rows.get(code, 0) for code, name in enumerate(SPLITS)}
            positives = {name: tally.positives.get(code, 0) for code, name in enumerate(SPLITS)}
            check_facts(
                fields={name: t.facts() for name, t in tally.fields.items()},
                rows=rows,
                positives=positives,
                label=source.label,
            )
            if dropped := tally.rows.get(NO_SPLIT, 0):
                note("count", f"{dropped} rows belong to no split and are left out")
            for name, table in tables.items():
                # Nearly every value is its own: a dictionary would only grow the file.
                pq.write_table(table, draft.path / f"{name}.parquet", use_dictionary=False)
            draft.extra = {
                "vocabularies": {
                    name: {"type": source.vocabulary_types[name], "distinct": table.num_rows}
                    for name, table in tables.items()
                },
                "rows": rows,
                "numeric": {f.name: _numeric_facts(tally.fields[f.name]) for f in source.fields if is_linear(f)},
            }
            distinct = sum(table.num_rows for table in tables.values())
            record.summary = f"{rows['train']} training rows, {len(tables)} vocabularies, {distinct} values"


def count_source(source: Source, count: CountConfig) -> tuple[dict[str, pa.Table], Tally]:
    """Count a source on Dask.

    Args:
        source: Rows.
        count: Scheduler and workers.

    Returns:
        Vocabulary -> table (value, count int64) of the training split, most frequent first, equal counts by
        value, null last; and the facts of all rows.
    """
    vocabularies = list(dict.fromkeys(vocabulary_of(f) for f in source.fields if not is_linear(f)))
    shared = delayed(source, traverse=False)
    ranges = _leaf_ranges([p.num_rows for p in source.partitions()])
    leaves = [delayed(count_partitions)(shared, begin, end) for begin, end in ranges]
    tallies = [delayed(_tally)(leaf) for leaf in leaves]
    trees = [_tree([delayed(_table)(leaf, name) for leaf in leaves]) for name in vocabularies]
    results = compute([*trees, *tallies], count, Progress("count", len(trees) + len(tallies)))
    tally = Tally()
    for part in results[len(trees) :]:
        tally.add(part)
    return dict(zip(vocabularies, results[: len(trees)], strict=True)), tally


def _leaf_ranges(partition_rows: Sequence[int]) -> list[tuple[int, int]]:
    """Ranges of consecutive partitions of about equal numbers of rows, (begin, end) indices."""
    target = min(_LEAF_ROWS, sum(partition_rows) // _MIN_LEAVES)
    ranges, begin, num_rows = [], 0, 0
    for index, rows in enumerate(partition_rows):
        num_rows += rows
        if num_rows >= target or index == len(partition_rows) - 1:
            ranges.append((begin, index + 1))
            begin, num_rows = index + 1, 0
    return ranges


def count_partitions(source: Source, begin: int, end: int) -> _Leaf:
    """Count the partitions from index ``begin`` up to ``end``: one leaf of the tree."""
    names = {vocabulary_of(f) for f in source.fields if not is_linear(f)}
    counters = {name: value_counter(source.vocabulary_types[name]) for name in names}
    tally = Tally(fields={f.name: FieldTally() for f in source.fields})
    for partition in source.partitions()[begin:end]:
        for block in source.read(partition):
            _count_block(source, block, counters, tally)
    return {name: counter.table() for name, counter in counters.items()}, tally


def _count_block(source: Source, block: Block, counters: Mapping[str, ValueCounter], tally: Tally) -> None:
    is_train = block.split == TRAIN
    tally.add(Tally(rows=_numbers(block.split), positives=_numbers(block.split[block.label == 1])))
    mask = None if is_train.all() else pa.array(is_train)
    for field in source.fields:
        column = block.columns[field.name]
        if mask is not None:
            column = column.filter(mask)
        if pa.types.is_list(column.type):
            column = column.flatten()
        tally.fields[field.name].add(FieldTally.of(column))
        if not is_linear(field):
            counters[vocabulary_of(field)].add(column)


def _numbers(codes: NDArray[np.uint8]) -> dict[int, int]:
    """How often each split code occurs among (N,)."""
    found, nums = np.unique(codes, return_counts=True)
    return dict(zip(found.tolist(), nums.tolist(), strict=True))


def _numeric_facts(tally: FieldTally) -> dict[str, float | int]:
    """Mean, standard deviation (1 where all values are equal) and number of a linear field's values and nulls."""
    moments = tally.moments
    return {
        "mean": moments.mean,
        "std": moments.std or 1.0,
        "num_values": moments.num,
        "num_nulls": tally.num_nulls,
    }


def _tally(leaf: _Leaf) -> Tally:
    return leaf[1]


def _table(leaf: _Leaf, vocabulary: str) -> pa.Table:
    return leaf[0][vocabulary]


def _tree(tables: list[Delayed]) -> Delayed:
    """Merge tables ``_FAN_IN`` at a time until one is left, and sort that."""
    while len(tables) > _FAN_IN:
        tables = [delayed(merge_tables)(tables[i : i + _FAN_IN]) for i in range(0, len(tables), _FAN_IN)]
    root: Delayed = delayed(_finish)(tables)
    return root


def _finish(tables: Sequence[pa.Table]) -> pa.Table:
    return sort_table(merge_tables(tables))
