"""How one vocabulary is stored: its codebook's shape, the head that keeps exact rows, the tail that shares a code.

Ids are in order of decreasing training count, id 0 being the unknown and rare values. The bit stream of a vocabulary
holds ``coded`` codes: place 0 is id 0's, id i of head < i < tail_start has place i - head. All ids from ``tail_start``
on read place 0, and ids 1 to ``head`` have rows of their own instead.

A refresh appends values, whatever their counts. Head and tail stay as they were planned on the first ``base`` ids, and
each id from ``base`` on has a code of its own, behind all others in the stream.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mec.config import QuantizeConfig
from mec.errors import BundleError
from mec.quantize.packing import bits_per_code, packed_bytes

Structure = Literal["product", "residual"]


@dataclass(frozen=True)
class VocabularyPlan:
    """One coded vocabulary; a vocabulary without a plan keeps all its rows exact.

    Attributes:
        structure: Sub-vectors side by side, or full-width codewords added up.
        num_codes: M.
        num_codewords: K.
        head: H; ids 1 to H keep exact rows.
        tail_start: Ids from here on share id 0's code, above H; the base, or 0, where there is no tail.
        base: Ids that head and tail were planned on; 0: all V.
    """

    structure: Structure
    num_codes: int
    num_codewords: int
    head: int = 0
    tail_start: int = 0
    base: int = 0

    def coded(self, size: int) -> int:
        """Values with a code of their own in the stream of V = ``size`` values, id 0 included: at least 1."""
        base = self.base or size
        planned = (self.tail_start or base) - self.head
        assert 0 <= self.head <= base - planned < base <= size, f"{self} does not fit {size} values"
        return planned + size - base

    def tail(self, size: int) -> int:
        """How many of V = ``size`` values share id 0's code."""
        return size - self.head - self.coded(size)

    def has_tail(self, size: int) -> bool:
        """Whether some of V = ``size`` values share id 0's code."""
        return self.tail(size) > 0

    @property
    def bits(self) -> int:
        """Bits per code."""
        return bits_per_code(self.num_codewords)

    def saves_bytes(self, size: int, width: int, float_bytes: int) -> bool:
        """Whether a server holds fewer bytes than of V = ``size`` exact rows; arguments as for ``serving_bytes``."""
        return sum(self.serving_bytes(size, width, float_bytes).values()) < size * width * float_bytes

    def serving_bytes(self, size: int, width: int, float_bytes: int) -> dict[str, int]:
        """Bytes that a server must hold of this vocabulary, by part.

        Args:
            size: V.
            width: W = D + 1, floats per row.
            float_bytes: Bytes per float of codewords and rows.

        Returns:
            ``codes``, ``codebooks`` and ``rows`` (the head's).
        """
        codebooks = self.num_codes if self.structure == "residual" else 1
        return {
            "codes": packed_bytes(self.coded(size), self.num_codes, self.bits),
            "codebooks": codebooks * self.num_codewords * width * float_bytes,
            "rows": self.head * width * float_bytes,
        }


def stream_places(ids: Tensor, head: int, coded: int, tail: int = 0, base: int | None = None) -> Tensor:
    """Places in the bit stream of some values.

    Args:
        ids: (N,) integers in [0, V), on any device.
        head: H.
        coded: Values in the stream.
        tail: Values that share id 0's code; only read with a base.
        base: Ids that head and tail were planned on; None: all of them.

    Returns:
        (N,) of the type of ``ids``, in [0, coded); 0 for ids of the tail and, without a meaning, for those of the head.
    """
    places = ids - head
    if base is None:
        return torch.where((places > 0) & (places < coded), places, 0)
    own = torch.where((places > 0) & (ids < base - tail), places, 0)
    return torch.where(ids >= base, places - tail, own)


def stream_ids(plan: VocabularyPlan, size: int) -> Tensor:
    """(coded,) int64, the id of every place in the stream of V = ``size`` values; place 0 is id 0's."""
    base = plan.base or size
    planned = torch.arange(plan.head, plan.tail_start or base)
    planned[0] = 0
    return torch.cat([planned, torch.arange(base, size)])


def settings_plan(settings: QuantizeConfig, size: int, counts: NDArray[np.int64]) -> VocabularyPlan | None:
    """The plan that settings without a budget give one vocabulary.

    Args:
        settings: Structure, M, K, and thresholds.
        size: V.
        counts: (V,) training counts.

    Returns:
        None where all rows are exact: fewer than ``min_values`` of them, or no more than K behind the head.
    """
    if size < settings.min_values or size - settings.head <= settings.num_codewords:
        return None
    popular = 1 + int(np.count_nonzero(counts[1:] >= settings.tail_count))
    tail_start = size if settings.tail_count <= 1 else max(popular, settings.head + 1)
    return VocabularyPlan(settings.structure, settings.num_codes, settings.num_codewords, settings.head, tail_start)


def check_order(vocabulary: str, counts: NDArray[np.int64]) -> None:
    """Refuse a vocabulary whose ids are not in order of popularity, so that head and tail would be wrong values.

    The vocabulary step orders ids so; a later generation keeps them while counts change.

    Args:
        vocabulary: Its name.
        counts: (V,) training counts by id; id 0 stands outside the order.

    Raises:
        BundleError: A later id has the larger count.
    """
    rising = np.flatnonzero(np.diff(counts[1:]) > 0)
    if len(rising):
        first = int(rising[0]) + 1
        raise BundleError(
            f"the ids of vocabulary {vocabulary!r} are not in order of decreasing training count, so no head or tail "
            "can be told from them",
            found=f"{counts[first + 1]} rows of id {first + 1} after {counts[first]} of id {first}",
            fix="start a new vocabulary with the train pipeline, or quantize without head, tail_count and budget",
        )
