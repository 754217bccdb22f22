"""Count step: how often each value occurs in the training split, per vocabulary.

A Dask graph: leaves stream ranges of partitions, every row once, and count with hash tables of their own thread, each
on one core; then, per vocabulary, a tree of merges. A few partitions go first, as a sample that tells the frequent values.
With a distributed scheduler ``data.path`` must be readable by every worker.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
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
from mec.data.value_counter import ValueCounter, head_of
from mec.progress import Progress, note
from mec.steps import step

_SAMPLES = 4  # partitions that are counted first, to know the head of each vocabulary
_MIN_LEAVES, _MAX_LEAVES = 8, 64  # where there are partitions enough
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
            check_facts(
                fields={name: t.facts() for name, t in tally.fields.items()},
                rows=rows,
                num_positive=tally.num_positive,
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
                "label_mean": tally.num_positive / rows["train"],
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
    sampled, ranges = _plan(len(source.partitions()))
    vocabularies = list(dict.fromkeys(vocabulary_of(f) for f in source.fields if not is_linear(f)))
    shared = delayed(source, traverse=False)
    samples = [delayed(count_partitions)(shared, [i], {}) for i in sampled]
    heads = {
        name: delayed(_head)([delayed(_table)(leaf, name) for leaf in samples])
        for name in vocabularies
        if samples and source.vocabulary_types[name] == "int64"
    }
    leaves = samples + [delayed(count_partitions)(shared, indices, heads) for indices in ranges]
    tallies = [delayed(_tally)(leaf) for leaf in leaves]
    trees = [_tree([delayed(_table)(leaf, name) for leaf in leaves]) for name in vocabularies]
    results = compute([*trees, *tallies], count, Progress("count", len(trees) + len(tallies)))
    tally = Tally()
    for part in results[len(trees) :]:
        tally.add(part)
    return dict(zip(vocabularies, results[: len(trees)], strict=True)), tally


def _plan(num_partitions: int) -> tuple[list[int], list[list[int]]]:
    """Partitions counted first as a sample, one leaf each, and the ranges of all others, one leaf per range."""
    sampled = [i * num_partitions // _SAMPLES for i in range(_SAMPLES)] if num_partitions > 2 * _SAMPLES else []
    others = [i for i in range(num_partitions) if i not in sampled]
    num_leaves = min(len(others), max(_MIN_LEAVES, min(_MAX_LEAVES, len(others) // _FAN_IN)))
    bounds = np.linspace(0, len(others), num_leaves + 1).astype(int).tolist()
    return sampled, [others[begin:end] for begin, end in pairwise(bounds)]


def count_partitions(source: Source, partitions: Sequence[int], heads: Mapping[str, NDArray[np.int64]]) -> _Leaf:
    """Count some partitions, given by index: one leaf of the tree.

    Args:
        source: Rows.
        partitions: Indices into ``source.partitions()``.
        heads: Vocabulary -> values expected often.
    """
    counters = {
        name: ValueCounter(heads.get(name)) for name in (vocabulary_of(f) for f in source.fields if not is_linear(f))
    }
    tally = Tally(fields={f.name: FieldTally() for f in source.fields})
    every = source.partitions()
    for index in partitions:
        for block in source.read(every[index]):
            _count_block(source, block, counters, tally)
    tables = {}
    for name, counter in counters.items():
        kind = pa.int64() if source.vocabulary_types[name] == "int64" else pa.string()
        empty = pa.schema([("value", kind), ("count", pa.int64())]).empty_table()
        tables[name] = counter.table() or empty
    return tables, tally


def _count_block(source: Source, block: Block, counters: Mapping[str, ValueCounter], tally: Tally) -> None:
    codes, nums = np.unique(block.split, return_counts=True)
    is_train = block.split == TRAIN
    tally.add(
        Tally(
            rows=dict(zip(codes.tolist(), nums.tolist(), strict=True)),
            num_positive=int(block.label[is_train].sum(dtype=np.int64)),
        )
    )
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


def _head(tables: Sequence[pa.Table]) -> NDArray[np.int64]:
    return head_of(merge_tables(tables))


def _tree(tables: list[Delayed]) -> Delayed:
    """Merge tables ``_FAN_IN`` at a time until one is left, and sort that."""
    while len(tables) > _FAN_IN:
        tables = [delayed(merge_tables)(tables[i : i + _FAN_IN]) for i in range(0, len(tables), _FAN_IN)]
    root: Delayed = delayed(_finish)(tables)
    return root


def _finish(tables: Sequence[pa.Table]) -> pa.Table:
    return sort_table(merge_tables(tables))
