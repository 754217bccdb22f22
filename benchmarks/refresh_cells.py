"""The cells of ``refresh.py``: one variant of a refresh on one data set with one seed, kept as one JSON file.

    WORK/DATASET-HASH/data/        Parquet files of base, new and all rows; counts, vocabularies, datasets
    WORK/DATASET-HASH/SEED/        base/ and retrain/ (whole train runs), START-REPLAY/ (pre-trained tables)
    WORK/DATASET-HASH/cells/       VARIANT-SEED.json

A hash is of all settings. Everything is written aside and renamed when it is complete, so a killed run goes on where
it was. One run at a time may use a WORK directory.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mec.bundle import json_hash
from mec.config import RefreshConfig, RunConfig, SyntheticConfig

PERIODS = ("base", "new", "all")
RETRAIN = "retrain"


@dataclass(frozen=True)
class Study:
    """One data set.

    Attributes:
        config: Of the train run; its data section's path is not used.
        synthetic: Of the generator; None cuts ``config.data.path`` by its column ``progress``.
    """

    config: RunConfig
    synthetic: SyntheticConfig | None

    def root(self, work: Path) -> Path:
        """Directory of everything of this data set."""
        settings = [self.config.model_dump(mode="json"), self.synthetic and self.synthetic.model_dump(mode="json")]
        return work / f"{self.config.name}-{json_hash(settings)[:10]}"

    def data(self, work: Path, period: str) -> Path:
        """Directory of one period's bundles."""
        return self.root(work) / "data" / period


def variants() -> dict[str, RefreshConfig]:
    """Name -> settings: start x rows x codebooks."""
    codings: dict[str, dict[str, Any]] = {
        "frozen h0": {"hysteresis": 0.0},
        "frozen h.3": {"hysteresis": 0.3},
        "renewed": {"codebooks": "renewed"},
    }
    rows: dict[str, dict[str, Any]] = {
        "new": {"replay": "none"},
        "replay": {"replay": "sample"},
        "all": {"replay": "all"},
    }
    return {
        f"{start} {name} {coding}": RefreshConfig.model_validate({"start": start, **replay, **settings})
        for start in ("warm", "fresh")
        for name, replay in rows.items()
        for coding, settings in codings.items()
    }


def make_data(study: Study, work: Path) -> None:
    """Write the periods' rows, count them, make and extend the vocabulary, encode."""
    from mec.data.counting import count_step
    from mec.data.encoding import encode_step
    from mec.data.vocabulary import vocabulary_step
    from mec.refresh.steps import extend_vocabulary_step

    rows = study.root(work) / "data" / "rows"

    def write(out: Path) -> None:
        tables = _synthetic(study.synthetic) if study.synthetic else _by_progress(Path(str(study.config.data.path)))
        for period, table in tables.items():
            pq.write_table(table, out / f"{period}.parquet")

    _complete(rows, write)
    for period in PERIODS:
        data = study.config.data.model_copy(update={"path": str(rows / f"{period}.parquet")})

        def make(out: Path, data: Any = data, period: str = period) -> None:
            count, seed = study.config.count, study.config.seed
            count_step(data=data, count=count, seed=seed, out=out / "counts")
            if period == "new":
                extend_vocabulary_step(
                    parent=study.data(work, "base") / "vocabulary", counts=out / "counts", count=count, keep=1.0,
                    out=out / "vocabulary",
                )  # fmt: skip
            else:
                vocabulary_step(counts=out / "counts", count=count, out=out / "vocabulary")
            encode_step(data=data, vocabulary=out / "vocabulary", seed=seed, out=out / "dataset")

        _complete(study.data(work, period), make)


def train_run(study: Study, work: Path, seed: int, period: str, out: Path) -> None:
    """A whole train run on one period's rows, from pre-training to evaluation."""
    from mec.evaluation.evaluating import evaluate_step
    from mec.pretraining import pretrain_step
    from mec.quantize.quantizing import quantize_step
    from mec.training_steps import reference_step, train_step

    def make(at: Path) -> None:
        config, data = study.config, study.data(work, period)
        dataset, vocabulary = data / "dataset", data / "vocabulary"
        pretrain_step(
            pretrain=config.pretrain, dataset=dataset, vocabulary=vocabulary, seed=seed, checkpoints=None,
            out=at / "pretrained",
        )  # fmt: skip
        quantize_step(
            quantize=config.quantize, pretrained=at / "pretrained", vocabulary=vocabulary, seed=seed,
            out_codebook=at / "codebook", out_codes=at / "codes",
        )  # fmt: skip
        shared: dict[str, Any] = {"train": config.train, "dataset": dataset, "pretrained": at / "pretrained"}
        shared |= {"seed": seed, "checkpoints": None}
        train_step(**shared, codebook=at / "codebook", codes=at / "codes", out=at / "model")
        reference_step(**shared, evaluate=config.evaluate, out=at / "reference")
        evaluate_step(
            evaluate=config.evaluate, dataset=dataset, vocabulary=vocabulary, model=at / "model", seed=seed,
            codebook=at / "codebook", codes=at / "codes", reference=at / "reference", out=at / "evaluation",
        )  # fmt: skip

    _complete(out, make)


def run_retrain(study: Study, work: Path, seed: int) -> None:
    """The full retrain: all rows, a new space, a new backbone; its facts."""
    out = study.root(work) / str(seed) / RETRAIN
    train_run(study, work, seed, "all", out)
    facts = _read(out / "evaluation" / "evaluation.json")
    steps = ("pretrained", "codes", "codebook", "model", "evaluation")
    kept = {name: facts[name] for name in ("auc", "logloss", "num_test_rows")}
    kept["seconds"] = _seconds(out / name for name in steps)
    _write(_cell(study, work, RETRAIN, seed), kept)


def run_variant(study: Study, work: Path, seed: int, name: str, refresh: RefreshConfig) -> None:
    """One refresh of the base run's space; its facts."""
    from mec.refresh.steps import recode_step, refresh_evaluate_step, refresh_pretrain_step

    root, new = study.root(work) / str(seed), study.data(work, "new")
    base, config = root / "base", study.config
    train_run(study, work, seed, "base", base)
    space = root / f"{refresh.start}-{refresh.replay}"

    def pretrain(out: Path) -> None:
        refresh_pretrain_step(
            refresh=refresh, pretrain=config.pretrain, dataset=new / "dataset",
            replay=() if refresh.replay == "none" else [study.data(work, "base") / "dataset"],
            vocabulary=new / "vocabulary", pretrained=base / "pretrained", seed=seed, checkpoints=None,
            out=out / "pretrained",
        )  # fmt: skip

    _complete(space, pretrain)
    with tempfile.TemporaryDirectory(dir=root) as temporary:
        at = Path(temporary)
        recode_step(
            refresh=refresh, quantize=config.quantize, pretrained=space / "pretrained", codebook=base / "codebook",
            codes=base / "codes", vocabulary=new / "vocabulary", seed=seed, out_codebook=at / "codebook",
            out_codes=at / "codes",
        )  # fmt: skip
        refresh_evaluate_step(
            refresh=refresh, evaluate=config.evaluate, dataset=new / "dataset", vocabulary=new / "vocabulary",
            model=base / "model", evaluation=base / "evaluation", codebook=base / "codebook", codes=base / "codes",
            new_codebook=at / "codebook", new_codes=at / "codes", seed=seed, out=at / "evaluation",
        )  # fmt: skip
        facts = _read(at / "evaluation" / "evaluation.json")
        seconds = _seconds([space / "pretrained", at / "codes", at / "evaluation"])
    known = sum(stream["size"] for stream in _read(base / "codes" / "manifest.json")["extra"]["vocabularies"].values())
    _write(
        _cell(study, work, name, seed),
        {
            "auc": facts["auc"],
            "auc_stale": facts["auc_stale"]["value"],
            "loglosses": facts["loglosses"],
            "num_test_rows": facts["num_test_rows"],
            "rows_rewritten": facts["rows_rewritten"],
            "rewritten_share": facts["rows_rewritten"] / known,
            "seconds": seconds,
        },
    )


def read_cell(study: Study, work: Path, name: str, seed: int) -> dict[str, Any] | None:
    """Facts of a cell that has run; else None."""
    file = _cell(study, work, name, seed)
    return _read(file) if file.exists() else None


def _by_progress(file: Path) -> dict[str, pa.Table]:
    """Base: progress < .6; new: .6 to .8; the rest is tested on. A tenth of each training part is for validation."""
    table = pq.read_table(file)
    progress, drawn = table["progress"].to_numpy(), np.random.default_rng(0).random(table.num_rows)
    is_base, is_new = progress < 0.6, (progress >= 0.6) & (progress < 0.8)
    return _periods(table, is_base, is_new, ~is_base & ~is_new, drawn)


def _synthetic(config: SyntheticConfig) -> dict[str, pa.Table]:
    """Period 0 is the base; of period 1 two fifths are new, three fifths are tested on."""
    from mec.data.synthetic import write_synthetic

    with tempfile.TemporaryDirectory() as temporary:
        write_synthetic(config, 0, Path(temporary) / "rows.parquet")
        table = pq.read_table(Path(temporary) / "rows.parquet")
    is_base = table["period"].to_numpy() == 0
    generator = np.random.default_rng(0)
    is_new = ~is_base & (generator.random(table.num_rows) < 0.4)
    return _periods(table, is_base, is_new, ~is_base & ~is_new, generator.random(table.num_rows))


def _periods(
    table: pa.Table,
    is_base: np.ndarray[Any, np.dtype[np.bool_]],
    is_new: np.ndarray[Any, np.dtype[np.bool_]],
    is_test: np.ndarray[Any, np.dtype[np.bool_]],
    drawn: np.ndarray[Any, np.dtype[np.float64]],
) -> dict[str, pa.Table]:
    names = [name for name in table.column_names if name not in ("split", "progress", "period")]
    split = np.where(drawn < 0.9, "train", "valid")
    own_test = np.where((drawn >= 0.95) & is_base, "test", split)  # the base run's own test rows

    def part(rows: Any, splits: Any) -> pa.Table:
        return table.select(names).append_column("split", pa.array(splits)).filter(pa.array(rows))

    later = np.where(is_test, "test", split)
    return {
        "base": part(is_base, own_test),
        "new": part(is_new | is_test, later),
        "all": part(np.ones(len(drawn), dtype=bool), np.where(is_base & (own_test == "test"), "valid", later)),
    }


def _cell(study: Study, work: Path, name: str, seed: int) -> Path:
    return study.root(work) / "cells" / f"{name.replace(' ', '_')}-{seed}.json"


def _complete(directory: Path, make: Callable[[Path], None]) -> None:
    """Make a directory aside and rename it, unless it is there."""
    if directory.exists():
        return
    draft = directory.with_name(directory.name + ".part")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    make(draft)
    draft.rename(directory)


def _seconds(bundles: Any) -> float:
    files = [bundle / "step.json" for bundle in bundles]
    return float(sum(_read(file)["seconds"] for file in files if file.exists()))


def _read(file: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return value


def _write(file: Path, facts: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(".part")
    draft.write_text(json.dumps(facts, indent=1), encoding="utf-8")
    draft.replace(file)
