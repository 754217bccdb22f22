"""Codes as a stream of bits, and back.

Value v's code m takes bits [(v M + m) b, (v M + m + 1) b) of one little-endian stream: bit i of the stream is bit
i mod 8 of byte i div 8. V values of M codes of b bits take ceil(V M b / 8) bytes, the last bits 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MAX_BITS = 16


def bits_per_code(num_codewords: int) -> int:
    """b = ceil(log2 K), from 1 to 16."""
    assert 2 <= num_codewords <= 1 << MAX_BITS
    return (num_codewords - 1).bit_length()


def packed_bytes(num_values: int, num_codes: int, bits: int) -> int:
    """Bytes of V values' codes in one stream."""
    return (num_values * num_codes * bits + 7) // 8


def pack(codes: NDArray[np.integer], bits: int) -> NDArray[np.uint8]:
    """Pack codes into one bit stream.

    Args:
        codes: (V, M) integers in [0, 2^bits).
        bits: b, from 1 to 16.

    Returns:
        (ceil(V M b / 8),) uint8.
    """
    num_values, num_codes = codes.shape
    groups = np.zeros((-(-codes.size // 8), 8), dtype=np.uint32)  # 8 codes fill b bytes
    groups.reshape(-1)[: codes.size] = _checked(codes, bits).reshape(-1)
    return _pack_groups(groups, bits).reshape(-1)[: packed_bytes(num_values, num_codes, bits)]


def unpack(packed: NDArray[np.uint8], num_values: int, num_codes: int, bits: int) -> NDArray[np.int32]:
    """Read all codes of a bit stream.

    Args:
        packed: (ceil(V M b / 8),) uint8.
        num_values: V.
        num_codes: M.
        bits: b, from 1 to 16.

    Returns:
        (V, M) int32.
    """
    assert packed.shape == (packed_bytes(num_values, num_codes, bits),)
    size = num_values * num_codes
    groups = np.zeros((-(-size // 8), bits), dtype=np.uint8)
    groups.reshape(-1)[: len(packed)] = packed
    return _unpack_groups(groups, 8, bits).reshape(-1)[:size].reshape(num_values, num_codes)


def row_bytes(codes: NDArray[np.integer], bits: int) -> NDArray[np.uint8]:
    """Pack each value's codes into bytes of its own, as the online store keeps them.

    Args:
        codes: (V, M) integers in [0, 2^bits).
        bits: b, from 1 to 16.

    Returns:
        (V, ceil(M b / 8)) uint8.
    """
    return _pack_groups(_checked(codes, bits).astype(np.uint32), bits)


def codes_from_row_bytes(rows: NDArray[np.uint8] | Sequence[bytes], num_codes: int, bits: int) -> NDArray[np.int32]:
    """Read codes from rows of bytes; the inverse of ``row_bytes``.

    Args:
        rows: N rows of ceil(M b / 8) bytes.
        num_codes: M.
        bits: b, from 1 to 16.

    Returns:
        (N, M) int32.

    Raises:
        ValueError: A row has another length.
    """
    width = packed_bytes(1, num_codes, bits)
    if not isinstance(rows, np.ndarray):
        wrong = next((row for row in rows if len(row) != width), None)
        if wrong is not None:
            raise ValueError(f"{num_codes} codes of {bits} bits take {width} bytes; found: {len(wrong)} bytes")
        rows = np.frombuffer(b"".join(rows), np.uint8).reshape(-1, width)
    elif rows.shape[1:] != (width,):
        raise ValueError(f"{num_codes} codes of {bits} bits take {width} bytes; found: rows of shape {rows.shape}")
    return _unpack_groups(rows, num_codes, bits)


def gather_codes(packed: Tensor, ids: Tensor, num_codes: int, bits: int) -> Tensor:
    """Read the codes of some values straight from the bit stream.

    Args:
        packed: (ceil(V M b / 8),) uint8, on the device of ``ids``.
        ids: (N,) integers in [0, V).
        num_codes: M.
        bits: b, from 1 to 16.

    Returns:
        (N, M) int64.
    """
    first = (ids.long()[:, None] * num_codes + torch.arange(num_codes, device=ids.device)) * bits  # (N, M) first bit
    byte, shift = first >> 3, first & 7
    largest_shift = 8 - math.gcd(bits, 8)
    codes = packed[byte].long()
    for extra in range(1, (largest_shift + bits + 7) // 8):
        # past the end the last byte is read again; those bits are masked out below
        codes |= packed[(byte + extra).clamp_(max=len(packed) - 1)].long() << (8 * extra)
    return (codes >> shift) & ((1 << bits) - 1)


def _checked(codes: NDArray[np.integer], bits: int) -> NDArray[np.integer]:
    assert 1 <= bits <= MAX_BITS
    assert codes.size == 0 or (int(codes.min()) >= 0 and int(codes.max()) < 1 << bits), f"codes do not fit {bits} bits"
    return codes


def _pack_groups(groups: NDArray[np.uint32], bits: int) -> NDArray[np.uint8]:
    """(G, J) codes -> (G, ceil(J b / 8)) bytes, each group from a byte boundary on."""
    num_groups, group_size = groups.shape
    packed = np.zeros((num_groups, (group_size * bits + 7) // 8), dtype=np.uint8)
    for place in range(group_size):
        byte, shift = divmod(place * bits, 8)
        shifted = groups[:, place] << np.uint32(shift)  # at most 16 + 7 bits
        for extra in range((shift + bits + 7) // 8):
            packed[:, byte + extra] |= (shifted >> np.uint32(8 * extra)).astype(np.uint8)
    return packed


def _unpack_groups(packed: NDArray[np.uint8], group_size: int, bits: int) -> NDArray[np.int32]:
    """(G, ceil(J b / 8)) bytes -> (G, J) codes."""
    codes = np.zeros((len(packed), group_size), dtype=np.int32)
    for place in range(group_size):
        byte, shift = divmod(place * bits, 8)
        for extra in range((shift + bits + 7) // 8):
            codes[:, place] |= packed[:, byte + extra].astype(np.int32) << np.int32(8 * extra)
        codes[:, place] >>= np.int32(shift)
    codes &= np.int32((1 << bits) - 1)
    return codes
