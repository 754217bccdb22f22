"""Layouts of public data sets: their columns, their fields, and the columns made from others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mec.config import CategoricalField, DataConfig, NumericField
from mec.data import columns
from mec.data.files import Format


@dataclass(frozen=True)
class Derived:
    """A column made from another one, unless the file has it already."""

    name: str
    source: str
    type: pa.DataType
    make: Callable[[pa.Array], pa.Array]


@dataclass(frozen=True)
class Preset:
    """What a public data set's files look like, and what its columns mean."""

    label: str
    categorical: tuple[str, ...]
    numeric: tuple[str, ...] = ()
    format: Format | None = None  # of file names that do not tell
    columns: tuple[str, ...] | None = None  # of text files, which have no header
    derived: tuple[Derived, ...] = ()

    def apply(self, data: DataConfig) -> DataConfig:
        """Fill in what the config leaves open: the label, and the fields if it lists none of its own."""
        label = self.label if data.label == DataConfig.model_fields["label"].default else data.label
        update: dict[str, object] = {"label": label}
        if not (data.categorical or data.numeric or data.sequence):
            update["categorical"] = tuple(CategoricalField(name=n, vocabulary=None) for n in self.categorical)
            update["numeric"] = tuple(NumericField(name=n, transform="log2_buckets") for n in self.numeric)
        return data.model_copy(update=update)


def _hours(stamps: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    numbers = columns.numeric(stamps)
    missing = np.asarray(pc.is_null(numbers))
    x = np.asarray(pc.fill_null(numbers, 14010100.0))
    whole = np.abs(x) < 1e9
    stamp = np.where(whole, x, 0).astype(np.int64)
    month, day, hour = stamp // 10_000 % 100, stamp // 100 % 100, stamp % 100
    good = whole & (stamp == x) & (stamp >= 0) & (stamp < 100_000_000)
    good &= (month >= 1) & (month <= 12) & (day >= 1) & (day <= 31) & (hour <= 23)
    if not good.all():
        row = int(np.argmin(good))
        raise columns.BadValueError(
            "is not a YYMMDDHH hour", row, repr(stamps[row].as_py()), "write hours like 14102100, 21 October 2014 0:00"
        )
    return stamp, missing


def _hour_of_day(stamps: pa.Array) -> pa.Array:
    stamp, missing = _hours(stamps)
    return pa.array(stamp % 100, pa.int64(), mask=missing)


def _weekday(stamps: pa.Array) -> pa.Array:
    """0 Monday to 6 Sunday."""
    stamp, missing = _hours(stamps)
    months = (2000 + stamp // 1_000_000 - 1970) * 12 + stamp // 10_000 % 100 - 1
    days = months.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64) + stamp // 100 % 100 - 1
    return pa.array((days + 3) % 7, pa.int64(), mask=missing)


def _at_least_4(ratings: pa.Array) -> pa.Array:
    return pc.cast(pc.greater_equal(columns.numeric(ratings), 4.0), pa.int64())


PRESETS = {
    # https://ailab.criteo.com/ressources/ : TSV without a header
    "criteo": Preset(
        label="label",
        categorical=tuple(f"C{i}" for i in range(1, 27)),
        numeric=tuple(f"I{i}" for i in range(1, 14)),
        format="tsv",
        columns=("label", *(f"I{i}" for i in range(1, 14)), *(f"C{i}" for i in range(1, 27))),
    ),
    # https://www.kaggle.com/c/avazu-ctr-prediction : CSV; `id` is dropped, `hour` becomes two fields
    "avazu": Preset(
        label="click",
        categorical=(
            *("hour_of_day", "weekday", "C1", "banner_pos", "site_id", "site_domain", "site_category"),
            *("app_id", "app_domain", "app_category", "device_id", "device_ip", "device_model"),
            *("device_type", "device_conn_type", *(f"C{i}" for i in range(14, 22))),
        ),
        format="csv",
        derived=(
            Derived("hour_of_day", "hour", pa.int64(), _hour_of_day),
            Derived("weekday", "hour", pa.int64(), _weekday),
        ),
    ),
    # https://grouplens.org/datasets/movielens/1m/ : ratings of 4 and 5 are clicks
    "movielens_1m": Preset(
        label="label",
        categorical=("user_id", "movie_id", "gender", "age", "occupation", "zip", "genres", "year"),
        derived=(Derived("label", "rating", pa.int64(), _at_least_4),),
    ),
}
