"""A train run on one period of planted rows, and refreshes on later ones, by the library's own steps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mec.config import RefreshConfig, RunConfig, parse_config
from mec.data.counting import count_step
from mec.data.encoding import encode_step
from mec.data.vocabulary import vocabulary_step
from mec.evaluation.evaluating import evaluate_step
from mec.pretraining import pretrain_step
from mec.quantize.quantizing import quantize_step
from mec.refresh.arriving import new_rows
from mec.refresh.deciding import decision_step
from mec.refresh.evaluating import refresh_evaluate_step
from mec.refresh.pretraining import refresh_pretrain_step
from mec.refresh.recode_step import recode_step
from mec.refresh.vocabulary import extend_vocabulary_step
from mec.training_steps import reference_step, train_step

USERS, ITEMS = 150, 120


def write_period(path: Path, period: int, num_rows: int) -> Path:
    """Rows of a planted factorization machine; each later period has values of its own, and colours of its own."""
    rng = np.random.default_rng([7, period])
    factors = {n: np.random.default_rng(i).normal(0, 1, (400, 3)) for i, n in enumerate(("user", "item", "colour"))}
    ids = {
        "user": rng.integers(0, USERS + 20 * period, num_rows),
        "item": (rng.zipf(1.3, num_rows) % (ITEMS + 15 * period)).astype(np.int64),
        "colour": rng.integers(0, 4 + period, num_rows),
    }
    ids["last_item"] = rng.integers(0, ITEMS, num_rows)
    vectors = [factors["item" if name == "last_item" else name][value] for name, value in ids.items()]
    price = rng.normal(5, 2, num_rows)
    logits = sum((vectors[i] * vectors[j]).sum(1) for i in range(4) for j in range(i)) + 0.2 * (price - 5)
    columns: dict[str, Any] = {**ids, "price": price}
    columns["label"] = (rng.random(num_rows) < 1 / (1 + np.exp(-logits))).astype(np.int8)
    columns["split"] = rng.choice(["train", "valid", "test"], num_rows, p=[0.6, 0.2, 0.2])
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def make_config(path: Path, **quantize: Any) -> RunConfig:
    fast = {"learning_rate": 0.02, "batch_size": 128, "max_epochs": 3}
    return parse_config(
        {
            "data": {
                "path": str(path),
                "categorical": ["user", "item", "colour", {"name": "last_item", "vocabulary": "item"}],
                "numeric": [{"name": "price", "transform": "linear"}],
                "split": {"kind": "column"},
            },
            "pretrain": {"embedding_dim": 4, "init_std": 0.1, "l2": 1e-3, "folds": 0, **fast},
            "quantize": {"num_codewords": 16, "min_values": 50, **quantize},
            "train": {"model": "deepfm", "settings": {"hidden_units": [8]}, **fast},
            "evaluate": {"latency_rows": 0},
            "count": {"scheduler": "synchronous"},
        }
    )


@dataclass(frozen=True)
class Generation:
    """What is in service, and the rows that it was trained on; every directory is ``root / role``."""

    config: RunConfig
    bundles: dict[str, Path]
    datasets: tuple[Path, ...]
    period: int = 0

    def __getattr__(self, role: str) -> Path:
        try:
            return self.bundles[role]
        except KeyError:
            raise AttributeError(role) from None


def train_run(root: Path, num_rows: int = 2500, **quantize: Any) -> Generation:
    """The train pipeline's steps on period 0."""
    config = make_config(write_period(root / "period-0.parquet", 0, num_rows), **quantize)
    roles = ("counts", "vocabulary", "dataset", "pretrained", "codebook", "codes", "model", "reference", "evaluation")
    at = {role: root / "base" / role for role in roles}
    count_step(data=config.data, count=config.count, seed=0, out=at["counts"])
    vocabulary_step(counts=at["counts"], count=config.count, out=at["vocabulary"])
    encode_step(data=config.data, vocabulary=at["vocabulary"], seed=0, out=at["dataset"])
    some = {name: at[name] for name in ("dataset", "vocabulary")}
    pretrain_step(pretrain=config.pretrain, **some, seed=0, checkpoints=None, out=at["pretrained"])
    quantize_step(
        quantize=config.quantize, pretrained=at["pretrained"], vocabulary=at["vocabulary"], seed=0,
        out_codebook=at["codebook"], out_codes=at["codes"],
    )  # fmt: skip
    inputs: dict[str, Any] = {"dataset": at["dataset"], "pretrained": at["pretrained"], "seed": 0, "checkpoints": None}
    train: Any = config.train
    train_step(train=train, **inputs, codebook=at["codebook"], codes=at["codes"], out=at["model"])
    reference_step(train=train, evaluate=config.evaluate, **inputs, out=at["reference"])
    evaluated = {n: at[n] for n in ("dataset", "vocabulary", "model", "codebook", "codes", "reference")}
    evaluate_step(evaluate=config.evaluate, **evaluated, seed=0, out=at["evaluation"])
    return Generation(config, at, (at["dataset"],))


def new_period(base: Generation, root: Path, rows: Path | None = None, num_rows: int = 1500) -> dict[str, Path]:
    """Count, extend and encode the next period, of rows that are made unless they are given."""
    refresh, period = RefreshConfig(), base.period + 1
    at = {role: root / role for role in ("counts", "vocabulary", "dataset")}
    rows = rows or write_period(root / "rows.parquet", period, num_rows)
    data = new_rows(base.config.data, str(rows), refresh)
    count_step(data=data, count=base.config.count, seed=0, out=at["counts"])
    extend_vocabulary_step(
        parent=base.vocabulary, counts=at["counts"], count=base.config.count, keep=refresh.keep_counts,
        out=at["vocabulary"],
    )  # fmt: skip
    encode_step(data=data, vocabulary=at["vocabulary"], seed=0, out=at["dataset"])
    return at


def pretrain_again(base: Generation, new: dict[str, Path], out: Path, refresh: RefreshConfig, **changed: Any) -> Path:
    inputs = {"dataset": new["dataset"], "vocabulary": new["vocabulary"], "pretrained": base.pretrained} | changed
    replay = () if refresh.replay == "none" else base.datasets
    refresh_pretrain_step(
        refresh=refresh, pretrain=base.config.pretrain, **inputs, replay=replay, seed=1, checkpoints=None, out=out
    )
    return out


def refresh_run(
    base: Generation, root: Path, refresh: RefreshConfig | None = None, rows: Path | None = None
) -> Generation:
    """All steps of a refresh up to the decision; what is in service if it is promoted."""
    refresh = refresh or RefreshConfig()
    at = new_period(base, root, rows) | {
        n: root / n for n in ("pretrained", "codebook", "codes", "evaluation", "decision")
    }
    pretrain_again(base, at, at["pretrained"], refresh)
    recode_step(
        refresh=refresh, quantize=base.config.quantize, pretrained=at["pretrained"], codebook=base.codebook,
        codes=base.codes, vocabulary=at["vocabulary"], seed=0, out_codebook=at["codebook"], out_codes=at["codes"],
    )  # fmt: skip
    refresh_evaluate_step(
        refresh=refresh, evaluate=base.config.evaluate, dataset=at["dataset"], vocabulary=at["vocabulary"],
        model=base.model, evaluation=base.evaluation, codebook=base.codebook, codes=base.codes,
        new_codebook=at["codebook"], new_codes=at["codes"], out=at["evaluation"],
    )  # fmt: skip
    decision_step(refresh=refresh, evaluation=at["evaluation"], out=at["decision"])
    at["model"] = base.model
    return replace(base, bundles=at, datasets=(*base.datasets, at["dataset"]), period=base.period + 1)
