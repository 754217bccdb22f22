"""Settings of the rows: where they are, what their columns mean, how they are split and counted."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from mec.config.base import Fraction, Name, Settings


class CategoricalField(Settings):
    """A column whose values are looked up in a vocabulary."""

    name: str = Field(min_length=1, description="column name")
    vocabulary: Name | None = Field(None, description="vocabulary shared with other fields; default: its own")


class NumericField(Settings):
    """A column of numbers."""

    name: str = Field(min_length=1, description="column name")
    transform: Literal["log2_buckets", "linear"] = Field(
        "log2_buckets",
        description="buckets as categorical values (Criteo 2014 winner), or x times one learned direction",
    )


class SequenceField(Settings):
    """A column holding a list of values (Parquet list, or text with a separator)."""

    name: str = Field(min_length=1, description="column name")
    vocabulary: Name | None = Field(None, description="vocabulary shared with other fields; default: its own")
    pooling: Literal["mean", "sum"] = Field("mean", description="how the values' vectors become one")
    max_length: int = Field(20, ge=1, le=10_000, description="values kept, from the end of the list")
    separator: str = Field("|", min_length=1, description="between values, where the column is text")


class SplitConfig(Settings):
    """Which rows train, validate and test."""

    kind: Literal["column", "random", "time"] = Field(
        "random", description="a column's value, a seeded draw, or the time column"
    )
    column: str = Field("split", description="column: its name")
    train: str = Field("train", description="column: its value for training rows")
    valid: str = Field("valid", description="column: its value for validation rows")
    test: str = Field("test", description="column: its value for test rows")
    valid_fraction: Fraction = Field(0.1, description="random: share of rows for validation")
    test_fraction: Fraction = Field(0.1, description="random: share of rows for test")
    valid_from: float | None = Field(None, description="time: first time value of validation")
    test_from: float | None = Field(None, description="time: first time value of test")

    @model_validator(mode="after")
    def _consistent(self) -> SplitConfig:
        if self.kind == "random" and not 0 < self.valid_fraction + self.test_fraction < 1:
            raise ValueError("valid_fraction + test_fraction must lie between 0 and 1")
        if self.kind == "column" and len({self.train, self.valid, self.test}) < 3:
            raise ValueError("train, valid and test must be three different values of the split column")
        if self.kind == "time":
            if self.valid_from is None or self.test_from is None:
                raise ValueError("split kind 'time' needs valid_from and test_from")
            if not self.valid_from < self.test_from:
                raise ValueError("valid_from must be less than test_from")
        own = {
            "column": ("column", "train", "valid", "test"),
            "random": ("valid_fraction", "test_fraction"),
            "time": ("valid_from", "test_from"),
        }
        for kind, names in own.items():
            if kind != self.kind:
                self.refuse_without_effect(names, f"while kind is {self.kind!r}")
        return self


class SyntheticConfig(Settings):
    """Rows from the synthetic generator: Zipf values, planted factors, a known Bayes AUC."""

    num_rows: int = Field(200_000, ge=100, description="rows over all periods")
    field_sizes: tuple[int, ...] = Field((15_000, 15_000, 2_000, 500, 100, 50, 20, 10), description="values per field")
    zipf_exponent: float = Field(1.05, gt=0, le=3, description="popularity of rank r is r^-exponent")
    num_factors: int = Field(8, ge=1, le=256, description="dimensions of the planted latent factors")
    signal: float = Field(1.8, gt=0, description="standard deviation of the planted logit; 1.8 makes the Bayes AUC .85")
    base_rate: float = Field(0.3, gt=0, lt=1, description="share of label 1")
    num_periods: int = Field(1, ge=1, description="time periods; column `period`")
    new_values: Fraction = Field(0.1, description="share of values first seen in each later period")
    drifted_values: Fraction = Field(0.15, description="share of values whose factors move in each later period")

    @model_validator(mode="after")
    def _periods(self) -> SyntheticConfig:
        if self.num_periods == 1:
            self.refuse_without_effect(["new_values", "drifted_values"], "while num_periods is 1")
        return self


class DataConfig(Settings):
    """Where the rows are and what their columns mean."""

    path: str | tuple[str, ...] | None = Field(
        None,
        description="file, directory of files or pattern to read, or a list of these; null: the synthetic generator",
    )
    format: Name = Field(
        "auto", description="auto: by file name; parquet, csv, tsv, or one that an installed package reads"
    )
    preset: Literal["criteo", "avazu", "movielens_1m"] | None = Field(None, description="a public data set's layout")
    header: bool = Field(True, description="csv, tsv: the first line names the columns")
    columns: tuple[str, ...] | None = Field(None, description="csv, tsv without header: the column names")
    label: str = Field("label", description="column of 0/1 labels")
    categorical: tuple[CategoricalField, ...] = ()
    numeric: tuple[NumericField, ...] = ()
    sequence: tuple[SequenceField, ...] = ()
    time: str | None = Field(None, description="numeric column that orders the rows, if there is one")
    split: SplitConfig = SplitConfig()
    synthetic: SyntheticConfig | None = Field(None, description="settings of the generator; only without data.path")
    block_rows: int = Field(262_144, ge=1024, description="rows held in memory at a time while reading")

    @property
    def paths(self) -> tuple[str, ...]:
        """All that ``path`` names; empty for the synthetic generator."""
        if self.path is None:
            return ()
        return (self.path,) if isinstance(self.path, str) else self.path

    @model_validator(mode="before")
    @classmethod
    def _names_to_fields(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        value = dict(value)
        for key in ("categorical", "numeric", "sequence"):
            if isinstance(value.get(key), (list, tuple)):
                value[key] = [{"name": f} if isinstance(f, str) else f for f in value[key]]
        return value

    @model_validator(mode="after")
    def _consistent(self) -> DataConfig:
        fields: list[CategoricalField | NumericField | SequenceField]
        fields = [*self.categorical, *self.numeric, *self.sequence]
        names = [f.name for f in fields]
        doubled = sorted({n for n in names if names.count(n) > 1})
        if doubled:
            raise ValueError(f"fields named twice: {doubled}")
        for taken in (
            self.label,
            self.time if self.split.kind == "time" else None,
            self.split.column if self.split.kind == "column" else None,
        ):
            if taken in names:
                raise ValueError(f"column {taken!r} is the label, time or split: it cannot be a feature too")
        if self.path is not None and (not self.paths or not all(self.paths)):
            raise ValueError("data.path names no file: give one, or null for the synthetic generator")
        if self.path is not None and self.synthetic is not None:
            raise ValueError("data.synthetic has no effect when data.path is set; remove one of them")
        if self.path is not None and self.preset is None and not names:
            raise ValueError("no feature columns: list some under data.categorical, data.numeric or data.sequence")
        if self.split.kind == "time" and self.time is None:
            raise ValueError("split kind 'time' needs data.time, the column that orders the rows")
        if self.columns is not None and self.header:
            raise ValueError("data.columns has no effect while data.header is true; set data.header=false")
        return self


class CountConfig(Settings):
    """Counting and vocabularies."""

    scheduler: str = Field("threads", description="Dask: 'threads', 'synchronous', or tcp://host:port of a cluster")
    num_workers: int | None = Field(None, ge=1, description="threads; null: one per core")
    min_count: int = Field(1, ge=1, description="values counted less often in training share id 0 (out of vocabulary)")

    @model_validator(mode="after")
    def _scheduler(self) -> CountConfig:
        if self.scheduler not in ("threads", "synchronous") and "://" not in self.scheduler:
            raise ValueError("scheduler must be 'threads', 'synchronous' or an address such as tcp://host:8786")
        if self.scheduler != "threads":
            self.refuse_without_effect(["num_workers"], f"with scheduler {self.scheduler!r}")
        return self
