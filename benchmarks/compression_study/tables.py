"""The four tables, and what is tried on each: byte ratios, codings, dimensions, and the points of the searches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mec.config import RunConfig, apply_override, load_config, parse_config

CONFIGS = Path(__file__).parents[2] / "configs"
TABLES = ("yelp_next", "beauty_next", "ml1m", "synthetic")

Shape = tuple[int, int]  # M codes, K codewords


@dataclass(frozen=True)
class Study:
    """One table and all that is compared on it.

    Attributes:
        config: Of the table; its FM and backbone settings hold for every method.
        ratios: Byte ratios asked of our budget.
        warm_ratios: Byte ratios of our budget with codewords that the backbone's training moves.
        hashing_ratios: Byte ratios of hashed tables.
        residual: M x K of explicit residual codings.
        product: M x K of plain product quantization.
        ablation: M x K of the product codings that differ in one term only.
        small_dims: D of the small full tables.
        dropouts: Points of the reference's search.
        reference_l2: Points of the reference's search, crossed with ``dropouts``.
        random_l2: Points of the reference's search that start from random rows, at the config's own dropout.
        baseline_l2: Points of the search of small D and hashing that start from their own FM, at the config's dropout.
        baseline_random_l2: The same from random rows.
    """

    name: str
    config: RunConfig
    ratios: tuple[float, ...]
    warm_ratios: tuple[float, ...]
    hashing_ratios: tuple[float, ...]
    residual: tuple[Shape, ...]
    product: tuple[Shape, ...]
    ablation: Shape
    small_dims: tuple[int, ...]
    dropouts: tuple[float, ...] = (0.1, 0.3, 0.5)
    reference_l2: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1)
    random_l2: tuple[float, ...] = (0.01, 0.03)
    baseline_l2: tuple[float, ...] = (0.01, 0.03)
    baseline_random_l2: tuple[float, ...] = (0.0, 0.001, 0.01)


def find_study(table: str, *, tiny: bool, overrides: Sequence[str] = ()) -> Study:
    """The study of one table.

    Args:
        table: One of ``TABLES``.
        tiny: A small synthetic table and short trainings in its place, to see that all of it works.
        overrides: ``key=value`` for the table's config.

    Raises:
        ConfigError: An override is not a setting.
    """
    if tiny:
        return _tiny(f"{table}_tiny", overrides)
    if table == "synthetic":
        return _synthetic(overrides)
    config = load_config(CONFIGS / f"{table}.yaml", overrides)
    if table == "ml1m":
        return Study(
            table,
            config,
            ratios=(4, 8, 16, 32),
            warm_ratios=(8,),
            hashing_ratios=(4, 8, 16),
            residual=((4, 64),),
            product=((14, 256), (5, 256), (4, 64)),
            ablation=(4, 64),
            small_dims=(1, 2, 4),
            baseline_random_l2=(),
        )
    return Study(
        table,
        config,
        ratios=(16, 32, 64, 128, 256, 512),
        warm_ratios=(64, 128),
        hashing_ratios=(16, 64, 128),
        residual=((1, 64), (1, 16)),
        product=((4, 64), (2, 16), (1, 16)),
        ablation=(4, 64),
        small_dims=(1, 4),
    )


def _synthetic(overrides: Sequence[str]) -> Study:
    """About five million values seen in training, most of them once."""
    raw: dict[str, Any] = {
        "name": "synthetic",
        "data": {
            "synthetic": {
                "num_rows": 4_000_000,
                "field_sizes": [4_000_000] * 5 + [1000, 100, 10],
                "zipf_exponent": 0.9,
            }
        },
        "pretrain": {"batch_size": 4096, "max_epochs": 10, "patience": 2},
        "train": {"batch_size": 4096, "max_epochs": 10},
        "evaluate": {"full": {"batch_size": 4096, "max_epochs": 10}},
    }
    return Study(
        "synthetic",
        _with_overrides(raw, overrides),
        ratios=(100,),
        warm_ratios=(),
        hashing_ratios=(100,),
        residual=((1, 64),),
        product=((4, 64), (2, 16)),
        ablation=(4, 64),
        small_dims=(1, 4),
        dropouts=(0.0, 0.3),
        reference_l2=(0.003, 0.03),
        random_l2=(),
        baseline_l2=(0.003, 0.03),
        baseline_random_l2=(0.0, 0.003),
    )


def _tiny(name: str, overrides: Sequence[str]) -> Study:
    short = {"max_epochs": 2, "batch_size": 512}
    raw: dict[str, Any] = {
        "name": name,
        "data": {"synthetic": {"num_rows": 30_000, "field_sizes": [3000, 1500, 50, 10]}},
        "pretrain": {"max_epochs": 4, "batch_size": 256, "learning_rate": 1e-2, "embedding_dim": 8, "l2": 0.003},
        "train": {**short, "settings": {"hidden_units": [16]}},
        "evaluate": {"full": short},
    }
    return Study(
        name,
        _with_overrides(raw, overrides),
        ratios=(4, 8, 16),
        warm_ratios=(8,),
        hashing_ratios=(4, 16),
        residual=((1, 16), (1, 64)),
        product=((4, 16), (2, 16)),
        ablation=(2, 16),
        small_dims=(1, 2, 4),
        dropouts=(0.0, 0.3),
        reference_l2=(0.003, 0.03),
        random_l2=(0.003, 0.03),
        baseline_l2=(0.003,),
        baseline_random_l2=(0.0,),
    )


def _with_overrides(raw: dict[str, Any], overrides: Sequence[str]) -> RunConfig:
    for override in overrides:
        apply_override(raw, override)
    return parse_config(raw)
