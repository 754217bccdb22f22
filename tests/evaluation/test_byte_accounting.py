"""Bytes, counted against the arrays a server would hold."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from mec.data.layout import FieldLayout, FieldSlots
from mec.evaluation.byte_accounting import full_bytes, value_map_bytes, vocabulary_bytes

LAYOUT = FieldLayout(
    (FieldSlots("item", "categorical", "item", 0, 1, "none"), FieldSlots("day", "categorical", "day", 1, 1, "none")),
    (("item", 1001), ("day", 8)),
)


def test_full_tables_are_fp32_with_first_order_weights() -> None:
    tables = [np.zeros((size, 17), dtype=np.float32) for _, size in LAYOUT.vocabularies]
    assert full_bytes(LAYOUT, 16) == sum(table.nbytes for table in tables)


@pytest.mark.parametrize(("structure", "codebook_shape"), [("residual", (3, 50, 17)), ("product", (50, 17))])
def test_a_coded_and_an_exact_vocabulary(structure: str, codebook_shape: tuple[int, ...]) -> None:
    coded = {"item": {"num_codes": 3, "num_codewords": 50, "bits_per_code": 6}}
    item, day = vocabulary_bytes(LAYOUT, 16, structure, coded)
    assert item.codes == -(-1001 * 3 * 6 // 8)
    assert item.codebooks == np.zeros(codebook_shape, dtype=np.float32).nbytes
    assert (item.rows, item.full) == (0, 1001 * 17 * 4)
    assert (day.codes, day.codebooks, day.rows, day.full) == (0, 0, 8 * 17 * 4, 8 * 17 * 4)
    assert item.full + day.full == full_bytes(LAYOUT, 16)


def test_value_map_is_values_and_four_bytes_an_id() -> None:
    numbers, words = pa.array([1, 2, 3], pa.int64()), pa.array(["ab", "c"], pa.string())
    assert value_map_bytes({"n": numbers}) == 3 * 8 + 3 * 4
    assert value_map_bytes({"n": numbers, "w": words}) == 36 + 3 + 2 * 4 + 2 * 4  # Arrow counts an offset a value
