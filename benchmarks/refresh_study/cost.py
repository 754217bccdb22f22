"""What a refresh costs beside the train run that it saves, by the commands that a user types.

    ROOT/rows/                     HISTORY.parquet and HISTORY-new.parquet
    ROOT/SEED-HISTORY/             store, run and refresh directories of ``mec run`` and ``mec refresh``
    ROOT/cells/                    HISTORY-SEED.json

After a short and a long history the same new rows come, a fifth of the short one; after a large one, which is the long
one, a fifth of that. Bounds are wide open, so that every refresh is promoted and its costs
hold publishing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from mec.bundle import json_hash, read_json
from mec.config import RunConfig, SyntheticConfig
from refresh_study.files import complete, read_cell, write_cell
from refresh_study.sources import (
    Mask,
    find_study,
    own_test,
    require_frozen,
    synthetic_config,
    synthetic_rows,
    write_rows,
)

_OPEN = {"min_auc": 0.0, "max_auc_decline": 1.0, "max_auc_drop": 1.0, "max_logloss_rise": 100.0}
_NEW_SHARE = 0.2  # new training rows beside those of the short history
HISTORIES = ("short", "long", "large")


@dataclass(frozen=True)
class CostStudy:
    """One data set with histories of one or two lengths.

    Attributes:
        config: Of run and refresh; its path is set for each.
        synthetic: Of the generator, whose first period is the long and the large history, four times the short one;
            None cuts ``config.data.path`` by its column ``progress``, and has the short history only.
        root: Directory of everything.
    """

    config: RunConfig
    synthetic: SyntheticConfig | None
    root: Path

    @property
    def histories(self) -> tuple[str, ...]:
        return HISTORIES if self.synthetic else HISTORIES[:1]

    def cell(self, history: str, seed: int) -> Path:
        return self.root / "cells" / f"{history}-{seed}.json"


def find_cost_study(data: str, overrides: Sequence[str], work: Path, *, tiny: bool) -> CostStudy:
    """The study of one data set; the synthetic one is of 300,000 and 1,200,000 rows, 60,000 and 240,000 new ones."""
    if data == "yelp" and not tiny:
        config, rows = find_study("variants", "yelp", overrides).config, None
    else:
        sizes = {"field_sizes": (200, 150, 10)} if tiny else {}
        rows = SyntheticConfig(num_rows=24_000 if tiny else 2_400_000, num_periods=2, **sizes)
        # the row's number tells equal rows apart, as a time of day would
        config = synthetic_config(len(rows.field_sizes), overrides, tiny=tiny, time="row")
        require_frozen(config)
    settings = [config.model_dump(mode="json"), rows and rows.model_dump(mode="json")]
    return CostStudy(config, rows, work / f"cost-{config.name}-{json_hash(settings)[:10]}")


def run_cost(study: CostStudy, seeds: Sequence[int], histories: Sequence[str]) -> None:
    """Run what is missing, one command at a time: these are timings."""
    rows = study.root / "rows"
    complete(rows, lambda out: _write(study, out))
    for seed in seeds:
        for history in histories:
            if read_cell(study.cell(history, seed)) is None:
                _run_cell(study, history, seed)


def _write(study: CostStudy, out: Path) -> None:
    """Base and new rows; of each, a tenth of what is learned from is for validation, and a part is tested on."""
    if study.synthetic is None:
        table = pq.read_table(str(study.config.data.path))
        progress = table["progress"].to_numpy()
        short, later, tested = progress < 0.75, (progress >= 0.75) & (progress < 0.95), progress >= 0.95
        news = {"short": (later & (np.cumsum(later) <= _NEW_SHARE * short.sum()), tested)}
        bases = {"short": short}
    else:
        rows = synthetic_rows(study.synthetic)
        table = rows.append_column("row", pa.array(np.arange(rows.num_rows, dtype=np.float64)))
        later = table["period"].to_numpy() == 1
        long = ~later
        short = long & (np.cumsum(long) > 0.75 * long.sum())
        bases = {"short": short, "long": long, "large": long}
        news = {
            "short": _first_two(later, _NEW_SHARE * short.sum()),
            "large": _first_two(later, _NEW_SHARE * long.sum()),
        }
        news["long"] = news["short"]
    for history, mask in bases.items():
        base = own_test(mask)
        write_rows(table, [base.learned], base.tested, out / f"{history}.parquet")
        learned, tested = news[history]
        write_rows(table, [learned], tested, out / f"{history}-new.parquet")


def _first_two(rows: Mask, num: float) -> tuple[Mask, Mask]:
    """Masks of the first ``num`` of some rows, and of as many after them."""
    place = np.cumsum(rows) - 1
    return rows & (place < num), rows & (place >= num) & (place < 2 * num)


def _run_cell(study: CostStudy, history: str, seed: int) -> None:
    at = study.root / f"{seed}-{history}"
    shutil.rmtree(at, ignore_errors=True)  # of a run that was killed: half a command has no time
    at.mkdir(parents=True)
    settings = study.config.model_dump(mode="json", exclude_unset=True)
    settings |= {"seed": seed, "store": str((at / "store").absolute())}
    settings["data"] |= {"path": str((study.root / "rows" / f"{history}.parquet").absolute())}
    settings["refresh"] = settings.get("refresh", {}) | {"bounds": _OPEN}
    config = at / "config.yaml"
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    print(f"{history} history, seed {seed}: mec run", flush=True)
    train = _command(["run", str(config), "--out", str(at / "run")], at)
    print(f"{history} history, seed {seed}: mec refresh, after {train['wall_s']:.0f} s of mec run", flush=True)
    new = str((study.root / "rows" / f"{history}-new.parquet").absolute())
    refresh = _command(["refresh", str(config), "--data", new, "--out", str(at / "refresh")], at)
    facts = {
        "history_rows": _num_rows(study, history),
        "new_rows": _num_rows(study, f"{history}-new"),
        "config": settings,
    }
    write_cell(study.cell(history, seed), facts | {"run": train, "refresh": refresh})
    shutil.rmtree(at)


def _command(arguments: list[str], at: Path) -> dict[str, Any]:
    """Run mec; wall and processor seconds of the command and all it starts, and of its steps."""
    start_s, used = time.monotonic(), os.times()
    with (at / f"{arguments[0]}.txt").open("w", encoding="utf-8") as log:
        subprocess.run([sys.executable, "-m", "mec", *arguments], check=True, stdout=log, stderr=log)
    wall_s, now = time.monotonic() - start_s, os.times()
    processor_s = now.children_user + now.children_system - used.children_user - used.children_system
    summary = read_json(Path(arguments[-1]) / "summary.json")
    steps = {name: {k: s[k] for k in ("seconds", "peak_rss_bytes")} for name, s in summary["steps"].items()}
    decision = summary["decision"]
    return {"wall_s": wall_s, "processor_s": processor_s, "steps": steps, "decision": decision}


def _num_rows(study: CostStudy, part: str) -> int:
    """Training rows."""
    split = pq.read_table(study.root / "rows" / f"{part}.parquet", columns=["split"])["split"].to_numpy()
    return int((split == "train").sum())
