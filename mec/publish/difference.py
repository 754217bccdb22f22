"""Which online rows differ between two generations of codes: what publishing in place has to write.

Ids are append-only and a key stands for one value, so a value is the same id in both generations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mec.bundle import Bundle
from mec.publish.value_rows import CodesFiles, ValueRows

_CHUNK_ROWS = 1 << 18


@dataclass(frozen=True)
class Difference:
    """Values of one vocabulary whose online rows differ, as ids.

    Attributes:
        rewritten: (n,) int64, values of both generations with another row.
        added: (n,) int64, values that only the newer generation has.
        retired: (n,) int64, values that only the one that is online has; not empty when going back.
    """

    rewritten: NDArray[np.int64]
    added: NDArray[np.int64]
    retired: NDArray[np.int64]

    @property
    def written(self) -> NDArray[np.int64]:
        """(n,) ids of the new generation to write."""
        return np.concatenate([self.rewritten, self.added])


def differences(online: Bundle, new: Bundle) -> dict[str, Difference]:
    """Compare two codes bundles, by what an online store holds of them.

    Args:
        online: Codes that are in the store.
        new: Codes to be there. Of another codebook: all rows differ.

    Returns:
        Coded vocabulary -> difference.
    """
    same_codebook = online.extra["codebook"] == new.extra["codebook"]
    before, after = CodesFiles(online), CodesFiles(new)
    result = {}
    for name, size in after.sizes.items():
        old_size = before.sizes.get(name, 0)
        common = min(size, old_size)
        rewritten = np.arange(common)
        if same_codebook:
            rewritten = _differing(before.rows(name), after.rows(name), common)
        result[name] = Difference(rewritten, np.arange(common, size), np.arange(common, old_size))
    return result


def count_rows(found: dict[str, Difference]) -> dict[str, int]:
    """``rows_rewritten``, known values whose online row changes, and ``rows_added``, values without one so far."""
    return {
        "rows_rewritten": sum(len(d.rewritten) + len(d.retired) for d in found.values()),
        "rows_added": sum(len(d.added) for d in found.values()),
    }


def _differing(before: ValueRows, after: ValueRows, num_ids: int) -> NDArray[np.int64]:
    parts = [np.zeros(0, dtype=np.int64)]
    for start in range(0, num_ids, _CHUNK_ROWS):
        ids = np.arange(start, min(start + _CHUNK_ROWS, num_ids))
        differs = (before.codes[before.places(ids)] != after.codes[after.places(ids)]).any(axis=1)
        old_head, new_head = before.in_head(ids), after.in_head(ids)
        differs[old_head != new_head] = True
        in_both = old_head & new_head
        rows = ids[in_both] - 1
        differs[in_both] = (before.head[rows] != after.head[rows]).any(axis=1)
        parts.append(ids[differs])
    return np.concatenate(parts)
