"""Vocabulary step: from counts to ids that are never renumbered and never reused.

Id 0 is out of vocabulary; ids from 1 go to values by count, most frequent first. A later generation keeps all ids and
appends. A linear numeric field has two ids: 0 for null and 1 for any number, which is its weight.
"""

from __future__ import annotations

from pathlib import Path
from threading import Lock

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mec.bundle import Bundle, open_bundle, write_bundle
from mec.config import CountConfig
from mec.data.numeric import linear_weights
from mec.data.value_index import ValueIndex
from mec.errors import DataError
from mec.steps import step

LINEAR = "linear"  # the type of a linear field's vocabulary, beside int64 and string
_MAX_SIZE = 2**31 - 1  # ids must fit int32 tensors


def vocabulary_step(*, counts: Path, count: CountConfig, out: Path) -> None:
    """Give every counted value its id and write the ``vocabulary`` bundle, generation 0.

    Args:
        counts: Bundle of the count step.
        count: ``min_count``; values counted less often share id 0.
        out: Directory of the bundle: ``<vocabulary>.parquet`` (id, value, count, first_generation), by id.

    Raises:
        DataError: No value of a vocabulary reaches ``min_count``.
    """
    with step("vocabulary", out) as record:
        bundle = open_bundle(counts, "counts")
        settings = {"min_count": count.min_count}
        with write_bundle(out, "vocabulary", parents={"counts": bundle}, config=settings) as draft:
            vocabularies = {}
            for name, fact in bundle.extra["vocabularies"].items():
                counted = pq.read_table(bundle.file(f"{name}.parquet"))
                table = extend(None, counted, min_count=count.min_count, generation=0)
                if table.num_rows == 1:
                    raise DataError(
                        f"no value of vocabulary {name!r} reaches count.min_count={count.min_count} in training",
                        found=f"at most {pc.max(counted['count']).as_py()} times",
                        fix="lower count.min_count, or remove the vocabulary's fields",
                    )
                _write(table, draft.path, name)
                vocabularies[name] = {"size": table.num_rows, "type": fact["type"]}
            for name, fact in bundle.extra["numeric"].items():
                _write(_linear(fact["num_values"], fact["num_nulls"]), draft.path, name)
                vocabularies[name] = {"size": 2, "type": LINEAR}
            draft.extra = {
                "vocabularies": vocabularies,
                "generation": 0,
                "rows": bundle.extra["rows"],
                "numeric": bundle.extra["numeric"],
            }
        sizes = [v["size"] for v in vocabularies.values()]
        record.summary = f"{len(sizes)} vocabularies, {sum(sizes)} ids"


def extend(parent: pa.Table | None, counts: pa.Table, *, min_count: int, generation: int) -> pa.Table:
    """The next generation of a vocabulary: known values keep their ids, new ones are appended.

    Args:
        parent: Columns id, value, count, first_generation, by id; None starts a vocabulary.
        counts: Columns value, count of the new training rows, most frequent first.
        min_count: New values counted less often get no id.
        generation: Number of the new generation.

    Returns:
        Columns id (uint32), value, count (int64; of the new training rows, 0 for values that are not in them),
        first_generation (int32). Row 0 is out of vocabulary: null, and the count of all values without an id.

    Raises:
        DataError: The values' type is not the parent's, or there are too many values.
    """
    if parent is None:
        parent = _vocabulary(pa.nulls(0, counts["value"].type), np.zeros(0, np.int64), np.zeros(0, np.int32), 0)
    if counts["value"].type != parent["value"].type:
        raise DataError(
            f"the vocabulary holds {parent['value'].type} values and the new rows another type",
            found=str(counts["value"].type),
            fix="store the column as before, or start a new vocabulary with the train pipeline",
        )
    known = parent["value"].slice(1)
    num_known = len(known)
    # Null is a value like any other: index_in matches it by default.
    places = pc.index_in(counts["value"], value_set=known)
    is_known = np.asarray(pc.is_valid(places))
    num = np.asarray(counts["count"])
    is_new = ~is_known & (num >= min_count)
    if parent.num_rows + int(is_new.sum()) > _MAX_SIZE:
        raise DataError("a vocabulary has more than 2^31 values", fix="raise count.min_count")
    known_counts = np.zeros(num_known, dtype=np.int64)
    known_counts[np.asarray(places.drop_null())] = num[is_known]
    values = pa.chunked_array(
        [*known.chunks, *counts["value"].filter(pa.array(is_new)).chunks], type=counts["value"].type
    )
    first = np.append(np.asarray(parent["first_generation"])[1:], np.full(int(is_new.sum()), generation))
    oov = int(num[~is_known & ~is_new].sum())
    return _vocabulary(values, np.append(known_counts, num[is_new]), first, oov)


class Vocabularies:
    """A vocabulary bundle, opened; reads what it is asked for, and keeps only the look-up tables of ``ids``."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.sizes: dict[str, int] = {n: int(f["size"]) for n, f in bundle.extra["vocabularies"].items()}
        self.types: dict[str, str] = {n: str(f["type"]) for n, f in bundle.extra["vocabularies"].items()}
        self.generation = int(bundle.extra["generation"])
        self._indices: dict[str, ValueIndex] = {}
        self._lock = Lock()

    @classmethod
    def open(cls, path: Path | str) -> Vocabularies:
        """Open a vocabulary bundle.

        Raises:
            BundleError: No such bundle, or a file is missing or corrupt (it is named).
        """
        return cls(open_bundle(path, "vocabulary"))

    def values(self, name: str) -> pa.Array:
        """(V,) values by id, int64 or string; id 0, and a null value, are null."""
        return self._column(name, "value").combine_chunks()

    def counts(self, name: str) -> NDArray[np.int64]:
        """(V,) training counts by id."""
        return np.asarray(self._column(name, "count"), dtype=np.int64)

    def ids(self, name: str, values: pa.Array) -> NDArray[np.uint32]:
        """Look values up.

        Args:
            name: The vocabulary.
            values: (N,) of the vocabulary's type (any numbers for a linear field).

        Returns:
            (N,) ids, 0 where a value is unknown.
        """
        if self.types[name] == LINEAR:
            return np.asarray(pc.is_valid(values)).astype(np.uint32)
        return self._index(name).ids(values)

    def weights(self, field: str, values: pa.Array) -> NDArray[np.float32]:
        """(N,) weights of a linear field: standardised with training mean and deviation, 1 where null."""
        fact = self.bundle.extra["numeric"][field]
        return linear_weights(values, fact["mean"], fact["std"])

    def keys(self, name: str) -> pa.StringArray:
        """(V,) online keys by id."""
        return pa.concat_arrays([pa.array([oov_key(name)]), online_keys(name, self.values(name).slice(1))])

    def _column(self, name: str, column: str) -> pa.ChunkedArray:
        return pq.read_table(self.bundle.file(f"{name}.parquet"), columns=[column])[column]

    def _index(self, name: str) -> ValueIndex:
        with self._lock:  # two threads that ask at once must not build it twice
            if name not in self._indices:
                self._indices[name] = ValueIndex(self.values(name))
            return self._indices[name]


def online_keys(vocabulary: str, values: pa.Array) -> pa.StringArray:
    """Keys of values in the online store: ``vocabulary=value``; a null value's key is ``vocabulary``.

    Args:
        vocabulary: Its name.
        values: (N,) int64 or string.

    Returns:
        (N,) strings.
    """
    prefixed = pc.binary_join_element_wise(vocabulary, pc.cast(values, pa.string()), "=")
    return pc.fill_null(prefixed, vocabulary)


def oov_key(vocabulary: str) -> str:
    """Key of id 0, out of vocabulary, in the online store."""
    return f"{vocabulary}!oov"


def _vocabulary(values: pa.Array, counts: NDArray[np.int64], first: NDArray[np.int32], oov: int) -> pa.Table:
    """Put id 0 before the values of ids 1, 2, ..."""
    chunks = values.chunks if isinstance(values, pa.ChunkedArray) else [values]
    return pa.table(
        {
            "id": np.arange(len(values) + 1, dtype=np.uint32),
            "value": pa.chunked_array([pa.nulls(1, values.type), *chunks], type=values.type),
            "count": np.append(np.int64(oov), counts).astype(np.int64),
            "first_generation": np.append(0, first).astype(np.int32),
        }
    )


def _linear(num_values: int, num_nulls: int) -> pa.Table:
    """Ids 0 (null) and 1 (a number) of a linear field."""
    return _vocabulary(pa.nulls(1, pa.int64()), np.array([num_values]), np.zeros(1, np.int32), num_nulls)


def _write(table: pa.Table, path: Path, name: str) -> None:
    # Nearly every value is its own: a dictionary would only grow the file.
    pq.write_table(table, path / f"{name}.parquet", use_dictionary=False)
