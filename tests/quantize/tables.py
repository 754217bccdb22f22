"""Hand-made tables, and vocabulary and pretrained bundles of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file

from mec.bundle import write_bundle
from mec.data.layout import FieldLayout, FieldSlots
from mec.quantize.allocation import TableToPlace
from mec.quantize.weights import popularity_weights

SPACE = "11111111-1111-4111-8111-111111111111"


@dataclass(frozen=True)
class Made:
    """Bundle directories, and what is in them."""

    vocabulary: Path
    pretrained: Path
    tables: Mapping[str, NDArray[np.float32]]
    counts: Mapping[str, NDArray[np.int64]]


def zipf_counts(size: int) -> NDArray[np.int64]:
    """Counts by id; id 0, out of vocabulary, is never seen."""
    counts = np.maximum(1, 50_000 / np.arange(1, size + 1)).astype(np.int64)
    counts[0] = 0
    return counts


def clustered(size: int, width: int, *, seed: int = 0, num_clusters: int = 40) -> NDArray[np.float32]:
    """(V, W) rows around cluster centers."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(0, 1, (num_clusters, width))
    return (centers[rng.integers(0, num_clusters, size)] + rng.normal(0, 0.3, (size, width))).astype(np.float32)


def shrunk(size: int, *, width: int = 5, seed: int = 0) -> NDArray[np.float32]:
    """(V, W) rows of popular values far apart, those of rare ones near 0, as regularised training leaves them."""
    counts = zipf_counts(size)[:, None]
    return (clustered(size, width, seed=seed) * counts / (counts + 20)).astype(np.float32)


def place(name: str, rows: NDArray[np.float32], counts: NDArray[np.int64] | None = None) -> TableToPlace:
    """A vocabulary for a budget, under sqrt weights; Zipf counts where none are given."""
    counts = zipf_counts(len(rows)) if counts is None else counts
    weights = torch.from_numpy(popularity_weights(counts, "sqrt"))
    return TableToPlace(name, len(rows), lambda: torch.from_numpy(rows), weights, counts)


def make_bundles(
    root: Path, tables: Mapping[str, NDArray[np.float32]], counts: Mapping[str, NDArray[np.int64]] | None = None
) -> Made:
    """Write the two bundles that the quantize step reads; one categorical field per vocabulary."""
    counts = counts or {name: zipf_counts(len(rows)) for name, rows in tables.items()}
    sizes = {name: len(rows) for name, rows in tables.items()}
    fields = tuple(FieldSlots(name, "categorical", name, i, 1, "none") for i, name in enumerate(sizes))
    layout = FieldLayout(fields, tuple(sizes.items()))
    vocabulary, pretrained = root / "vocabulary", root / "pretrained"
    with write_bundle(vocabulary, "vocabulary", data_version="made") as draft:
        for name, counted in counts.items():
            size = len(counted)
            columns = {
                "id": pa.array(range(size), pa.uint32()),
                "value": pa.array([None, *range(1, size)], pa.int64()),
                "count": pa.array(counted, pa.int64()),
                "first_generation": pa.array(np.zeros(size), pa.int32()),
            }
            pq.write_table(pa.table(columns), draft.path / f"{name}.parquet")
        draft.extra = {
            "vocabularies": {name: {"size": len(c), "type": "int64"} for name, c in counts.items()},
            "generation": 0,
            "rows": {"train": 10, "valid": 1, "test": 1},
            "numeric": {},
        }
    with write_bundle(pretrained, "pretrained", parents={"vocabulary": "v"}, data_version="made") as draft:
        save_file(dict(tables), draft.path / "tables.safetensors")
        save_file({"bias": np.zeros(1, np.float32)}, draft.path / "bias.safetensors")
        width = next(iter(tables.values())).shape[1]
        draft.extra = {"space": SPACE, "embedding_dim": width - 1, "model": "fm", "layout": layout.to_json()}
        draft.extra["folds"] = {"num": 0, "seed": 0, "fits": []}
    return Made(vocabulary, pretrained, tables, counts)
