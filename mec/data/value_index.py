"""From values to ids: one hash table per vocabulary, built once.

Importing this file imports neither pandas nor polars, half a second in every step: building an index does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mec.data.layout import OOV_ID


class ValueIndex:
    """Ids of the values of one vocabulary.

    String values are looked up by a 64-bit hash, and compared.

    Args:
        values: (V,) int64 or string; the place of a value is its id. Place 0 is out of vocabulary, whatever it holds.
    """

    def __init__(self, values: pa.Array) -> None:
        known = values.slice(1)
        nulls = np.flatnonzero(np.asarray(pc.is_null(known)))
        assert len(nulls) <= 1, "a vocabulary holds null at most once"
        self._null_id = int(nulls[0]) + 1 if len(nulls) else OOV_ID
        ids = np.arange(1, len(values), dtype=np.uint32)
        if len(nulls):
            known = known.drop_null()
            ids = np.delete(ids, nulls)
        self._ids = np.append(ids, np.uint32(OOV_ID))  # the last is for place -1, unknown
        self._strings = None if pa.types.is_int64(values.type) else known
        self._seed = 0
        self._index = self._built(known)
        while not self._index.is_unique:
            assert self._strings is not None, "a vocabulary holds a value once"
            self._seed += 1  # two values share a hash: take another hash
            self._index = self._built(known)

    def ids(self, values: pa.Array) -> NDArray[np.uint32]:
        """Ids of (N,) values, 0 where a value is unknown."""
        valid = values.drop_null() if values.null_count else values
        places = self._index.get_indexer(self._built(valid))
        if self._strings is not None and len(self._strings):
            same = pc.equal(self._strings.take(pa.array(np.maximum(places, 0))), valid)
            places = np.where(np.asarray(same), places, -1)
        found: NDArray[np.uint32] = self._ids[places]
        if not values.null_count:
            return found
        result = np.full(len(values), self._null_id, dtype=np.uint32)
        result[np.asarray(pc.is_valid(values))] = found
        return result

    def _built(self, values: pa.Array) -> Any:
        """A pandas Index of the values' keys."""
        import pandas as pd

        return pd.Index(self._keys(values))

    def _keys(self, values: pa.Array) -> NDArray[np.int64]:
        if self._strings is None:
            return np.asarray(values)
        import polars as pl

        return pl.Series(values).cast(pl.String).hash(self._seed).to_numpy().view(np.int64)
