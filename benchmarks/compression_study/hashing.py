"""Hashed vocabularies: the same rows with every large vocabulary's ids mixed into fewer."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mec.bundle import open_bundle, write_bundle
from mec.data.dataset import EncodedDataset
from mec.data.layout import OOV_ID, PAD_ID, FieldLayout
from mec.data.shards import SPLITS, DatasetWriter, shard_file
from mec.data.splits import splitmix64
from mec.data.vocabulary import Vocabularies


def buckets(vocabulary: str, size: int, num_rows: int) -> NDArray[np.uint32]:
    """Row of every id: 0 stays, the others are hashed uniformly to 1..num_rows - 1 (Weinberger et al., ICML 2009).

    Args:
        vocabulary: Its name salts the hash.
        size: V.
        num_rows: Rows of the hashed table, two at least.

    Returns:
        (V,) uint32.
    """
    salt = np.frombuffer(hashlib.sha256(vocabulary.encode()).digest()[:8], dtype=np.uint64)
    mixed = splitmix64(np.arange(size, dtype=np.uint64) ^ splitmix64(salt))
    rows = (1 + mixed % np.uint64(num_rows - 1)).astype(np.uint32)
    rows[OOV_ID] = OOV_ID
    return rows


def write_hashed(dataset: Path, vocabulary: Path, rows: Mapping[str, int], out: Path) -> None:
    """Write ``out/vocabulary`` and ``out/dataset``, remapped; rows keep their order and splits.

    Args:
        dataset: Bundle of encoded rows.
        vocabulary: Bundle that they were encoded with.
        rows: Vocabulary -> rows of its hashed table; others stay as they are.
        out: Directory of the two bundles; the dataset is written last.
    """
    data, vocabularies = EncodedDataset.open(dataset), Vocabularies.open(vocabulary)
    places = {name: buckets(name, data.layout.size(name), num) for name, num in rows.items()}
    config = {"hashed": dict(rows)}
    with write_bundle(
        out / "vocabulary", "vocabulary", parents={"vocabulary": vocabularies.bundle}, config=config
    ) as draft:
        facts = {name: dict(fact) for name, fact in vocabularies.bundle.extra["vocabularies"].items()}
        for name in facts:
            table = pq.read_table(vocabularies.bundle.file(f"{name}.parquet"))
            if name in rows:
                table = _hashed_table(vocabularies.counts(name), places[name], rows[name])
                facts[name] = {"size": rows[name], "type": "int64"}
            pq.write_table(table, draft.path / f"{name}.parquet")
        draft.extra = {**vocabularies.bundle.extra, "vocabularies": facts}
    hashed = open_bundle(out / "vocabulary", "vocabulary")
    with write_bundle(
        out / "dataset", "dataset", parents={"dataset": data.bundle, "vocabulary": hashed}, config=config
    ) as draft:
        layout = replace(data.layout, vocabularies=tuple((n, rows.get(n, v)) for n, v in data.layout.vocabularies))
        with DatasetWriter(draft.path, layout, with_time=False) as writer:
            for split in SPLITS:
                _copy_split(data, split, places, writer)
        draft.extra = writer.extra()


def _hashed_table(counts: NDArray[np.int64], places: NDArray[np.uint32], num_rows: int) -> pa.Table:
    """Columns of a vocabulary whose values are the buckets; a bucket's count is that of its values together."""
    values = pa.array(np.arange(num_rows, dtype=np.int64), mask=np.arange(num_rows) == OOV_ID)
    summed = np.bincount(places, weights=counts, minlength=num_rows).astype(np.int64)
    ids, generation = np.arange(num_rows, dtype=np.uint32), np.zeros(num_rows, dtype=np.int32)
    return pa.table({"id": ids, "value": values, "count": summed, "first_generation": generation})


def _copy_split(
    data: EncodedDataset, split: str, places: Mapping[str, NDArray[np.uint32]], writer: DatasetWriter
) -> None:
    for shard in range(len(data.bundle.extra["shards"][split])):
        arrays = {
            name: np.load(data.bundle.file(shard_file(split, name, shard)), mmap_mode="r", allow_pickle=False)
            for name in ("ids", "label", *(["numerics"] if data.layout.linear_fields else []))
        }
        ids = np.array(arrays["ids"])
        _remap(ids, data.layout, places)
        writer.append(split, ids, np.array(arrays["label"]), numerics=arrays.get("numerics"))


def _remap(ids: NDArray[np.uint32], layout: FieldLayout, places: Mapping[str, NDArray[np.uint32]]) -> None:
    for field in layout.fields:
        if field.vocabulary in places:
            for slot in range(field.first_slot, field.first_slot + field.num_slots):
                filled = ids[:, slot] != PAD_ID
                ids[filled, slot] = places[field.vocabulary][ids[filled, slot]]
