"""The files of a codes bundle as rows of bytes, one per value: what a store, or a scorer without one, holds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file

from mec.bundle import Bundle
from mec.quantize.codes import CODES_FILE, HEAD_FILE
from mec.quantize.packing import row_bytes, unpack
from mec.quantize.plan import stream_places


@dataclass(frozen=True)
class ValueRows:
    """One vocabulary.

    Attributes:
        codes: (coded, n) uint8, packed codes by place in the stream.
        head: (H, W x bytes per float) uint8, exact rows of ids 1 to H.
        tail: Values that share id 0's code.
        base: Ids that head and tail were planned on; None: all.
    """

    codes: NDArray[np.uint8]
    head: NDArray[np.uint8]
    tail: int = 0
    base: int | None = None

    def places(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of ``codes`` that ids (N,) read; without a meaning for the head's."""
        found = stream_places(torch.from_numpy(ids), len(self.head), len(self.codes), self.tail, self.base)
        places: NDArray[np.int64] = found.numpy()
        return places

    def in_head(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of ids (N,) have row id - 1 of ``head`` instead of codes."""
        return (ids >= 1) & (ids <= len(self.head))


class CodesFiles:
    """Streams and head rows of a codes bundle; needs no codebook.

    Args:
        bundle: A codes bundle.

    Raises:
        BundleError: A file is missing or corrupt.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._facts = bundle.extra["vocabularies"]
        self.sizes: dict[str, int] = {name: facts["size"] for name, facts in self._facts.items()}
        self._packed = load_file(bundle.file(CODES_FILE))
        self._head = load_file(bundle.file(HEAD_FILE))

    def rows(self, vocabulary: str) -> ValueRows:
        """Rows of one coded vocabulary."""
        facts = self._facts[vocabulary]
        bits = facts["bits_per_code"]
        codes = unpack(self._packed[vocabulary], facts["coded"], facts["num_codes"], bits)  # (coded, M)
        head = self._head[vocabulary].view(np.uint8) if facts["head"] else np.zeros((0, 0), np.uint8)
        tail = facts["size"] - facts["head"] - facts["coded"]
        return ValueRows(row_bytes(codes, bits), head, tail, facts.get("base"))
