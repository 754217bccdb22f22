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
from torch.nn import functional

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

    A value's codes lie side by side, so they are read together: as many as two 16-bit words of the stream hold.

    Args:
        packed: (ceil(V M b / 8),) uint8, on the device of ``ids``, from an even byte of its storage on.
        ids: (N,) integers in [0, V).
        num_codes: M.
        bits: b, from 1 to 16.

    Returns:
        (N, M) int32.

    Raises:
        IndexError: On a CPU, an id beyond the stream.
    """
    value_bits, mask = num_codes * bits, (1 << bits) - 1
    # int32 halves what the passes over ids move; streams with bits beyond 2^31 need int64
    ids = ids.to(torch.int32 if 8 * len(packed) < 1 << 31 else torch.int64)
    codes = torch.empty(len(ids), num_codes, dtype=torch.int32, device=ids.device)
    for start, stop in _code_groups(num_codes, bits):
        first_bit = ids * value_bits + start * bits  # (N,)
        window = _read_bits(packed, first_bit, (stop - start) * bits, _largest_shift(value_bits, start * bits))  # (N,)
        for m in range(start, stop):
            torch.bitwise_and(window >> ((m - start) * bits), mask, out=codes[:, m])
    return codes


def _largest_shift(value_bits: int, offset: int) -> int:
    """The most bits of its first 16-bit word that lie before bit v value_bits + offset, over all values v."""
    step = math.gcd(value_bits, 16)
    return 16 - step + offset % step


def _code_groups(num_codes: int, bits: int) -> list[tuple[int, int]]:
    """Codes [start, stop) that are read together: two words hold them, wherever in its first word a value starts."""
    groups, start = [], 0
    while start < num_codes:
        room = 32 - _largest_shift(num_codes * bits, start * bits)
        stop = min(num_codes, start + room // bits)
        groups.append((start, stop))
        start = stop
    return groups


def _read_bits(packed: Tensor, first_bit: Tensor, width: int, largest_shift: int) -> Tensor:
    """(N,) first bits -> (N,) int32 whose low ``width`` bits are the stream's from there on; the rest is undefined."""
    if len(packed) < 2:
        packed = functional.pad(packed, (0, 2 - len(packed)))
    word = first_bit >> 4
    window = _words(packed, word).bitwise_and_(0xFFFF)
    if largest_shift + width > 16:
        # a value that ends in the last word reads that word twice; the upper bits are not its own
        word.add_(1).clamp_(max=(len(packed) - 1) // 2)
        window |= _words(packed, word).bitwise_left_shift_(16)
    return window.bitwise_right_shift_(first_bit.bitwise_and_(15)) if largest_shift else window


def _words(packed: Tensor, word: Tensor) -> Tensor:
    """(N,) indices -> (N,) int32 of the stream's 16-bit words, sign-extended; the last one may be half a word."""
    num_whole = len(packed) // 2
    whole = packed[: 2 * num_whole].view(torch.int16)
    # index_select of a flat tensor takes a quarter of the time of indexing, as it does of selecting rows of bytes
    if len(packed) % 2 == 0:
        return whole.index_select(0, word).int()
    half = word == num_whole
    return torch.where(half, packed[-1].int(), whole.index_select(0, word - half.to(word.dtype)).int())


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
