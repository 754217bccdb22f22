"""Vocabularies: value -> id, append-only. Id 0 is out of vocabulary; ids are never renumbered or reused."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mec.bundle import Bundle, open_bundle, write_bundle
from mec.config import CountConfig
from mec.data.layout import OOV_ID
from mec.errors import BundleError, DataError
from mec.steps import step

_COLUMNS = ("id", "value", "count", "first_generation")
MAX_VALUES = 2**31 - 1  # ids travel as int32


def vocabulary_step(*, counts: Path, count: CountConfig, out: Path) -> None:
    """Give every counted value an id, most frequent first, and write the ``vocabulary`` bundle.

    Args:
        counts: Counts bundle.
        count: ``min_count``; rarer values share id 0.
        out: Directory of the bundle: ``<vocabulary>.parquet`` (id, value, count, first_generation).

    Raises:
        DataError: ``min_count`` leaves a vocabulary without values.
    """
    with step("vocabulary", out) as record:
        counted = open_bundle(counts, "counts")
        config = {"min_count": count.min_count}
        with write_bundle(out, "vocabulary", parents={"counts": counted}, config=config) as draft:
            sizes = {}
            for name, facts in counted.extra["vocabularies"].items():
                table = number(pq.read_table(counted.file(f"{name}.parquet")), count.min_count, name)
                pq.write_table(table, draft.path / f"{name}.parquet")
                sizes[name] = {"size": table.num_rows, "type": facts["type"]}
            for name in counted.extra["numeric"]:
                table = _linear(counted.extra["numeric"][name])
                pq.write_table(table, draft.path / f"{name}.parquet")
                sizes[name] = {"size": table.num_rows, "type": "int64"}
            draft.extra = {
                "vocabularies": sizes,
                "generation": 0,
                "rows": counted.extra["rows"],
                "numeric": counted.extra["numeric"],
            }
        total = sum(int(s["size"]) for s in sizes.values())
        record.summary = f"{len(sizes)} vocabularies, {total} ids"


def number(counts: pa.Table, min_count: int, name: str) -> pa.Table:
    """Number one vocabulary's values in the order of its count table; id 0 takes the rest.

    Args:
        counts: Columns value, count; most frequent first.
        min_count: Values counted less often are left out; id 0 takes their count.
        name: Of the vocabulary, for errors.

    Returns:
        Columns id uint32, value, count int64, first_generation int32; row i has id i.
    """
    kept = counts.filter(pc.greater_equal(counts["count"], min_count))
    if kept.num_rows == 0:
        raise DataError(
            f"no value of vocabulary {name!r} occurs {min_count} times in the training rows",
            found=f"at most {pc.max(counts['count']).as_py()} times",
            fix="lower count.min_count, or leave the field out",
        )
    rest = (pc.sum(counts["count"]).as_py() or 0) - pc.sum(kept["count"]).as_py()
    return _append(_oov(counts["value"].type, rest), kept, first_id=1, generation=0, name=name)


def extend(parent: pa.Table, counts: pa.Table, *, min_count: int, generation: int, name: str) -> pa.Table:
    """Add new counts to a numbered vocabulary; known values keep their ids, new ones are appended.

    Args:
        parent: As ``number`` gives it.
        counts: Columns value, count of the new rows; most frequent first.
        min_count: New values counted less often stay out of vocabulary.
        generation: Recorded as the new values' first generation.
        name: Of the vocabulary, for errors.

    Returns:
        The longer vocabulary; counts are sums.
    """
    if counts["value"].type != parent["value"].type:
        raise DataError(
            f"vocabulary {name!r} holds {parent['value'].type} values",
            found=counts["value"].type,
            fix="write the column with the type that it had when the vocabulary was made",
        )
    ids = Lookup(parent["value"].combine_chunks()).ids(counts["value"].combine_chunks())
    added = np.zeros(parent.num_rows, dtype=np.int64)
    known = ids != OOV_ID
    new_counts = np.asarray(counts["count"])
    np.add.at(added, ids[known], new_counts[known])
    fresh = ~known & (new_counts >= min_count)
    added[OOV_ID] += int(new_counts[~known & ~fresh].sum())
    old = parent.set_column(2, "count", pa.array(np.asarray(parent["count"]) + added))
    return _append(old, counts.filter(pa.array(fresh)), first_id=parent.num_rows, generation=generation, name=name)


def _oov(kind: pa.DataType, count: int) -> pa.Table:
    columns = [pa.array([OOV_ID], pa.uint32()), pa.nulls(1, kind), pa.array([count], pa.int64()), pa.array([0], pa.int32())]
    return pa.table(dict(zip(_COLUMNS, columns, strict=True)))


def _append(table: pa.Table, counts: pa.Table, *, first_id: int, generation: int, name: str) -> pa.Table:
    num = counts.num_rows
    if first_id + num > MAX_VALUES:
        raise DataError(f"vocabulary {name!r} has too many values", found=first_id + num, fix="raise count.min_count")
    ids = pa.array(np.arange(first_id, first_id + num, dtype=np.uint32))
    first = pa.array(np.full(num, generation, dtype=np.int32))
    more = pa.table(dict(zip(_COLUMNS, [ids, counts["value"], counts["count"], first], strict=True)))
    return pa.concat_tables([table, more]).combine_chunks()


def _linear(facts: dict[str, float | int]) -> pa.Table:
    """A linear field's vocabulary: id 0 for null, id 1 for the one direction (its value is the int 1)."""
    counts = pa.table({"value": pa.array([1], pa.int64()), "count": pa.array([int(facts["num_values"])], pa.int64())})
    return _append(_oov(pa.int64(), int(facts["num_nulls"])), counts, first_id=1, generation=0, name="")


class Lookup:
    """value -> id of one vocabulary; the index is built once.

    Args:
        values: (V,) int64 or string; row i has id i, row 0 is out of vocabulary.
    """

    def __init__(self, values: pa.Array) -> None:
        known = values.slice(1)
        self._null_id = 1 + pc.index(pc.is_null(known), pa.scalar(True)).as_py() if known.null_count else OOV_ID
        self._type = values.type
        dense = known.drop_null()
        self._ids = np.flatnonzero(np.asarray(pc.is_valid(known))).astype(np.int64) + 1
        if pa.types.is_int64(self._type):
            self._index: pd.Index[int] | pd.Index[str] = pd.Index(dense.to_numpy(), dtype="int64")
        else:
            self._index = pd.Index(dense.to_numpy(zero_copy_only=False), dtype=object)

    def ids(self, values: pa.Array) -> NDArray[np.uint32]:
        """(N,) values of the vocabulary's type -> (N,) ids; unknown values are 0."""
        if isinstance(values, pa.ChunkedArray):
            values = values.combine_chunks()
        is_null = np.asarray(pc.is_null(values))
        if pa.types.is_int64(self._type):
            places = self._index.get_indexer(pd.Index(values.fill_null(0).to_numpy(), dtype="int64"))
        else:
            # each distinct string is looked up once: hashing Python objects is what costs
            coded = values.dictionary_encode()
            distinct = self._index.get_indexer(pd.Index(coded.dictionary.to_numpy(zero_copy_only=False), dtype=object))
            places = distinct[coded.indices.fill_null(0).to_numpy()] if len(distinct) else np.full(len(values), -1)
        ids = np.where(places >= 0, self._ids[places] if len(self._ids) else 0, OOV_ID)
        ids[is_null] = self._null_id
        return ids.astype(np.uint32)


@dataclass
class Vocabularies:
    """An opened vocabulary bundle; tables are read when first asked for."""

    bundle: Bundle
    _tables: dict[str, pa.Table] = field(default_factory=dict)
    _lookups: dict[str, Lookup] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path | str) -> Vocabularies:
        """Open a vocabulary bundle; ``BundleError`` if it is none, or damaged."""
        return cls(open_bundle(path, "vocabulary"))

    @property
    def sizes(self) -> dict[str, int]:
        """Vocabulary -> V, id 0 included."""
        return {name: int(facts["size"]) for name, facts in self.bundle.extra["vocabularies"].items()}

    @property
    def types(self) -> dict[str, str]:
        """Vocabulary -> ``int64`` or ``string``."""
        return {name: str(facts["type"]) for name, facts in self.bundle.extra["vocabularies"].items()}

    def table(self, name: str) -> pa.Table:
        """Columns id, value, count, first_generation of one vocabulary."""
        if name not in self._tables:
            table = pq.read_table(self.bundle.file(f"{name}.parquet"))
            if table.num_rows != self.sizes.get(name):
                raise BundleError(
                    f"vocabulary {name!r} of {self.bundle.path} does not have the size its manifest states",
                    found=table.num_rows,
                    fix="run the vocabulary step again",
                )
            self._tables[name] = table
        return self._tables[name]

    def counts(self, name: str) -> NDArray[np.int64]:
        """(V,) training counts by id."""
        return self.table(name)["count"].to_numpy()

    def values(self, name: str) -> pa.Array:
        """(V,) values by id; row 0 is null and means out of vocabulary."""
        return self.table(name)["value"].combine_chunks()

    def ids(self, name: str, values: pa.Array) -> NDArray[np.uint32]:
        """(N,) values -> (N,) ids; unknown values are 0."""
        if name not in self._lookups:
            self._lookups[name] = Lookup(self.values(name))
        return self._lookups[name].ids(values)

    def keys(self, name: str) -> pa.Array:
        """(V,) online keys by id."""
        keys = online_keys(name, self.values(name).slice(1))
        return pa.concat_arrays([pa.array([oov_key(name)]), keys])


def online_keys(vocabulary: str, values: pa.Array) -> pa.Array:
    """Keys under which an online store holds values' codes: ``vocabulary=value``, or ``vocabulary`` alone for null.

    Args:
        vocabulary: Its name, which holds no ``=``.
        values: (N,) int64 or string.

    Returns:
        (N,) strings.
    """
    text = pc.binary_join_element_wise(vocabulary, values.cast(pa.string()), "=")
    return pc.fill_null(text, vocabulary)


def oov_key(vocabulary: str) -> str:
    """The key of id 0, which no value's key can equal."""
    return f"{vocabulary}!oov"
