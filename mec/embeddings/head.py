"""The k most frequent values of a vocabulary, and what finding them costs.

A new vocabulary's ids are in order of falling training count, so its head is ids 1 to k and needs no index. In one that
was extended by a refresh ids are in no order; then the head's ids are held, sorted, at 4 bytes each, and searched.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ID_BYTES = 4


def in_order(counts: NDArray[np.int64]) -> bool:
    """Whether ids from 1 are in order of falling (V,) counts."""
    return bool(np.all(np.diff(counts[1:]) <= 0))


def index_bytes(counts: NDArray[np.int64], head: int) -> int:
    """Bytes of the head's index."""
    return 0 if in_order(counts) else ID_BYTES * head


def head_ids(counts: NDArray[np.int64], head: int) -> Tensor | None:
    """The head's ids, (k,) int32, rising; None where they are 1 to k. Of values of one count, lower ids come first."""
    if in_order(counts):
        return None
    ids = 1 + np.argsort(-counts[1:], kind="stable")[:head]
    return torch.from_numpy(np.sort(ids).astype(np.int32))


def places(ids: Tensor, head: int, index: Tensor | None) -> Tensor:
    """Where values stand in the head.

    Args:
        ids: (N,) int64.
        head: k.
        index: What ``head_ids`` gave.

    Returns:
        (N,) int64 in [0, k), and -1 for values that are not in the head; id 0 never is.
    """
    if index is None:
        return torch.where(ids <= head, ids - 1, -1)
    if not head:
        return torch.full_like(ids, -1)
    found = torch.searchsorted(index, ids.to(index.dtype)).clamp_(max=head - 1)
    return torch.where(index[found] == ids, found, -1)
