"""Small tables for the tests of readers, and how they are read."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mec.config import DataConfig
from mec.data.readers import Block, Source, open_source
from mec.errors import DataError

N = 3000


def rows(num_rows: int = N) -> dict[str, Any]:
    random = np.random.default_rng(0)
    return {
        "user": pa.array(random.integers(0, 50, num_rows), pa.int32()),
        "city": pa.array([None if i % 7 == 0 else f"c{i % 5}" for i in range(num_rows)], pa.large_string()),
        "price": pa.array([None if i % 9 == 0 else i / 4 for i in range(num_rows)]),
        "label": pa.array(random.integers(0, 2, num_rows), pa.int8()),
    }


def write(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    pq.write_table(pa.table(columns), path, **options)
    return path


def config(path: Path | str, **settings: Any) -> DataConfig:
    return DataConfig.model_validate({"path": str(path), "categorical": ["user"], **settings})


def read(source: Source, columns: list[str] | None = None) -> list[Block]:
    return [block for partition in source.partitions() for block in source.read(partition, columns)]


def column(blocks: list[Block], name: str) -> list[Any]:
    return [value for block in blocks for value in block.columns[name].to_pylist()]


def one(path: Path, values: Any, **settings: Any) -> list[Any]:
    """Column x of a Parquet file, as read."""
    label = [i % 2 for i in range(len(values))]
    write(path / "x.parquet", {"x": values, "label": label})
    return column(read(open_source(config(path / "x.parquet", **settings), seed=0)), "x")


def failure(data: DataConfig) -> str:
    with pytest.raises(DataError) as caught:
        read(open_source(data, seed=0))
    assert caught.value.fix
    return str(caught.value)
