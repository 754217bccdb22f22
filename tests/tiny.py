"""A small planted data set as bundles, for tests of everything after encoding."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mec.bundle import write_bundle
from mec.data.layout import FieldLayout, FieldSlots
from mec.data.shards import DatasetWriter

SIZES = {"user": 301, "item": 201, "colour": 5}
LAYOUT = FieldLayout(
    fields=(
        FieldSlots("user", "categorical", "user", 0, 1, "none"),
        FieldSlots("item", "categorical", "item", 1, 1, "none"),
        FieldSlots("colour", "categorical", "colour", 2, 1, "none"),
        FieldSlots("last_item", "categorical", "item", 3, 1, "none"),
    ),
    vocabularies=tuple(SIZES.items()),
)


@dataclass(frozen=True)
class Tiny:
    """Directories of the vocabulary and dataset bundles."""

    vocabulary: Path
    dataset: Path


def make_tiny(root: Path, *, num_rows: int = 6000, seed: int = 0) -> Tiny:
    """Rows whose label follows a planted factorization machine; ids run from 1, 0 is never seen."""
    rng = np.random.default_rng(seed)
    ids = np.stack([1 + rng.integers(0, SIZES[f.vocabulary] - 1, num_rows) for f in LAYOUT.fields], axis=1)
    factors = {name: rng.normal(0, 1, (size, 4)) for name, size in SIZES.items()}
    vectors = [factors[f.vocabulary][ids[:, i]] for i, f in enumerate(LAYOUT.fields)]
    logits = sum((vectors[i] * vectors[j]).sum(axis=1) for i in range(4) for j in range(i))
    label = (rng.random(num_rows) < 1 / (1 + np.exp(-logits))).astype(np.uint8)
    split = np.array_split(np.arange(num_rows), [num_rows * 8 // 10, num_rows * 9 // 10])
    vocabulary = root / "vocabulary"
    with write_bundle(vocabulary, "vocabulary", data_version=f"tiny-{seed}-{num_rows}") as draft:
        for name, size in SIZES.items():
            counts = np.zeros(size, dtype=np.int64)
            for i, field in enumerate(LAYOUT.fields):
                if field.vocabulary == name:
                    counts += np.bincount(ids[split[0], i], minlength=size)
            values = pa.array([None, *range(1, size)], pa.int64())
            generation = pa.array(np.zeros(size, dtype=np.int32))
            table = {
                "id": pa.array(np.arange(size, dtype=np.uint32)),
                "value": values,
                "count": counts,
                "first_generation": generation,
            }
            pq.write_table(pa.table(table), draft.path / f"{name}.parquet")
        draft.extra = {
            "vocabularies": {n: {"size": s, "type": "int64"} for n, s in SIZES.items()},
            "generation": 0,
            "rows": {"train": len(split[0]), "valid": len(split[1]), "test": len(split[2])},
            "numeric": {},
        }
    dataset = root / "dataset"
    with write_bundle(dataset, "dataset", data_version=f"tiny-{seed}-{num_rows}") as draft:
        with DatasetWriter(draft.path, LAYOUT) as writer:
            for name, rows in zip(("train", "valid", "test"), split, strict=True):
                writer.append(name, ids[rows].astype(np.uint32), label[rows])
        draft.extra = writer.extra()
    return Tiny(vocabulary, dataset)
