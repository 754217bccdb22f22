"""Encoded rows as batches: memory-mapped ``.npy`` shards, shuffled in a bounded buffer.

Reading a batch costs the batch: shards are mapped piece by piece and let go again, so resident
memory is bounded by ``shuffle_rows`` however large the split is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mec.bundle import Bundle, open_bundle
from mec.data.folds import Folds
from mec.data.layout import OOV_ID, PAD_ID, FieldLayout
from mec.data.shards import SPLITS, shard_file

_PIECE_ROWS = 65_536  # rows mapped at a time
_PIECES_PER_BUFFER = 64  # so that a shuffle buffer mixes rows from all over the split


@dataclass(frozen=True)
class Batch:
    """Rows ready for a model.

    ids: int32 (B, S), empty slots replaced by id 0 (their weight is 0).
    weights: float32 (B, S), what each slot's vector is multiplied by before pooling; None where the layout is plain.
    label: float32 (B,), 0 or 1.
    fold: uint8 (B,), each training row's fold; None where the dataset was opened without folds, and in other splits.
    """

    ids: NDArray[np.int32]
    weights: NDArray[np.float32] | None
    label: NDArray[np.float32]
    fold: NDArray[np.uint8] | None = None

    @property
    def num_rows(self) -> int:
        return len(self.label)


@dataclass(frozen=True)
class _Piece:
    """Consecutive rows of one shard."""

    shard: int
    start: int
    stop: int


_Rows = dict[str, NDArray[Any]]  # array name -> the same rows of each array


class EncodedDataset:
    """A dataset bundle, opened for reading."""

    def __init__(self, bundle: Bundle, folds: Folds | None = None, left_out: int | None = None) -> None:
        self.bundle = bundle
        self.layout = FieldLayout.from_json(bundle.extra["layout"])
        self._shards: dict[str, list[int]] = {s: [int(n) for n in bundle.extra["shards"][s]] for s in SPLITS}
        self._folds, self._left_out = folds, left_out
        self._num_left_out = self._count_left_out()

    @classmethod
    def open(cls, path: Path | str, *, verify: bool = True) -> EncodedDataset:
        """Open a dataset bundle.

        Args:
            path: Directory of the bundle.
            verify: Hash every shard; False compares sizes only.

        Raises:
            BundleError: No such bundle, or a shard is missing or corrupt (it is named).
        """
        return cls(open_bundle(path, "dataset", verify=verify))

    def with_folds(self, folds: Folds) -> EncodedDataset:
        """The same rows, each training row with its fold."""
        return EncodedDataset(self.bundle, folds)

    def without_fold(self, folds: Folds, left_out: int) -> EncodedDataset:
        """The same rows without the training rows of one fold; the other splits are whole."""
        return EncodedDataset(self.bundle, folds, left_out)

    def num_rows(self, split: str) -> int:
        """Rows of one split."""
        return sum(self._shards[split]) - (self._num_left_out if split == "train" else 0)

    def batches(
        self, split: str, batch_size: int, *, seed: int | None = None, epoch: int = 0, shuffle_rows: int = 2_000_000
    ) -> Iterator[Batch]:
        """Every row of a split once, in batches of ``batch_size`` rows; the last may be smaller.

        Shuffled, pieces of shards are drawn in random order into a buffer, which is permuted; order depends on
        ``seed``, ``epoch`` and ``shuffle_rows`` only.

        Args:
            split: train, valid or test.
            batch_size: B, rows.
            seed: Of the shuffle; None keeps file order.
            epoch: Which pass over the data; each has its own order.
            shuffle_rows: Rows held in memory for shuffling; no effect in file order.
        """
        generator = None if seed is None else np.random.default_rng([seed, epoch])
        buffer_rows = _PIECE_ROWS if generator is None else shuffle_rows
        rows = self._allocate(split, min(buffer_rows + batch_size, sum(self._shards[split])))
        filled = 0
        for pieces in self._buffers(split, generator, shuffle_rows):
            for piece in pieces:
                filled += self._read_into(rows, filled, split, piece)
            order = None if generator is None else generator.permutation(filled)
            num_full = filled // batch_size * batch_size
            for start in range(0, num_full, batch_size):
                yield self._batch(_select(rows, order, start, start + batch_size))
            rest = _select(rows, order, num_full, filled)
            filled -= num_full
            for name, array in rest.items():
                rows[name][:filled] = array
        if filled:
            yield self._batch(_select(rows, None, 0, filled))

    def _count_left_out(self) -> int:
        if self._folds is None or self._left_out is None:
            return 0
        num_rows = sum(self._shards["train"])
        parts = range(0, num_rows, _PIECE_ROWS)
        folds = (self._folds.of_rows(start, min(start + _PIECE_ROWS, num_rows)) for start in parts)
        return sum(int((part == self._left_out).sum()) for part in folds)

    def _allocate(self, split: str, num_rows: int) -> _Rows:
        rows: _Rows = {
            "ids": np.empty((num_rows, self.layout.num_slots), dtype=np.uint32),
            "label": np.empty(num_rows, dtype=np.uint8),
        }
        if self.layout.linear_fields:
            rows["numerics"] = np.empty((num_rows, len(self.layout.linear_fields)), dtype=np.float32)
        if self._folds is not None and self._left_out is None and split == "train":
            rows["fold"] = np.empty(num_rows, dtype=np.uint8)
        return rows

    def _buffers(self, split: str, generator: np.random.Generator | None, shuffle_rows: int) -> Iterator[list[_Piece]]:
        """Pieces grouped into buffers of at most ``shuffle_rows`` rows; one piece each in file order."""
        piece_rows = _PIECE_ROWS
        if generator is not None:
            piece_rows = max(1, min(_PIECE_ROWS, shuffle_rows // _PIECES_PER_BUFFER))
        pieces = [
            _Piece(shard, start, min(start + piece_rows, num_rows))
            for shard, num_rows in enumerate(self._shards[split])
            for start in range(0, num_rows, piece_rows)
        ]
        if generator is None:
            yield from ([piece] for piece in pieces)
            return
        buffer: list[_Piece] = []
        buffered = 0
        for index in generator.permutation(len(pieces)):
            piece = pieces[index]
            if buffer and buffered + piece.stop - piece.start > shuffle_rows:
                yield buffer
                buffer, buffered = [], 0
            buffer.append(piece)
            buffered += piece.stop - piece.start
        if buffer:
            yield buffer

    def _read_into(self, rows: _Rows, first: int, split: str, piece: _Piece) -> int:
        """Copy a piece's rows, those of the fold left out excepted; how many they are."""
        folds, num_kept = self._piece_folds(split, piece), piece.stop - piece.start
        kept: NDArray[np.bool_] | None = None
        if folds is not None and self._left_out is not None:
            kept = folds != self._left_out
            num_kept = int(kept.sum())
        for name, array in rows.items():
            if name == "fold":
                array[first : first + num_kept] = folds
                continue
            file = self.bundle.file(shard_file(split, name, piece.shard))
            # Mapped anew for each piece: a mapping that stays open keeps every page it touched resident.
            mapped = np.load(file, mmap_mode="r", allow_pickle=False)
            found = mapped[piece.start : piece.stop]
            array[first : first + num_kept] = found if kept is None else found[kept]
        return num_kept

    def _piece_folds(self, split: str, piece: _Piece) -> NDArray[np.uint8] | None:
        if self._folds is None or split != "train":
            return None
        before = sum(self._shards[split][: piece.shard])
        return self._folds.of_rows(before + piece.start, before + piece.stop)

    def _batch(self, rows: _Rows) -> Batch:
        raw = rows["ids"]  # (B, S) uint32
        label, fold = rows["label"].astype(np.float32), rows.get("fold")
        if self.layout.is_plain:
            return Batch(raw.view(np.int32), None, label, fold)
        filled = raw != PAD_ID
        weights = self.layout.slot_weights(filled, list(rows["numerics"].T) if "numerics" in rows else [])
        ids = np.where(filled, raw, np.uint32(OOV_ID)).view(np.int32)
        return Batch(ids, weights, label, fold)


def _select(rows: _Rows, order: NDArray[np.int64] | None, start: int, stop: int) -> _Rows:
    """Copies of rows: the buffer they come from is filled again."""
    if order is None:
        return {name: array[start:stop].copy() for name, array in rows.items()}
    return {name: array[order[start:stop]] for name, array in rows.items()}
