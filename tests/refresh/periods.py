"""Small periods of data as Parquet files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mec.config import DataConfig
from mec.data.readers import Source, open_source

FIELDS: Mapping[str, Any] = {"categorical": ["user", "city"], "sequence": ["seen"]}
BY_COLUMN = {"kind": "column"}


def make_rows(num_rows: int, seed: int, *, day: int = 0) -> dict[str, list[Any]]:
    """Rows of small ranges, so that some of them are equal; every third is for validation or test."""
    rng = np.random.default_rng(seed)
    return {
        "user": rng.integers(0, 30, num_rows).tolist(),
        "city": [None if c == 3 else "abc"[: int(c) + 1] for c in rng.integers(0, 4, num_rows)],
        "seen": [rng.integers(0, 3, int(n)).tolist() for n in rng.integers(0, 3, num_rows)],
        "label": rng.integers(0, 2, num_rows).tolist(),
        "split": [("train", "train", "valid", "train", "test")[i % 5] for i in range(num_rows)],
        "day": [day] * num_rows,
    }


def write_rows(path: Path, rows: Mapping[str, list[Any]], *, row_group_size: int = 100) -> Path:
    """Write rows as one Parquet file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kinds = {"seen": pa.list_(pa.int64()), "city": pa.string()}
    table = pa.table({name: pa.array(column, kinds.get(name)) for name, column in rows.items()})
    pq.write_table(table, path, row_group_size=row_group_size)
    return path


def open_rows(path: Path, **settings: Any) -> Source:
    """Open files written by ``write_rows``."""
    config = {"path": str(path), "split": BY_COLUMN, "block_rows": 1024, **FIELDS, **settings}
    return open_source(DataConfig.model_validate(config), seed=0)


def row_tuples(rows: Mapping[str, list[Any]]) -> list[tuple[Any, ...]]:
    """What makes rows equal, as Python values, without the split."""
    columns = (rows["user"], rows["city"], [tuple(s) for s in rows["seen"]], rows["label"])
    return list(zip(*columns, strict=True))
