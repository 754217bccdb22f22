"""Time of looking up compressed rows against gathering full fp32 rows, in the same process and minute."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from mec.data.layout import FieldLayout

Lookup = Callable[[torch.Tensor], torch.Tensor]

WARM_UPS = 3
REPEATS = 21
_TABLE_BYTES = 256 << 20


def lookup_latency(compressed: Lookup, full: Lookup, ids: torch.Tensor, repeats: int = REPEATS) -> dict[str, Any]:
    """Median time of one look-up of all rows of ``ids``, the two sides taking turns, one thread.

    Args:
        compressed: ids (B, S) -> rows (B, S, D + 1) decoded from codes.
        full: The same from full tables.
        ids: (B, S) int32, empty slots 0.
        repeats: Timed look-ups of each side.

    Returns:
        ``rows``, ``slots``, ``repeats``, ``threads``; ``compressed_ms`` and ``full_ms`` (medians) with
        ``_low`` and ``_high`` (quartiles); ``ratio``: compressed over full, below 1 is faster.
    """
    times: dict[str, list[float]] = {"compressed": [], "full": []}
    sides = (("compressed", compressed), ("full", full))
    with torch.inference_mode(), _one_thread():
        for _ in range(WARM_UPS):
            for _, look_up in sides:
                look_up(ids)
        for repeat in range(repeats):
            for name, look_up in sides if repeat % 2 == 0 else sides[::-1]:
                start = time.perf_counter()
                look_up(ids)
                times[name].append(1e3 * (time.perf_counter() - start))
    result: dict[str, Any] = {"rows": ids.shape[0], "slots": ids.shape[1], "repeats": repeats, "threads": 1}
    for name, values in times.items():
        low, median, high = (float(q) for q in np.quantile(values, [0.25, 0.5, 0.75]))
        result |= {f"{name}_ms": median, f"{name}_ms_low": low, f"{name}_ms_high": high}
    return result | {"ratio": result["compressed_ms"] / result["full_ms"]}


def full_table_lookup(layout: FieldLayout, embedding_dim: int) -> Lookup:
    """A plain gather from full tables of random floats, for runs that trained no reference.

    Takes V x (D + 1) x 4 bytes over all vocabularies, and 256 MiB at most: larger tables are folded onto that, which
    flatters the full table a little, as it misses the cache less often.
    """
    num_rows = min(layout.num_values, _TABLE_BYTES // (4 * (embedding_dim + 1)))
    # Filled, since untouched pages would all be one page of zeros, always in cache.
    table = torch.empty(num_rows, embedding_dim + 1).uniform_()
    offsets = torch.from_numpy(layout.slot_offsets())

    def look_up(ids: torch.Tensor) -> torch.Tensor:
        index = ids + offsets
        if num_rows < layout.num_values:
            index = index % num_rows
        return torch.nn.functional.embedding(index, table)  # (B, S, D + 1)

    return look_up


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
