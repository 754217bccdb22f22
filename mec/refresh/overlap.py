"""Rows that are in both old and new data: counted twice, or judged on although they were trained on.

The ``row_hashes`` bundle of a period holds the hashes of its training rows, sorted, 8 bytes each. New rows are looked
up in it block by block through a memory map, so comparing costs the new rows, not the old ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mec.bundle import Bundle, open_bundle, write_bundle
from mec.data.blocks import Block, Partition
from mec.data.readers import Source
from mec.data.shards import SPLITS
from mec.data.splits import NO_SPLIT, TRAIN
from mec.errors import DataError
from mec.refresh.row_hashes import hash_rows

KIND = "row_hashes"
_BUCKET_ROWS = 1 << 22  # hashes sorted in memory at a time, about
_MAX_BUCKET_BITS = 8  # files open at a time


@dataclass(frozen=True)
class Overlap:
    """New rows that equal a training row of an earlier period.

    Attributes:
        num_rows: Per split of the new data, its rows.
        num_found: Per split of the new data, those that were trained on before.
        num_repeated: New rows that equal an earlier row of the same block of the new data: what rows without a time
            or a number of their own have in common by chance.
        example: File and row of the first one found; empty if none was.
    """

    num_rows: dict[str, int]
    num_found: dict[str, int]
    num_repeated: int
    example: str

    @property
    def share(self) -> float:
        """Share of all new rows that were trained on before."""
        return sum(self.num_found.values()) / max(sum(self.num_rows.values()), 1)

    @property
    def repeated_share(self) -> float:
        """Share of all new rows that repeat another."""
        return self.num_repeated / max(sum(self.num_rows.values()), 1)

    def refuse(self, max_share: float) -> None:
        """Refuse data of which more than ``max_share`` was trained on before.

        Raises:
            DataError: It names how many rows, and one of them.
        """
        if self.share > max_share:
            found = ", ".join(f"{num} of {self.num_rows[split]} {split}" for split, num in self.num_found.items())
            raise DataError(
                f"the new data holds rows that are in the training rows of an earlier period, such as {self.example}",
                found=f"{found} rows; {100 * self.repeated_share:.1f} % of the new rows repeat one another",
                fix="take the rows of earlier periods away; where equal rows are different events, add a time column "
                "or allow a larger share",
            )


def write_row_hashes(source: Source, out: Path) -> Bundle:
    """Write the ``row_hashes`` bundle of a source's training rows.

    Holds one block of rows and one bucket of hashes in memory: 4 to 8 million up to two billion rows, more beyond.

    Args:
        source: Rows.
        out: Directory of the bundle: ``hashes-<bucket>.npy``, uint64, sorted, buckets by the first bits.

    Raises:
        DataError: Rows that cannot be read.
    """
    bits = min(max(source.num_rows_hint // _BUCKET_ROWS, 1).bit_length() - 1, _MAX_BUCKET_BITS)
    with write_bundle(out, KIND, data_version=source.data_version) as draft:
        files = [draft.path / _file(bucket) for bucket in range(1 << bits)]
        num_rows = 0
        with ExitStack() as stack:
            streams = [stack.enter_context(file.open("wb")) for file in files]
            for _, block, hashes in _hashed(source):
                for bucket, part in _by_bucket(np.sort(hashes[block.split == TRAIN]), bits):
                    streams[bucket].write(part.tobytes())
                    num_rows += len(part)
        for file in files:
            hashes = np.fromfile(file, dtype=np.uint64)
            np.save(file, np.sort(hashes))
        draft.extra = {"bits": bits, "rows": num_rows}
    return open_bundle(out, KIND, verify=False)


def find_overlap(source: Source, earlier: Sequence[Bundle]) -> Overlap:
    """Look every new row up among the training rows of earlier periods.

    Args:
        source: New rows; those of no split are left out.
        earlier: ``row_hashes`` bundles, one per period.

    Raises:
        DataError: Rows that cannot be read.
    """
    num_rows, num_found = dict.fromkeys(SPLITS, 0), dict.fromkeys(SPLITS, 0)
    num_repeated, example = 0, ""
    for partition, block, hashes in _hashed(source):
        split = block.split
        distinct, inverse = np.unique(hashes[split != NO_SPLIT], return_inverse=True)
        num_repeated += len(inverse) - len(distinct)
        known = np.zeros(len(distinct), dtype=bool)
        for bundle in earlier:
            known |= _contains(bundle, distinct)
        found = np.zeros(len(hashes), dtype=bool)
        found[split != NO_SPLIT] = known[inverse]
        for code, name in enumerate(SPLITS):
            num_rows[name] += int((split == code).sum())
            num_found[name] += int(found[split == code].sum())
        if not example and found.any():
            row = block.first_row - partition.first_row + int(found.argmax())
            example = source.rows.row_name(partition, row)
    return Overlap(num_rows, num_found, num_repeated, example)


def _hashed(source: Source) -> Iterator[tuple[Partition, Block, NDArray[np.uint64]]]:
    """Every block, where it is from, and the hashes (N,) of its rows."""
    for partition in source.partitions():
        for block in source.read(partition):
            yield partition, block, hash_rows(block)


def _contains(bundle: Bundle, hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """(N,) whether each of the sorted hashes is in a bundle."""
    found = np.zeros(len(hashes), dtype=bool)
    start = 0
    for bucket, part in _by_bucket(hashes, int(bundle.extra["bits"])):
        # Mapped anew each time: a mapping that stays open keeps every page it touched resident.
        known = np.load(bundle.file(_file(bucket)), mmap_mode="r", allow_pickle=False)
        if len(known):
            places = np.minimum(np.searchsorted(known, part), len(known) - 1)
            found[start : start + len(part)] = known[places] == part
        start += len(part)
    return found


def _by_bucket(hashes: NDArray[np.uint64], bits: int) -> Iterator[tuple[int, NDArray[np.uint64]]]:
    """Sorted hashes cut by their first bits."""
    if not bits:
        yield 0, hashes
        return
    firsts = (hashes >> np.uint64(64 - bits)).astype(np.int64)
    bounds = np.searchsorted(firsts, np.arange((1 << bits) + 1))
    for bucket in range(1 << bits):
        yield bucket, hashes[bounds[bucket] : bounds[bucket + 1]]


def _file(bucket: int) -> str:
    return f"hashes-{bucket:03d}.npy"
