"""Packed codes: round trips, lengths and the layout of bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mec.quantize.packing import (
    bits_per_code,
    codes_from_row_bytes,
    gather_codes,
    pack,
    packed_bytes,
    row_bytes,
    unpack,
)

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")),
]


@st.composite
def some_codes(draw: st.DrawFn) -> tuple[NDArray[np.int64], int]:
    num_values, num_codes = draw(st.integers(0, 70)), draw(st.integers(1, 9))
    bits = draw(st.integers(1, 16))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    codes = rng.integers(0, 1 << bits, (num_values, num_codes))
    if draw(st.booleans()):
        codes[:] = (1 << bits) - 1
    return codes, bits


def by_the_book(codes: NDArray[np.int64], bits: int) -> bytes:
    """The documented layout, one big integer at a time."""
    stream = sum(int(c) << (i * bits) for i, c in enumerate(codes.ravel()))
    return stream.to_bytes((codes.size * bits + 7) // 8, "little")


@settings(max_examples=300, deadline=None)
@given(some_codes())
def test_round_trips(case: tuple[NDArray[np.int64], int]) -> None:
    codes, bits = case
    num_values, num_codes = codes.shape
    packed = pack(codes, bits)
    assert packed.tobytes() == by_the_book(codes, bits)
    assert len(packed) == packed_bytes(num_values, num_codes, bits) == -(-num_values * num_codes * bits // 8)
    np.testing.assert_array_equal(unpack(packed, num_values, num_codes, bits), codes)
    ids = torch.arange(num_values).flip(0)
    gathered = gather_codes(torch.from_numpy(packed.copy()), ids, num_codes, bits)
    assert gathered.dtype == torch.int32
    np.testing.assert_array_equal(gathered.numpy(), codes[::-1])
    rows = row_bytes(codes, bits)
    assert rows.shape == (num_values, -(-num_codes * bits // 8))
    assert [row.tobytes() for row in rows] == [by_the_book(row, bits) for row in codes]
    np.testing.assert_array_equal(codes_from_row_bytes(rows, num_codes, bits), codes)
    np.testing.assert_array_equal(codes_from_row_bytes([row.tobytes() for row in rows], num_codes, bits), codes)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_gather_any_ids(dtype: torch.dtype, device: str) -> None:
    codes = np.random.default_rng(0).integers(0, 1 << 11, (500, 3))
    packed = torch.from_numpy(pack(codes, 11).copy()).to(device)
    ids = torch.tensor([499, 0, 7, 7, 250], dtype=dtype, device=device)
    np.testing.assert_array_equal(gather_codes(packed, ids, 3, 11).cpu().numpy(), codes[[499, 0, 7, 7, 250]])


@pytest.mark.parametrize("num_codes", range(1, 9))
@pytest.mark.parametrize("bits", range(1, 17))
def test_gather_every_shape(bits: int, num_codes: int) -> None:
    """Streams of odd and of even length, so that the last value ends within a word and at its end."""
    for num_values in (1, 2, 33, 34, 35, 36):
        codes = np.random.default_rng(num_values).integers(0, 1 << bits, (num_values, num_codes))
        codes[-1] = (1 << bits) - 1
        packed = torch.from_numpy(np.frombuffer(by_the_book(codes, bits), np.uint8).copy())
        ids = torch.tensor([num_values - 1, 0, *range(num_values), num_values - 1], dtype=torch.int32)
        np.testing.assert_array_equal(gather_codes(packed, ids, num_codes, bits).numpy(), codes[ids.numpy()])
        assert gather_codes(packed, ids[:0], num_codes, bits).shape == (0, num_codes)


@pytest.mark.parametrize("num_values", [34, 35])
@pytest.mark.parametrize("num_codes", [1, 3])
def test_gather_beyond_the_stream(num_codes: int, num_values: int) -> None:
    packed = torch.from_numpy(pack(np.zeros((num_values, num_codes), np.int64), 8).copy())
    for wrong in (-1, num_values + 1):
        with pytest.raises(IndexError):
            gather_codes(packed, torch.tensor([wrong]), num_codes, 8)


@pytest.mark.parametrize("device", DEVICES)
def test_gather_from_bits_beyond_int32(device: str) -> None:
    num_values = 23_000_000  # of 96 bits: 2.2e9
    packed = torch.zeros(num_values * 12, dtype=torch.uint8, device=device)
    codes = np.random.default_rng(0).integers(0, 1 << 12, (4, 8))
    packed[-48:] = torch.from_numpy(pack(codes, 12).copy())
    ids = torch.arange(num_values - 4, num_values, dtype=torch.int32, device=device)
    np.testing.assert_array_equal(gather_codes(packed, ids, 8, 12).cpu().numpy(), codes)


@pytest.mark.parametrize(("num_codewords", "bits"), [(2, 1), (3, 2), (4, 2), (5, 3), (64, 6), (65, 7), (65_536, 16)])
def test_bits_per_code(num_codewords: int, bits: int) -> None:
    assert bits_per_code(num_codewords) == bits


@pytest.mark.parametrize("bad", [-1, 64])
def test_codes_that_do_not_fit_are_never_packed(bad: int) -> None:
    codes = np.array([[1, 2], [3, bad]])
    with pytest.raises(AssertionError):
        pack(codes, 6)
    with pytest.raises(AssertionError):
        row_bytes(codes, 6)


def test_rows_of_a_wrong_length_are_refused() -> None:
    with pytest.raises(ValueError, match="take 2 bytes; found: 3 bytes"):
        codes_from_row_bytes([b"ab", b"abc"], 2, 6)
    with pytest.raises(ValueError, match="take 2 bytes"):
        codes_from_row_bytes(np.zeros((4, 1), np.uint8), 2, 6)
