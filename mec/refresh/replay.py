"""The rows that a refresh trains on: the new ones, and old ones beside them so that what was learned is not lost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mec.bundle import Bundle, write_bundle
from mec.config import RefreshConfig
from mec.data.dataset import EncodedDataset
from mec.data.layout import FieldLayout
from mec.data.shards import DatasetWriter, shard_file
from mec.errors import DataError, SpaceError

_PIECE_ROWS = 65_536  # rows copied at a time


def write_training_rows(
    new: EncodedDataset, earlier: Sequence[EncodedDataset], refresh: RefreshConfig, seed: int, out: Path
) -> EncodedDataset:
    """Write a dataset bundle of the new rows and of old training rows.

    Old rows are drawn uniformly over all periods, whatever their values, and read by row number through memory maps:
    a sample costs its own size, not that of the history. A value that had no id when an old row was encoded stays
    unknown in it. The validation split is the new one, and there is no test split.

    Args:
        new: Of the new rows.
        earlier: Of earlier periods; encoded with earlier generations of the same vocabularies.
        refresh: ``replay`` other than none, ``replay_ratio`` and ``replay_min_rows``.
        seed: Of the draw.
        out: Directory of the bundle.

    Raises:
        DataError: No earlier datasets, or none with training rows.
        SpaceError: An earlier dataset has other fields or vocabularies.
    """
    for old in earlier:
        _require_extended(old, new.layout)
    available = sum(old.num_rows("train") for old in earlier)
    if not available:
        raise DataError(
            f"refresh.replay is {refresh.replay!r}, and there are no old training rows to replay",
            found=f"{len(earlier)} datasets of earlier periods",
            fix="pass the datasets of earlier periods, or set refresh.replay to none",
        )
    wanted = available
    if refresh.replay == "sample":
        wanted = max(round(refresh.replay_ratio * new.num_rows("train")), refresh.replay_min_rows)
        wanted = min(available, wanted)
    parents: dict[str, Bundle | str] = {"dataset": new.bundle}
    parents |= {f"earlier_{i}": old.bundle for i, old in enumerate(earlier)}
    settings = {"replay": refresh.replay, "rows": wanted, "seed": seed}
    with write_bundle(out, "dataset", parents=parents, config=settings) as draft:
        with DatasetWriter(draft.path, new.layout) as writer:
            for split in ("train", "valid"):
                for shard, num_rows in enumerate(new.bundle.extra["shards"][split]):
                    _append(writer, new, split, shard, np.arange(num_rows))
            for old, shard, rows in _drawn(earlier, wanted, seed):
                _append(writer, old, "train", shard, rows)
        draft.extra = writer.extra() | {"replayed": wanted}
    return EncodedDataset.open(out, verify=False)


def _drawn(
    earlier: Sequence[EncodedDataset], wanted: int, seed: int
) -> Iterator[tuple[EncodedDataset, int, NDArray[np.int64]]]:
    """Dataset, shard and rows (n,), rising, of a uniform draw without replacement over all training rows."""
    shards = [(old, i, int(n)) for old in earlier for i, n in enumerate(old.bundle.extra["shards"]["train"])]
    generator = np.random.default_rng([seed, 0x5265])
    numbers = generator.multivariate_hypergeometric([n for _, _, n in shards], wanted, method="marginals")
    for (old, shard, num_rows), number in zip(shards, numbers.tolist(), strict=True):
        yield old, shard, np.sort(generator.choice(num_rows, number, replace=False, shuffle=False))


def _append(writer: DatasetWriter, data: EncodedDataset, split: str, shard: int, rows: NDArray[np.int64]) -> None:
    names = ["ids", "label", *(["numerics"] if data.layout.linear_fields else [])]
    for start in range(0, len(rows), _PIECE_ROWS):
        part = rows[start : start + _PIECE_ROWS]
        files = {name: data.bundle.file(shard_file(split, name, shard)) for name in names}
        found = {name: np.load(file, mmap_mode="r", allow_pickle=False)[part] for name, file in files.items()}
        writer.append(split, found["ids"], found["label"], numerics=found.get("numerics"))


def _require_extended(old: EncodedDataset, layout: FieldLayout) -> None:
    sizes = dict(layout.vocabularies)
    fits = old.layout.fields == layout.fields and all(
        size <= sizes.get(name, 0) for name, size in old.layout.vocabularies
    )
    if not fits:
        raise SpaceError(
            f"the rows of {old.bundle.path} were not encoded with an earlier generation of the same vocabularies",
            found=dict(old.layout.vocabularies),
            fix=f"pass datasets of the same fields, whose vocabularies are at most {sizes}",
        )
