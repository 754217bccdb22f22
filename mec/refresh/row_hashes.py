"""One 64-bit hash per row, the same on every machine and in every version: two periods are compared by these.

A hash covers all fields, the label and the time. Lists and strings are hashed as sums over places of mixed (place,
item) pairs, so that whole columns go through numpy at once.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mec.data.blocks import Block
from mec.data.splits import splitmix64

_Hashes = NDArray[np.uint64]
_NULL = np.uint64(0x6E756C6C)
_PLACE = np.uint64(0x243F6A8885A308D3)  # the first bits of pi's fraction


def hash_rows(block: Block) -> _Hashes:
    """Hash every row of a block.

    Args:
        block: Rows with all their fields; the order of the fields does not matter.

    Returns:
        (N,) uint64. Different rows share a hash with a chance of 2^-64 a pair.
    """
    columns: dict[str, pa.Array] = {f"field {name}": column for name, column in block.columns.items()}
    columns["label"] = pa.array(block.label.astype(np.int64))
    if block.time is not None:
        columns["time"] = pa.array(block.time)
    hashes = np.zeros(block.num_rows, dtype=np.uint64)
    for name in sorted(columns):
        hashes = splitmix64(hashes ^ _name_key(name) ^ hash_values(columns[name]))
    return hashes


def hash_values(values: pa.Array) -> _Hashes:
    """Hash every value of a column.

    Args:
        values: (N,) int64, float64, string, or a list of these.

    Returns:
        (N,) uint64; null has a hash of its own, and 0.0 and -0.0 share one.
    """
    if pa.types.is_string(values.type):
        encoded = values.dictionary_encode()  # each distinct string is hashed once
        distinct = _hash_strings(encoded.dictionary)
        result: _Hashes = np.append(distinct, np.uint64(0))[np.asarray(pc.fill_null(encoded.indices, len(distinct)))]
    elif pa.types.is_list(values.type):
        lengths = np.asarray(pc.fill_null(pc.list_value_length(values), 0), dtype=np.int64)
        result = _hash_sequences(hash_values(values.flatten()), lengths)
    elif pa.types.is_floating(values.type):
        numbers = np.asarray(pc.fill_null(values, 0.0), dtype=np.float64) + 0.0  # -0.0 + 0.0 is 0.0
        result = splitmix64(numbers.view(np.uint64))
    else:
        result = splitmix64(np.asarray(pc.fill_null(values, 0), dtype=np.int64).view(np.uint64))
    if values.null_count:
        result[np.asarray(pc.is_null(values))] = _NULL
    return result


def _hash_strings(dictionary: pa.StringArray) -> _Hashes:
    """Hashes of the values of a dictionary, which begins at the start of its buffers and holds no null."""
    if not len(dictionary):
        return np.zeros(0, dtype=np.uint64)
    _, starts, data = dictionary.buffers()
    offsets = np.frombuffer(starts, dtype=np.int32)[: len(dictionary) + 1]
    letters = np.frombuffer(data, dtype=np.uint8) if data is not None else np.zeros(0, dtype=np.uint8)
    return _hash_sequences(letters[: offsets[-1]].astype(np.uint64), np.diff(offsets).astype(np.int64))


def _hash_sequences(items: _Hashes, lengths: NDArray[np.int64]) -> _Hashes:
    """(N,) hashes of N consecutive runs of items."""
    ends = np.cumsum(lengths)
    places = np.arange(len(items), dtype=np.int64) - np.repeat(ends - lengths, lengths)
    # salted, or the keys of places would be the hashes of small numbers, and [0, 0] and [1, 1] share a hash
    mixed = splitmix64(items ^ splitmix64(places.view(np.uint64) ^ _PLACE))
    sums = np.append(np.uint64(0), np.cumsum(mixed, dtype=np.uint64))  # modulo 2^64, so differences are exact
    return splitmix64((sums[ends] - sums[ends - lengths]) ^ lengths.view(np.uint64))


def _name_key(name: str) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little"))
