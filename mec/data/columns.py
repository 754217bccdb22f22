"""From a column as it was stored to its canonical array: int64, string, float64 or lists of these.

A value that does not fit raises ``BadValueError`` with its row; the source names the file and line.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mec.data.numeric import LARGEST, log2_buckets

ValueType = Literal["int64", "string"]


class BadValueError(Exception):
    """A value that cannot be what the config says it is.

    Args:
        problem: What is wrong with it.
        row: Its row in the array.
        found: The value.
        fix: What the user can do.
    """

    def __init__(self, problem: str, row: int, found: object, fix: str) -> None:
        super().__init__(problem)
        self.problem, self.row, self.found, self.fix = problem, row, found, fix


def value_type(kind: pa.DataType) -> ValueType | None:
    """Whether a column of this type holds int64 or string values; None if it can be no categorical field."""
    if pa.types.is_dictionary(kind):
        return value_type(kind.value_type)
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_floating(kind):
        return "int64"
    return "string" if is_text(kind) or pa.types.is_null(kind) else None


def is_text(kind: pa.DataType) -> bool:
    """Whether a type is text, or bytes that may be text."""
    return any(
        test(kind)
        for test in (
            pa.types.is_string,
            pa.types.is_large_string,
            pa.types.is_string_view,
            pa.types.is_binary,
            pa.types.is_large_binary,
        )
    )


def is_list(kind: pa.DataType) -> bool:
    """Whether a type is a list of any layout."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def is_number(kind: pa.DataType) -> bool:
    """Whether a type holds numbers (or nothing but nulls)."""
    return any(
        test(kind)
        for test in (
            pa.types.is_integer,
            pa.types.is_floating,
            pa.types.is_boolean,
            pa.types.is_decimal,
            pa.types.is_null,
        )
    )


def categorical(array: pa.Array, target: ValueType) -> pa.Array:
    """Values of a categorical column as int64 or string; nulls (and NaN) stay null."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_floating(array.type):
        array = _whole_numbers(array)
    elif pa.types.is_uint64(array.type) and target == "int64":
        over = np.asarray(pc.fill_null(pc.greater(array, pa.scalar(2**63 - 1, pa.uint64())), False))
        _refuse(over, array, "does not fit a 64-bit signed integer", "store the column as text")
    if pa.types.is_boolean(array.type):
        array = pc.cast(array, pa.int64())
    return pc.cast(array, pa.int64() if target == "int64" else pa.string())


def numeric(array: pa.Array) -> pa.Array:
    """Numbers as float64, NaN as null; an infinite value or text that is no number is refused."""
    if is_text(array.type):
        array = _parse(array)
    numbers = pc.cast(array, pa.float64(), safe=False)
    numbers = pc.if_else(pc.is_nan(numbers), pa.scalar(None, pa.float64()), numbers)
    infinite = np.asarray(pc.fill_null(pc.is_inf(numbers), False))
    _refuse(infinite, array, "is infinite", "write finite numbers, or leave the cell empty")
    return numbers


def bucketed(array: pa.Array) -> pa.Array:
    """Numbers as int64 buckets, see ``log2_buckets``; nulls stay null."""
    numbers = numeric(array)
    missing = np.asarray(pc.is_null(numbers))
    x = np.asarray(pc.fill_null(numbers, 0.0))
    _refuse(np.abs(x) > LARGEST, array, "is beyond 2^62", "use transform: linear, or leave the cell empty")
    return pa.array(log2_buckets(x), pa.int64(), mask=missing)


def sequence(array: pa.Array, target: ValueType, *, separator: str, max_length: int) -> pa.Array:
    """Lists of int64 or string values, the last ``max_length`` of each; a null list is an empty one."""
    if is_text(array.type):
        text = pc.cast(array, pa.string())
        text = pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)
        array = pc.split_pattern(text, separator)
    if pa.types.is_fixed_size_list(array.type):
        array = pc.cast(array, pa.list_(array.type.value_type))
    lengths: NDArray[np.int64] = np.asarray(pc.fill_null(pc.list_value_length(array), 0), dtype=np.int64)
    values = array.flatten()  # null lists left out
    ends = np.cumsum(lengths)
    if len(lengths) and lengths.max() > max_length:
        kept = np.minimum(lengths, max_length)
        starts = np.repeat(ends - kept, kept)
        within = np.arange(kept.sum()) - np.repeat(np.cumsum(kept) - kept, kept)
        values = values.take(pa.array(starts + within))
        ends = np.cumsum(kept)
    try:
        flat = categorical(values, target)
    except BadValueError as error:
        row = int(np.searchsorted(ends, error.row, side="right"))
        raise BadValueError(error.problem, row, error.found, error.fix) from None
    offsets = np.concatenate([[0], ends]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), flat)


def label(array: pa.Array) -> NDArray[np.uint8]:
    """(N,) labels; anything but 0 and 1 is refused, null included."""
    problem, fix = "is not 0 or 1", "make the label 0 or 1 in every row"
    try:
        numbers = numeric(array)
    except BadValueError as error:
        raise BadValueError(problem, error.row, error.found, fix) from None
    x = np.asarray(pc.fill_null(numbers, -1.0))
    _refuse((x != 0) & (x != 1), array, problem, fix)
    return x.astype(np.uint8)


def time(array: pa.Array) -> NDArray[np.float64]:
    """(N,) times; dates and timestamps become seconds since 1970 (UTC), null is refused."""
    if pa.types.is_date(array.type) or pa.types.is_timestamp(array.type):
        micros = pc.cast(pc.cast(array, pa.timestamp("us"), safe=False), pa.int64())
        array = pc.divide(pc.cast(micros, pa.float64(), safe=False), 1e6)
    numbers = numeric(array)
    _refuse(np.asarray(pc.is_null(numbers)), array, "has no value", "give every row a time, or unset data.time")
    return np.asarray(numbers, dtype=np.float64)


def text(array: pa.Array) -> pa.Array:
    """Values as text, whole floats without their ``.0``: how the split column is compared."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_floating(array.type):
        array = _whole_numbers(array)
    return pc.cast(array, pa.string())


def _whole_numbers(array: pa.Array) -> pa.Array:
    array = pc.cast(array, pa.float64())
    array = pc.if_else(pc.is_nan(array), pa.scalar(None, pa.float64()), array)
    x = np.asarray(pc.fill_null(array, 0.0))
    broken = (x != np.floor(x)) | (np.abs(x) > 2.0**53)
    _refuse(broken, array, "is no whole number", "list the column under data.numeric instead of data.categorical")
    return pc.cast(array, pa.int64())


def _parse(array: pa.Array) -> pa.Array:
    stripped = pc.utf8_trim_whitespace(pc.cast(array, pa.string()))
    stripped = pc.if_else(pc.equal(stripped, ""), pa.scalar(None, pa.string()), stripped)
    try:
        return pc.cast(stripped, pa.float64())
    except pa.ArrowInvalid:
        row = next(i for i, cell in enumerate(stripped.to_pylist()) if cell is not None and not _is_number(cell))
        raise BadValueError(
            "is not a number", row, repr(array[row].as_py()), "correct it, or list the column under data.categorical"
        ) from None


def _is_number(cell: str) -> bool:
    try:
        pc.cast(pa.scalar(cell), pa.float64())
    except pa.ArrowInvalid:
        return False
    return True


def _refuse(bad: NDArray[Any], array: pa.Array, problem: str, fix: str) -> None:
    if bad.any():
        row = int(np.argmax(bad))
        value = array[row].as_py()
        raise BadValueError(problem, row, "null" if value is None else repr(value), fix)
