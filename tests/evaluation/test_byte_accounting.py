"""Bytes, counted against the arrays a server would hold."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from mec.data.layout import FieldLayout, FieldSlots
from mec.evaluation.byte_accounting import full_bytes, value_map_bytes, vocabulary_bytes
from mec.quantize.plan import Structure, VocabularyPlan

LAYOUT = FieldLayout(
    (FieldSlots("item", "categorical", "item", 0, 1, "none"), FieldSlots("day", "categorical", "day", 1, 1, "none")),
    (("item", 1001), ("day", 8)),
)


def test_full_tables_are_fp32_with_first_order_weights() -> None:
    tables = [np.zeros((size, 17), dtype=np.float32) for _, size in LAYOUT.vocabularies]
    assert full_bytes(LAYOUT, 16) == sum(table.nbytes for table in tables)


@pytest.mark.parametrize(("floats", "float_bytes"), [(np.float32, 4), (np.float16, 2)])
@pytest.mark.parametrize(("structure", "codebook_shape"), [("residual", (3, 50, 17)), ("product", (50, 17))])
def test_a_coded_and_an_exact_vocabulary(
    structure: Structure, codebook_shape: tuple[int, ...], floats: type[np.floating], float_bytes: int
) -> None:
    item, day = vocabulary_bytes(LAYOUT, 16, {"item": VocabularyPlan(structure, 3, 50)}, float_bytes)
    assert item.codes == -(-1001 * 3 * 6 // 8)
    assert item.codebooks == np.zeros(codebook_shape, dtype=floats).nbytes
    assert (item.rows, item.full) == (0, 1001 * 17 * 4)
    assert (item.shape, item.head, item.tail) == (f"{structure} 3x50", 0, 0)
    rows = np.zeros((8, 17), dtype=floats).nbytes
    assert (day.codes, day.codebooks, day.rows, day.full, day.shape) == (0, 0, rows, 8 * 17 * 4, "")
    assert item.full + day.full == full_bytes(LAYOUT, 16)


def test_head_and_tail_of_a_coded_vocabulary() -> None:
    plan = VocabularyPlan("residual", 2, 16, head=100, tail_start=900)
    item = vocabulary_bytes(LAYOUT, 16, {"item": plan}, 2)[0]
    assert item.codes == 800  # ids 101 to 899 and id 0, 2 codes of 4 bits each
    assert item.rows == 100 * 17 * 2
    assert (item.head, item.tail) == (100, 1001 - 900)


def test_value_map_is_values_and_four_bytes_an_id() -> None:
    numbers, words = pa.array([1, 2, 3], pa.int64()), pa.array(["ab", "c"], pa.string())
    assert value_map_bytes({"n": numbers}) == 3 * 8 + 3 * 4
    assert value_map_bytes({"n": numbers, "w": words}) == 36 + 3 + 2 * 4 + 2 * 4  # Arrow counts an offset a value
