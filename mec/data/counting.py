"""Count step: how often each value occurs in the training split, per vocabulary.

A Dask graph: each leaf streams a range of partitions once and counts every column with a hash table of
its own thread; then, per vocabulary, a tree of merges, so that partial tables never all live at once.
With a distributed scheduler ``data.path`` must be readable by every worker.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from dask.delayed import Delayed, delayed

from mec.bundle import write_bundle
from mec.config import CountConfig, DataConfig
from mec.data.blocks import Block
from mec.data.dask_run import compute
from mec.data.merging import FieldTally, Moments, TableStack, Tally, count_table, merge_tables, sort_table
from mec.data.readers import Source, open_source
from mec.data.schema import check_facts, is_linear, vocabulary_of
from mec.data.shards import SPLITS
from mec.data.splits import NO_SPLIT, TRAIN
from mec.progress import Progress, note
from mec.steps import step

_MAX_LEAVES = 64
_FAN_IN = 8  # tables per merge
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
                "numeric": {
                    f.name: _numeric_facts(tally.fields[f.name]) for f in source.fields if is_linear(f)
                },
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
    num_partitions = len(source.partitions())
    bounds = np.linspace(0, num_partitions, min(num_partitions, _MAX_LEAVES) + 1).astype(int).tolist()
    run = uuid.uuid4().hex  # keys must differ between runs that share a scheduler
    shared = delayed(source, name=f"source-{run}", traverse=False)
    leaves = [
        delayed(count_partitions)(shared, begin, end, dask_key_name=f"leaf-{run}-{i}")
        for i, (begin, end) in enumerate(pairwise(bounds))
    ]
    tallies = [delayed(_tally)(leaf, dask_key_name=f"tally-{run}-{i}") for i, leaf in enumerate(leaves)]
    vocabularies = list(dict.fromkeys(vocabulary_of(f) for f in source.fields if not is_linear(f)))
    trees = [
        _tree([delayed(_table)(leaf, name, source.vocabulary_types[name]) for leaf in leaves]) for name in vocabularies
    ]
    results = compute([*trees, *tallies], count, Progress("count", len(trees) + len(tallies)))
    tables, parts = results[: len(trees)], results[len(trees) :]
    tally = Tally()
    for part in parts:
        tally.add(part)
    return dict(zip(vocabularies, tables, strict=True)), tally


def count_partitions(source: Source, begin: int, end: int) -> _Leaf:
    """Count the partitions from ``begin`` up to ``end``: one leaf of the tree."""
    stacks: dict[str, TableStack] = {}
    tally = Tally(fields={f.name: FieldTally() for f in source.fields})
    for partition in source.partitions()[begin:end]:
        for block in source.read(partition):
            _count_block(source, block, stacks, tally)
    tables = {name: stack.table() for name, stack in stacks.items()}
    return {name: table for name, table in tables.items() if table is not None}, tally


def _count_block(source: Source, block: Block, stacks: dict[str, TableStack], tally: Tally) -> None:
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
        seen = tally.fields[field.name]
        if is_linear(field):
            seen.moments.add(Moments.of(column))
            extremes = pc.min_max(column).as_py()
            seen.see(x for x in extremes.values() if x is not None)
        else:
            if pa.types.is_list(column.type):
                column = column.flatten()
            table = count_table(column)
            seen.see(v for v in table["value"].slice(0, 3).to_pylist() if v is not None)
            stacks.setdefault(vocabulary_of(field), TableStack()).add(table)
        seen.num_values += len(column)
        seen.num_nulls += column.null_count


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


def _table(leaf: _Leaf, vocabulary: str, value_type: str) -> pa.Table:
    kind = pa.int64() if value_type == "int64" else pa.string()
    empty = pa.schema([("value", kind), ("count", pa.int64())]).empty_table()
    return leaf[0].get(vocabulary, empty)


def _tree(tables: list[Delayed]) -> Delayed:
    """Merge tables ``_FAN_IN`` at a time until one is left, and sort that."""
    while len(tables) > _FAN_IN:
        tables = [delayed(merge_tables)(tables[i : i + _FAN_IN]) for i in range(0, len(tables), _FAN_IN)]
    root: Delayed = delayed(_finish)(tables)
    return root


def _finish(tables: Sequence[pa.Table]) -> pa.Table:
    return sort_table(merge_tables(tables))


