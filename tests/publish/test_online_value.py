"""Online values: tag, packed codes, and the refusal of a foreign tag."""

from __future__ import annotations

import numpy as np
import pytest

from mec.errors import SpaceError
from mec.publish.online_value import HeadRow, codebook_tag, decode, encode, encode_head, feature_name, head_tag

OURS = "0a0b0c0d-1111-4111-8111-111111111111"
OTHER = "ffeeddcc-1111-4111-8111-111111111111"


def test_value_is_tag_then_row() -> None:
    rows = np.array([[1, 0], [0, 0], [255, 7]], np.uint8)
    values = encode(OURS, rows)
    assert values == [b"\x0a\x0b\x0c\x0d" + bytes(row) for row in rows.tolist()]
    assert [decode(OURS, value, "item=1") for value in values] == [bytes(row) for row in rows.tolist()]


def test_no_rows() -> None:
    assert encode(OURS, np.zeros((0, 3), np.uint8)) == []


def test_name_is_first_eight_of_uuid() -> None:
    assert feature_name(OURS) == "codes_0a0b0c0d"
    assert codebook_tag(OURS).hex() == OURS[:8]


@pytest.mark.parametrize("length", [0, 2, 4, 6])
def test_foreign_or_cut_tag_is_refused_by_name(length: int) -> None:
    value = encode(OTHER, np.zeros((1, 2), np.uint8))[0][:length]
    with pytest.raises(SpaceError) as caught:
        decode(OURS, value, "item=7")
    text = str(caught.value)
    assert OURS in text
    assert "item=7" in text
    assert value[:4].hex() in text
    assert "fix:" in text


def test_codebook_must_be_a_uuid() -> None:
    with pytest.raises(SpaceError, match="not the uuid"):
        codebook_tag("mine")


def test_an_exact_row_is_never_read_as_codes() -> None:
    rows = np.array([[1.5, -2.0], [0.0, 3.0]], np.float16).view(np.uint8)
    values = encode_head(OURS, rows)
    assert [decode(OURS, value, "item=1") for value in values] == [HeadRow(bytes(row)) for row in rows.tolist()]
    assert all(a ^ b == 0xFF for a, b in zip(head_tag(OURS), codebook_tag(OURS), strict=True))
    with pytest.raises(SpaceError, match=head_tag(OURS).hex()):
        decode(OTHER, values[0], "item=1")
    assert decode(OURS, encode(OURS, rows)[0], "item=1") == bytes(rows[0].tolist())
