"""Small vocabulary, codebook and codes bundles, made by hand to the contract."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors.numpy import save_file

from mec.bundle import open_bundle, write_bundle
from mec.quantize import packing

NUM_CODES, BITS = 2, 6


@dataclass(frozen=True)
class Made:
    """Bundle directories, and the codes that are in them."""

    vocabulary: Path
    codebook: Path
    codes: Path
    expected: dict[str, NDArray[np.int64]]  # vocabulary -> (V, M)
    uuid: str  # of the codebook


Make = Callable[..., Made]


def make_vocabulary(path: Path, num_items: int) -> Path:
    """``item``: int64 with a null among its values; ``city``: string."""
    items = [None, *range(100, 100 + num_items - 2), None]
    cities = [None, "Łódź", "a=b", "x|y", "with space"]
    tables = {"item": pa.array(items, pa.int64()), "city": pa.array(cities, pa.string())}
    with write_bundle(path, "vocabulary") as draft:
        for name, values in tables.items():
            size = len(values)
            columns = {
                "id": pa.array(range(size), pa.uint32()),
                "value": values,
                "count": pa.array(range(size, 0, -1), pa.int64()),
                "first_generation": pa.array([0] * size, pa.int32()),
            }
            pq.write_table(pa.table(columns), draft.path / f"{name}.parquet")
        draft.extra |= {
            "vocabularies": {n: {"size": len(v), "type": str(v.type)} for n, v in tables.items()},
            "generation": 0,
            "rows": {"train": 10, "valid": 1, "test": 1},
            "numeric": {},
        }
    return path


def make_codebook(path: Path, seed: int = 0) -> Path:
    with write_bundle(path, "codebook") as draft:
        save_file({"item": np.full((NUM_CODES, 64, 3), seed, np.float32)}, draft.path / "codebook.safetensors")
    return path


def make_spans(made: Made, path: Path, *, head: int, tail: int) -> NDArray[np.float16]:
    """The codes of ``made`` again, but the first items have exact rows, (H, 3), and the last share the code of id 0."""
    bundle = open_bundle(made.codes)
    rows = np.random.default_rng(1).normal(size=(head, 3)).astype(np.float16)
    end = len(made.expected["item"]) - tail
    streams = made.expected | {"item": made.expected["item"][[0, *range(head + 1, end)]]}
    with write_bundle(path, "codes", parents=bundle.manifest.parents) as draft:
        save_file({n: packing.pack(c, BITS) for n, c in streams.items()}, draft.path / "codes.safetensors")
        save_file({"item": rows}, draft.path / "head.safetensors")
        draft.extra |= bundle.extra
        spans = {"item": bundle.extra["vocabularies"]["item"] | {"head": head, "coded": end - head}}
        draft.extra["vocabularies"] = bundle.extra["vocabularies"] | spans
    return rows


def make_codes(
    path: Path, vocabulary: Path, codebook: Path, *, seed: int, generation: int = 0
) -> dict[str, NDArray[np.int64]]:
    """All values coded: (V, M) codes of each vocabulary."""
    rng = np.random.default_rng(seed)
    vocabulary_bundle, codebook_bundle = open_bundle(vocabulary, "vocabulary"), open_bundle(codebook, "codebook")
    sizes = {n: v["size"] for n, v in vocabulary_bundle.extra["vocabularies"].items()}
    expected = {n: rng.integers(0, 1 << BITS, (size, NUM_CODES)) for n, size in sizes.items()}
    parents = {"codebook": codebook_bundle, "vocabulary": vocabulary_bundle}
    shape = {"num_codes": NUM_CODES, "bits_per_code": BITS}
    with write_bundle(path, "codes", parents=parents) as draft:
        save_file({n: packing.pack(c, BITS) for n, c in expected.items()}, draft.path / "codes.safetensors")
        save_file({}, draft.path / "head.safetensors")
        draft.extra |= {
            "codebook": codebook_bundle.uuid,
            "space": "00000000-0000-4000-8000-000000000000",
            "generation": generation,
            "parent_generation": generation - 1 if generation else None,
            "vocabularies": {n: shape | {"size": s, "head": 0, "coded": s} for n, s in sizes.items()},
        }
    return expected
