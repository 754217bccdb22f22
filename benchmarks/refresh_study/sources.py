"""Data sets in periods: which rows each period learns from, and which it is tested on."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mec.bundle import json_hash
from mec.config import RunConfig, SyntheticConfig, apply_override, load_config, parse_config
from mec.errors import ConfigError

Kind = Literal["variants", "series"]
Mask = NDArray[np.bool_]

DATA = ("yelp", "synthetic")
_SERIES = 5  # refreshes in a row
_YELP_BASE = {"variants": 0.6, "series": 0.5}
_FAST = {"max_epochs": 2, "batch_size": 256, "learning_rate": 0.01}
_TINY = {
    "pretrain": {"embedding_dim": 4, **_FAST},
    "train": {"settings": {"hidden_units": [8]}, **_FAST},
    "quantize": {"num_codewords": 16, "min_values": 100},
}
_TINY_SIZES = (200, 150, 10)


@dataclass(frozen=True)
class Period:
    """Masks over the rows of a table: what a period learns from, train and valid together, and is tested on."""

    learned: Mask
    tested: Mask


@dataclass(frozen=True)
class Study:
    """One data set, cut for one study.

    Attributes:
        kind: ``variants``: a base period and one refresh; ``series``: five refreshes in a row.
        config: Of the train run; its data section's path is not used.
        synthetic: Of the generator; None cuts ``config.data.path`` by its column ``progress``.
    """

    kind: Kind
    config: RunConfig
    synthetic: SyntheticConfig | None

    @property
    def num_refreshes(self) -> int:
        return 1 if self.kind == "variants" else _SERIES

    def root(self, work: Path) -> Path:
        """Directory of everything of this study and data set; the hash is of all settings."""
        settings: list[Any] = [self.kind, self.config.model_dump(mode="json")]
        settings += [self.synthetic and self.synthetic.model_dump(mode="json")]
        return work / f"{self.kind}-{self.config.name}-{json_hash(settings)[:10]}"


def find_study(kind: Kind, data: str, overrides: Sequence[str], *, tiny: bool = False) -> Study:
    """A study by name.

    Args:
        kind: Which study.
        data: One of ``DATA``.
        overrides: ``KEY=VALUE`` changes of the config.
        tiny: A few thousand synthetic rows and two passes instead: nothing is learned.

    Raises:
        ConfigError: Settings that are wrong, or that a refresh cannot serve.
    """
    study = _yelp(kind, overrides) if data == "yelp" and not tiny else _synthetic(kind, overrides, tiny=tiny)
    require_frozen(study.config)
    return study


def require_frozen(config: RunConfig) -> None:
    """Refuse the one kind of model that a refresh cannot serve, before it is trained."""
    if config.train.codewords != "frozen":
        raise ConfigError(
            "a model that trained its codewords on cannot be refreshed: new vectors are brought into the space of the "
            "pre-trained ones, and its codewords have left it",
            found=f"train.codewords={config.train.codewords}",
            fix="leave train.codewords at frozen",
        )


def synthetic_config(num_fields: int, overrides: Sequence[str], *, tiny: bool, **data: Any) -> RunConfig:
    """A run on the generator's columns."""
    columns = {"categorical": [f"f{i}" for i in range(num_fields)], "split": {"kind": "column"}, **data}
    raw: dict[str, Any] = {"name": "synthetic", "data": {"path": "rows", **columns}, "evaluate": {"latency_rows": 0}}
    raw |= _TINY if tiny else {}
    for override in overrides:
        apply_override(raw, override)
    return parse_config(raw)


def cut(study: Study) -> tuple[pa.Table, list[Period]]:
    """All rows of a study and its periods, the base first."""
    if study.synthetic is None:
        table = pq.read_table(str(study.config.data.path))
        return table, _by_progress(study, table["progress"].to_numpy())
    table = synthetic_rows(study.synthetic)
    period, drawn = table["period"].to_numpy(), _draws(1, table.num_rows)
    share = 0.4 if study.kind == "variants" else 0.2
    tested_to = 1.0 if study.kind == "variants" else 0.6
    periods = [own_test(period == 0)]
    for number in range(1, study.num_refreshes + 1):
        mine = period == number
        periods.append(Period(mine & (drawn < share), mine & (drawn >= share) & (drawn < tested_to)))
    return table, periods


def write_rows(table: pa.Table, parts: Sequence[Mask], tested: Mask, out: Path) -> None:
    """Write learned and tested rows as one Parquet file, a tenth of the learned ones for validation.

    Args:
        table: All rows.
        parts: Masks of learned rows, (N,) each; no row is in two.
        tested: (N,) mask.
        out: The file.
    """
    learned = np.logical_or.reduce(parts)
    split = np.where(tested, "test", np.where(_draws(0, len(learned)) < 0.9, "train", "valid"))
    names = [name for name in table.column_names if name not in ("split", "progress", "period")]
    rows = table.select(names).append_column("split", pa.array(split))
    pq.write_table(rows.filter(pa.array(learned | tested)), out)


def synthetic_rows(config: SyntheticConfig) -> pa.Table:
    """The generator's rows, all periods; seed 0."""
    from mec.data.synthetic import write_synthetic

    with tempfile.TemporaryDirectory() as temporary:
        write_synthetic(config, 0, Path(temporary) / "rows.parquet")
        return pq.read_table(Path(temporary) / "rows.parquet")


def _yelp(kind: Kind, overrides: Sequence[str]) -> Study:
    """The config that is shipped, cut by progress."""
    fixed = ["evaluate.reference=none", "evaluate.latency_rows=0"]
    config = load_config("configs/yelp_next.yaml", ["evaluate.full={}", *fixed, *overrides])
    return Study(kind, config, None)


def _synthetic(kind: Kind, overrides: Sequence[str], *, tiny: bool) -> Study:
    """The generator's periods of 300,000 rows each: 10 % new values and 15 % drifted ones in every later period."""
    num_periods = 2 if kind == "variants" else _SERIES + 1
    rows = SyntheticConfig(num_rows=300_000 * num_periods, num_periods=num_periods)
    if tiny:
        rows = SyntheticConfig(num_rows=6_000 * num_periods, num_periods=num_periods, field_sizes=_TINY_SIZES)
    return Study(kind, synthetic_config(len(rows.field_sizes), overrides, tiny=tiny), rows)


def _by_progress(study: Study, progress: NDArray[np.float64]) -> list[Period]:
    """Variants: to .6, to .8, the rest tested on. Series: to .5, then twelfths, each tested on the one after it."""
    base = _YELP_BASE[study.kind]
    if study.kind == "variants":
        new = (progress >= base) & (progress < 0.8)
        return [own_test(progress < base), Period(new, progress >= 0.8)]
    # the last of the parts is only tested on
    parts = np.digitize(progress, np.linspace(base, 1.0, _SERIES + 2)[:-1])
    return [Period(parts == number, parts == number + 1) for number in range(_SERIES + 1)]


def own_test(rows: Mask) -> Period:
    """A base period that is tested on a twentieth of its own rows."""
    held_out = _draws(2, len(rows)) >= 0.95
    return Period(rows & ~held_out, rows & held_out)


def _draws(purpose: int, num_rows: int) -> NDArray[np.float64]:
    # seeds that no other generator has: [0, 1] would give the very numbers that the first synthetic field is drawn by
    return np.random.default_rng([0x72656672, purpose]).random(num_rows)
