"""The bytes the online store holds per vocabulary value: a tag of the codebook, then packed codes or an exact row.

The tag of packed codes is the first four bytes of the codebook's uuid, so a reader with another codebook refuses the
value instead of decoding it into a wrong vector. A value of the head has the bitwise complement of that tag, no bit of
which is the same, and then its row: W little-endian floats, as the codebook stores them.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from mec.errors import SpaceError

TAG_BYTES = 4


@dataclass(frozen=True, slots=True)
class HeadRow:
    """What is stored of a value of the head: the bytes of its row."""

    data: bytes


@cache
def codebook_tag(codebook: str) -> bytes:
    """First four bytes of a codebook's uuid.

    Raises:
        SpaceError: ``codebook`` is not a uuid.
    """
    try:
        return uuid.UUID(codebook).bytes[:TAG_BYTES]
    except ValueError:
        raise SpaceError(
            "not the uuid of a codebook", found=repr(codebook), fix="pass the uuid of a codebook bundle"
        ) from None


@cache
def head_tag(codebook: str) -> bytes:
    """The tag of exact rows: the bitwise complement of ``codebook_tag``."""
    return bytes(byte ^ 0xFF for byte in codebook_tag(codebook))


def feature_name(codebook: str) -> str:
    """Name of the FeatureView and of the FeatureService that serve one codebook's codes."""
    return f"codes_{codebook_tag(codebook).hex()}"


def encode(codebook: str, rows: NDArray[np.uint8]) -> list[bytes]:
    """Online values of packed codes.

    Args:
        codebook: uuid of the codebook the codes index.
        rows: (V, n) uint8, the packed codes of one value per row.

    Returns:
        V values of ``TAG_BYTES + n`` bytes.
    """
    return _tagged(codebook_tag(codebook), rows)


def encode_head(codebook: str, rows: NDArray[np.uint8]) -> list[bytes]:
    """Online values of exact rows.

    Args:
        codebook: uuid of the codebook beside whose codes they stand.
        rows: (H, n) uint8, the bytes of one row's floats per row.

    Returns:
        H values of ``TAG_BYTES + n`` bytes.
    """
    return _tagged(head_tag(codebook), rows)


def _tagged(tag: bytes, rows: NDArray[np.uint8]) -> list[bytes]:
    tags = np.broadcast_to(np.frombuffer(tag, np.uint8), (len(rows), TAG_BYTES))
    joined = np.concatenate([tags, rows], axis=1)  # (V, 4 + n)
    data, width = joined.tobytes(), joined.shape[1]
    return [data[start : start + width] for start in range(0, len(data), width)]


def decode(codebook: str, value: bytes, key: str) -> bytes | HeadRow:
    """Packed codes or exact row of one online value, its tag checked and removed.

    Args:
        codebook: uuid of the codebook the reader decodes with.
        value: What the online store holds.
        key: The online key, for the error.

    Raises:
        SpaceError: The value was written for another codebook.
    """
    tag = codebook_tag(codebook)
    found = value[:TAG_BYTES]
    if found == head_tag(codebook):
        return HeadRow(value[TAG_BYTES:])
    if found != tag:
        raise SpaceError(
            f"the online value of {key!r} was not written for codebook {codebook} (tag {tag.hex()})",
            found=f"tag {found.hex() or 'of no bytes'}",
            fix="read it with the scorer of the codebook whose uuid begins with the tag found, or publish again",
        )
    return value[TAG_BYTES:]
