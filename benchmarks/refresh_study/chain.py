"""A base run and the refreshes that follow it, by the pipelines' own step functions; what each leaves and needs.

    ROOT/data/K/                   rows of period K: counts, the vocabulary extended from period K - 1, the dataset
    ROOT/data/upto-K/              the same of all periods up to K, with a vocabulary of its own
    ROOT/SEED/base/                the train run on period 0
    ROOT/SEED/retrain-K/           a train run on all rows up to period K: a new space, a new backbone
    ROOT/SEED/START-REPLAY/K/      the refreshed tables: variants that only code differently share them
    ROOT/SEED/VARIANT/K/           codes, evaluation and decision of a refresh
    ROOT/cells/                    retrain-K-SEED.json, never-K-SEED.json, VARIANT-K-SEED.json

In a series every refresh continues the one before it, as if that had been promoted, whatever its decision.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mec.bundle import read_json
from mec.config import RefreshConfig
from refresh_study.files import complete, seconds, write_cell
from refresh_study.sources import Study, cut, write_rows
from refresh_study.variants import VARIANTS, pretraining_of, slug

BASE, RETRAIN, NEVER = "base", "retrain", "never"
EVALUATION = "evaluation.json"


@dataclass(frozen=True)
class Chain:
    """One seed of a study.

    Attributes:
        study: The study.
        root: Its directory.
        seed: Of all trainings; rows and their splits are the same for all seeds.
    """

    study: Study
    root: Path
    seed: int

    @property
    def base(self) -> Path:
        return self.root / str(self.seed) / BASE

    def data(self, period: int) -> Path:
        """Bundles of a period's rows."""
        return self.root / "data" / str(period)

    def retrained(self, period: int) -> Path:
        return self.root / str(self.seed) / f"{RETRAIN}-{period}"

    def tables(self, variant: str, period: int) -> Path:
        """Directory of the bundle "pretrained"; that of the base run for period 0."""
        return self.root / str(self.seed) / pretraining_of(variant) / str(period) if period else self.base

    def codes(self, variant: str, period: int) -> Path:
        """Directory of the bundles codebook, codes and evaluation; that of the base run for period 0."""
        return self.root / str(self.seed) / slug(variant) / str(period) if period else self.base

    def cell(self, name: str, period: int) -> Path:
        """The JSON file of one cell."""
        return self.root / "cells" / f"{slug(name)}-{period}-{self.seed}.json"


def make_data(study: Study, root: Path) -> None:
    """Write the periods' rows, count them, make and extend the vocabularies, encode."""
    from mec.refresh.vocabulary import extend_vocabulary_step

    rows = root / "data" / "rows"

    def write(out: Path) -> None:
        table, periods = cut(study)
        for number, period in enumerate(periods):
            write_rows(table, [period.learned], period.tested, out / f"{number}.parquet")
            so_far = [p.learned for p in periods[: number + 1]]
            write_rows(table, so_far, period.tested, out / f"upto-{number}.parquet")

    def extend(period: int, out: Path) -> None:
        extend_vocabulary_step(
            parent=root / "data" / str(period - 1) / "vocabulary", counts=out / "counts", count=study.config.count,
            keep=1.0, out=out / "vocabulary",
        )  # fmt: skip

    complete(rows, write)
    for period in range(study.num_refreshes + 1):
        complete(root / "data" / str(period), partial(_encode, study, rows / f"{period}.parquet", period, extend))
        if period:
            so_far = root / "data" / f"upto-{period}"
            complete(so_far, partial(_encode, study, rows / f"upto-{period}.parquet", 0, extend))


def _encode(study: Study, rows: Path, period: int, extend: Callable[[int, Path], None], out: Path) -> None:
    from mec.data.counting import count_step
    from mec.data.encoding import encode_step
    from mec.data.vocabulary import vocabulary_step

    config = study.config
    data = config.data.model_copy(update={"path": str(rows)})
    count_step(data=data, count=config.count, seed=config.seed, out=out / "counts")
    if period:
        extend(period, out)
    else:
        vocabulary_step(counts=out / "counts", count=config.count, out=out / "vocabulary")
    encode_step(data=data, vocabulary=out / "vocabulary", seed=config.seed, out=out / "dataset")


def train_base(chain: Chain) -> str:
    """The train run on period 0."""
    facts = _train(chain, chain.data(0), chain.base)
    return f"test AUC {facts['auc']:.4f}"


def retrain(chain: Chain, period: int) -> str:
    """A train run on all rows up to a period; its cell."""
    out = chain.retrained(period)
    facts = _train(chain, chain.root / "data" / f"upto-{period}", out)
    kept = {name: facts[name] for name in ("auc", "logloss", "num_test_rows")}
    write_cell(chain.cell(RETRAIN, period), kept | seconds([out]))
    return f"test AUC {facts['auc']:.4f}"


def score_never_refreshed(chain: Chain, period: int) -> str:
    """The base run's codes on a period's test rows; its cell."""
    from mec.bundle import open_bundle
    from mec.ctr_model import predict_split
    from mec.data.dataset import EncodedDataset
    from mec.evaluation.metrics import auc
    from mec.model_bundle import load_ctr_model
    from mec.refresh.stale import stale_model

    bundles = {name: open_bundle(chain.base / name, name) for name in ("model", "codebook", "codes")}
    model = stale_model(load_ctr_model(bundles["model"], bundles["codebook"], bundles["codes"]))
    dataset = EncodedDataset.open(chain.data(period) / "dataset")
    logits, labels = predict_split(model, dataset, "test", chain.study.config.evaluate.batch_size)
    facts = {"auc": auc(labels, logits), "num_test_rows": len(labels), "num_new_rows": dataset.num_rows("train")}
    write_cell(chain.cell(NEVER, period), facts)
    return f"test AUC {facts['auc']:.4f}"


def refresh_tables(chain: Chain, variant: str, period: int) -> str:
    """Retrain the small model on a period's rows, from the tables of the period before."""
    from mec.refresh.pretraining import refresh_pretrain_step

    refresh, data = VARIANTS[variant], chain.data(period)

    def make(out: Path) -> None:
        refresh_pretrain_step(
            refresh=refresh, pretrain=chain.study.config.pretrain, dataset=data / "dataset",
            replay=[] if refresh.replay == "none" else [chain.data(p) / "dataset" for p in reversed(range(period))],
            vocabulary=data / "vocabulary", pretrained=chain.tables(variant, period - 1) / "pretrained",
            seed=chain.seed, checkpoints=None, out=out / "pretrained",
        )  # fmt: skip

    complete(chain.tables(variant, period), make)
    return ""


def refresh_codes(chain: Chain, variant: str, period: int) -> str:
    """Code the refreshed tables, score them with the base run's backbone and decide; the refresh's cell."""
    refresh, before, out = VARIANTS[variant], chain.codes(variant, period - 1), chain.codes(variant, period)
    complete(out, lambda draft: _code_and_score(chain, refresh, variant, period, draft))
    facts, decision = read_json(out / "evaluation" / EVALUATION), read_json(out / "decision" / "decision.json")
    known = sum(
        stream["size"] for stream in read_json(before / "codes" / "manifest.json")["extra"]["vocabularies"].values()
    )
    kept = {name: facts[name] for name in ("auc", "loglosses", "num_test_rows", "rows_rewritten")}
    kept |= {"auc_stale": facts["auc_stale"]["value"], "auc_at_training": facts["auc_at_training"]["value"]}
    kept |= {"rewritten_share": facts["rows_rewritten"] / known, "decision": decision["action"]}
    kept |= {"reasons": decision["reasons"]}
    write_cell(chain.cell(variant, period), kept | seconds([chain.tables(variant, period), out]))
    return f"test AUC {kept['auc']:.4f}, stale {kept['auc_stale']:.4f}, {kept['decision']}"


def _code_and_score(chain: Chain, refresh: RefreshConfig, variant: str, period: int, out: Path) -> None:
    from mec.refresh.deciding import decision_step
    from mec.refresh.evaluating import refresh_evaluate_step
    from mec.refresh.recode_step import recode_step

    config, data, before = chain.study.config, chain.data(period), chain.codes(variant, period - 1)
    old: dict[str, Any] = {"codebook": before / "codebook", "codes": before / "codes"}
    shared: dict[str, Any] = {"refresh": refresh, "vocabulary": data / "vocabulary", **old}
    recode_step(
        **shared, quantize=config.quantize, pretrained=chain.tables(variant, period) / "pretrained", seed=chain.seed,
        out_codebook=out / "codebook", out_codes=out / "codes",
    )  # fmt: skip
    refresh_evaluate_step(
        **shared, evaluate=config.evaluate, dataset=data / "dataset", model=chain.base / "model",
        evaluation=before / "evaluation", new_codebook=out / "codebook", new_codes=out / "codes",
        out=out / "evaluation",
    )  # fmt: skip
    decision_step(refresh=refresh, evaluation=out / "evaluation", out=out / "decision")


def _train(chain: Chain, data: Path, out: Path) -> dict[str, Any]:
    """A whole train run on encoded rows, from pre-training to evaluation; what it measured."""
    from mec.evaluation.evaluating import evaluate_step
    from mec.pretraining import pretrain_step
    from mec.quantize.quantizing import quantize_step
    from mec.training_steps import reference_step, train_step

    def make(at: Path) -> None:
        config = chain.study.config
        dataset, vocabulary = data / "dataset", data / "vocabulary"
        shared: dict[str, Any] = {"seed": chain.seed, "checkpoints": None}
        pretrain_step(pretrain=config.pretrain, dataset=dataset, vocabulary=vocabulary, **shared, out=at / "pretrained")
        quantize_step(
            quantize=config.quantize, pretrained=at / "pretrained", vocabulary=vocabulary, seed=chain.seed,
            out_codebook=at / "codebook", out_codes=at / "codes",
        )  # fmt: skip
        shared |= {"train": config.train, "dataset": dataset, "pretrained": at / "pretrained"}
        train_step(**shared, codebook=at / "codebook", codes=at / "codes", out=at / "model")
        reference_step(**shared, evaluate=config.evaluate, out=at / "reference")
        evaluate_step(
            evaluate=config.evaluate, dataset=dataset, vocabulary=vocabulary, model=at / "model", seed=chain.seed,
            codebook=at / "codebook", codes=at / "codes", reference=at / "reference", out=at / "evaluation",
        )  # fmt: skip

    complete(out, make)
    return read_json(out / "evaluation" / EVALUATION)
