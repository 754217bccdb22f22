"""Rows with a known answer: Zipf values, planted latent factors, values that appear and drift over periods.

The logit of a row is that of a factorization machine, first-order weights and products of pairs,
scaled to a standard deviation of ``signal``; labels are drawn from it, so the AUC of the true
probabilities (``bayes_auc``) is the best any model can reach.

Nothing is kept per value: birth period, drift and factors are hashes of (seed, field, value), and
values come from the inverse of a continuous Zipf law, so a field of five million values costs no
more memory than one of five. Rows are made in blocks of 65,536, each from its own seed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mec.bundle import json_hash
from mec.config import SyntheticConfig
from mec.data.blocks import Partition
from mec.data.parquet_reader import missing_column
from mec.data.splits import splitmix64, uniform
from mec.errors import DataError

BLOCK_ROWS = 65_536
_PARTITION_ROWS = 4 * BLOCK_ROWS
_PAIR_SHARE = 0.7  # of the logit's variance; the rest is first-order
_BIRTH, _DRIFT, _FACTOR = 1, 2, 3


@dataclass(frozen=True)
class SyntheticBlock:
    """Rows made together. F fields, N rows."""

    values: NDArray[np.int64]  # (F, N) in 0..size-1, by popularity
    period: NDArray[np.int32]  # (N,)
    probability: NDArray[np.float64]  # (N,) true probability of label 1
    label: NDArray[np.int8]  # (N,)


class SyntheticRows:
    """The generator as a source of rows: columns f0, f1, ..., label, period."""

    is_untyped = False

    def __init__(self, config: SyntheticConfig, seed: int) -> None:
        _check(config)
        self._config = config
        self._seed = seed
        self._columns = (*field_names(config), "label", "period")
        self.version = json_hash({"synthetic": config.model_dump(mode="json"), "seed": seed})
        self.num_rows_hint = config.num_rows

    def column_names(self) -> tuple[str, ...]:
        return self._columns

    def column_types(self, name: str) -> tuple[pa.DataType, ...]:
        if name not in self._columns:
            raise missing_column("synthetic rows", name, self._columns)
        return (schema(self._config).field(name).type,)

    def partitions(self) -> list[Partition]:
        ends = [*range(_PARTITION_ROWS, self._config.num_rows, _PARTITION_ROWS), self._config.num_rows]
        begins = [0, *ends[:-1]]
        return [Partition(i, "", b, e, b, e - b) for i, (b, e) in enumerate(zip(begins, ends, strict=True))]

    def read(self, partition: Partition, columns: Sequence[str], block_rows: int) -> Iterator[pa.RecordBatch]:
        for begin in range(partition.begin, partition.end, BLOCK_ROWS):
            block = generate_block(self._config, self._seed, begin // BLOCK_ROWS)
            batch = _record_batch(self._config, block).select(list(columns))
            for first in range(0, batch.num_rows, block_rows):
                yield batch.slice(first, block_rows)

    def row_name(self, partition: Partition, row: int) -> str:
        return f"synthetic row {partition.first_row + row}"


def field_names(config: SyntheticConfig) -> tuple[str, ...]:
    """f0, f1, ... one per entry of ``field_sizes``."""
    return tuple(f"f{i}" for i in range(len(config.field_sizes)))


def schema(config: SyntheticConfig) -> pa.Schema:
    """Columns of the synthetic rows."""
    fields = [pa.field(name, pa.int64()) for name in field_names(config)]
    return pa.schema([*fields, pa.field("label", pa.int8()), pa.field("period", pa.int32())])


def generate_block(config: SyntheticConfig, seed: int, index: int) -> SyntheticBlock:
    """Make rows ``index * 65,536`` to the next block's first, fewer at the end; a function of its arguments alone."""
    begin = index * BLOCK_ROWS
    rows = np.arange(begin, min(begin + BLOCK_ROWS, config.num_rows), dtype=np.int64)
    period = (rows * config.num_periods // config.num_rows).astype(np.int32)
    random = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, 1, index])))
    values = _draw_values(config, seed, period, random)
    center, scale, bias = _calibration(config, seed)
    logit = (_score(config, seed, values, period) - center) * scale + bias
    probability = 1.0 / (1.0 + np.exp(-logit))
    label = (random.random(len(rows)) < probability).astype(np.int8)
    return SyntheticBlock(values, period, probability, label)


def bayes_auc(config: SyntheticConfig, seed: int, *, max_rows: int = 1_000_000) -> float:
    """Expected AUC of the true probabilities, which no model can beat.

    Args:
        config: The generator's settings.
        seed: Its seed.
        max_rows: Rows used, spread evenly over all blocks.
    """
    num_blocks = -(-config.num_rows // BLOCK_ROWS)
    step = -(-num_blocks * BLOCK_ROWS // max_rows)
    blocks = [generate_block(config, seed, i).probability for i in range(0, num_blocks, step)]
    p = np.sort(np.concatenate(blocks))
    negatives_below = np.cumsum(1.0 - p) - (1.0 - p)
    pairs = p.sum() * (1.0 - p).sum() - (p * (1.0 - p)).sum()
    return float((p * negatives_below).sum() / pairs)


def write_synthetic(config: SyntheticConfig, seed: int, path: Path, *, rows_per_group: int = 262_144) -> None:
    """Stream the rows to one Parquet file (zstd), a row group at a time.

    Args:
        config: The generator's settings.
        seed: Its seed.
        path: File to write; appears only when complete.
        rows_per_group: Rows of a row group, rounded up to whole blocks of 65,536.
    """
    _check(config)
    num_blocks = -(-config.num_rows // BLOCK_ROWS)
    blocks_per_group = -(-rows_per_group // BLOCK_ROWS)
    temporary = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"mec.synthetic": json.dumps({"seed": seed, **config.model_dump(mode="json")})}
    try:
        with pq.ParquetWriter(temporary, schema(config).with_metadata(about), compression="zstd") as writer:
            for first in range(0, num_blocks, blocks_per_group):
                indices = range(first, min(first + blocks_per_group, num_blocks))
                batches = [_record_batch(config, generate_block(config, seed, i)) for i in indices]
                table = pa.Table.from_batches(batches).combine_chunks()
                writer.write_table(table, row_group_size=table.num_rows)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _check(config: SyntheticConfig) -> None:
    born_later = config.new_values * (config.num_periods - 1)
    if born_later > 0.9:
        raise DataError(
            "data.synthetic: more than 0.9 of all values would be new in later periods",
            found=f"new_values {config.new_values} x {config.num_periods - 1} later periods",
            fix="lower data.synthetic.new_values or num_periods",
        )
    if not config.field_sizes or min(config.field_sizes) < 2:
        raise DataError(
            "data.synthetic.field_sizes needs fields of two values or more", found=config.field_sizes, fix="raise them"
        )


def _record_batch(config: SyntheticConfig, block: SyntheticBlock) -> pa.RecordBatch:
    arrays = [pa.array(v) for v in block.values]
    return pa.record_batch([*arrays, pa.array(block.label), pa.array(block.period)], schema=schema(config))


def _draw_values(
    config: SyntheticConfig, seed: int, period: NDArray[np.int32], random: np.random.Generator
) -> NDArray[np.int64]:
    values = np.empty((len(config.field_sizes), len(period)), dtype=np.int64)
    for field, size in enumerate(config.field_sizes):
        drawn = _zipf(random.random(len(period)), size, config.zipf_exponent)
        unborn = np.flatnonzero(_birth(config, seed, field, drawn) > period)
        while len(unborn):
            drawn[unborn] = _zipf(random.random(len(unborn)), size, config.zipf_exponent)
            unborn = unborn[_birth(config, seed, field, drawn[unborn]) > period[unborn]]
        values[field] = drawn
    return values


def _zipf(u: NDArray[np.float64], size: int, exponent: float) -> NDArray[np.int64]:
    """Inverse of the law with density x^-exponent on [1/2, size + 1/2], rounded: rank r is about r^-exponent."""
    low, high = 0.5, size + 0.5
    power = 1.0 - exponent
    if abs(power) < 1e-9:
        x = low * (high / low) ** u
    else:
        x = (low**power + u * (high**power - low**power)) ** (1.0 / power)
    return np.clip(np.rint(x).astype(np.int64) - 1, 0, size - 1)


def _birth(config: SyntheticConfig, seed: int, field: int, values: NDArray[np.int64]) -> NDArray[np.int32]:
    """(N,) period in which each value is first seen; the most popular is always there."""
    if config.num_periods == 1:
        return np.zeros(len(values), dtype=np.int32)
    later = _hash_uniform(seed, _BIRTH, field, 0, values) / max(config.new_values, 1e-300)
    born = np.where(later < config.num_periods - 1, np.floor(np.minimum(later, 2**30)) + 1, 0).astype(np.int32)
    born[values == 0] = 0
    return born


def _last_drift(
    config: SyntheticConfig, seed: int, field: int, values: NDArray[np.int64], period: NDArray[np.int32]
) -> NDArray[np.int32]:
    """(N,) latest period up to the row's own in which the value's factors were drawn anew, 0 if never."""
    last = np.zeros(len(values), dtype=np.int32)
    for later in range(1, config.num_periods):
        drifts = _hash_uniform(seed, _DRIFT, field, later, values) < config.drifted_values
        last[drifts & (period >= later)] = later
    return last


def _score(
    config: SyntheticConfig, seed: int, values: NDArray[np.int64], period: NDArray[np.int32]
) -> NDArray[np.float64]:
    """(N,) first-order and pairwise score, before scaling; factors are uniform with variance 1."""
    num_fields, num_rows = values.shape
    total = np.zeros((config.num_factors, num_rows))
    squares = np.zeros(num_rows)
    first_order = np.zeros(num_rows)
    for field in range(num_fields):
        version = values[field] * config.num_periods + _last_drift(config, seed, field, values[field], period)
        first_order += _factor(seed, field, 0, version)
        for dimension in range(config.num_factors):
            factor = _factor(seed, field, dimension + 1, version)
            total[dimension] += factor
            squares += factor * factor
    pairs = ((total * total).sum(axis=0) - squares) / 2
    num_pairs = max(num_fields * (num_fields - 1) / 2, 1)
    pairs /= np.sqrt(num_pairs * config.num_factors)
    first_order /= np.sqrt(num_fields)
    score: NDArray[np.float64] = np.sqrt(_PAIR_SHARE) * pairs + np.sqrt(1 - _PAIR_SHARE) * first_order
    return score


def _factor(seed: int, field: int, dimension: int, version: NDArray[np.int64]) -> NDArray[np.float64]:
    return (2 * _hash_uniform(seed, _FACTOR, field, dimension, version) - 1) * 3**0.5


def _hash_uniform(seed: int, purpose: int, field: int, part: int, values: NDArray[np.int64]) -> NDArray[np.float64]:
    """(N,) numbers in [0, 1) that depend on nothing but the arguments."""
    key = np.array([seed], dtype=np.uint64)
    for word in (purpose, field, part):
        key = splitmix64(key ^ np.uint64(word + 1))
    return uniform(values.astype(np.uint64) ^ key, 0)


@lru_cache(maxsize=8)
def _calibration(config: SyntheticConfig, seed: int) -> tuple[float, float, float]:
    """Center and scale that give the logit its standard deviation, and the bias that gives the base rate.

    Found on rows of the first period that are in no block.
    """
    period = np.zeros(BLOCK_ROWS, dtype=np.int32)
    random = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, 2])))
    score = _score(config, seed, _draw_values(config, seed, period, random), period)
    center, scale = float(score.mean()), config.signal / float(score.std())
    logit = (score - center) * scale
    low, high = -50.0, 50.0
    for _ in range(60):
        middle = (low + high) / 2
        if np.mean(1.0 / (1.0 + np.exp(-(logit + middle)))) < config.base_rate:
            low = middle
        else:
            high = middle
    return center, scale, (low + high) / 2
