"""The leak that folds close: rare values whose labels are noise, memorised in pre-training, trusted by the backbone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mec.bundle import open_bundle, write_bundle
from mec.config import PretrainConfig, QuantizeConfig, TrainConfig
from mec.data.layout import FieldLayout, FieldSlots
from mec.data.shards import DatasetWriter
from mec.pretraining import pretrain_step
from mec.quantize.quantizing import quantize_step
from mec.training_steps import train_step

SIZES = {"rare": 1501, "a": 21, "b": 21, "c": 21}
SPLITS = {"train": 4000, "valid": 4000}  # each rare value in some three rows of either
PRETRAIN = PretrainConfig(
    embedding_dim=4, l2=0.0, l2_warmup_epochs=0.0, learning_rate=0.05, batch_size=100, max_epochs=8, patience=9
)
QUANTIZE = QuantizeConfig(num_codes=2, num_codewords=32, min_values=100)
TRAIN = TrainConfig(model="dcnv2", learning_rate=0.01, batch_size=100, max_epochs=4, settings={"hidden_units": [8]})


def make_data(root: Path, seed: int) -> tuple[Path, Path]:
    """Vocabulary and dataset bundles of rows whose label depends on pairs of the popular values alone."""
    rng = np.random.default_rng(seed)
    fields = tuple(FieldSlots(name, "categorical", name, i, 1, "none") for i, name in enumerate(SIZES))
    factors = [rng.normal(0, 1, (size, 4)) for size in SIZES.values()]
    splits = {}
    for split, num_rows in SPLITS.items():
        ids = np.stack([1 + rng.integers(0, size - 1, num_rows) for size in SIZES.values()], axis=1).astype(np.uint32)
        a, b, c = (factors[i][ids[:, i]] for i in (1, 2, 3))
        logits = (a * b + b * c + a * c).sum(axis=1)
        splits[split] = ids, (rng.random(num_rows) < 1 / (1 + np.exp(-logits))).astype(np.uint8)
    with write_bundle(root / "vocabulary", "vocabulary", data_version="leak") as draft:
        for i, (name, size) in enumerate(SIZES.items()):
            columns = {
                "id": pa.array(range(size), pa.uint32()),
                "value": pa.array([None, *range(1, size)], pa.int64()),
                "count": np.bincount(splits["train"][0][:, i], minlength=size),
                "first_generation": pa.array(np.zeros(size), pa.int32()),
            }
            pq.write_table(pa.table(columns), draft.path / f"{name}.parquet")
        draft.extra = {
            "vocabularies": {name: {"size": size, "type": "int64"} for name, size in SIZES.items()},
            "generation": 0,
            "rows": SPLITS,
            "numeric": {},
        }
    with write_bundle(root / "dataset", "dataset", data_version="leak") as draft:
        with DatasetWriter(draft.path, FieldLayout(fields, tuple(SIZES.items()))) as writer:
            for split, (ids, label) in splits.items():
                writer.append(split, ids, label)
        draft.extra = writer.extra()
    return root / "vocabulary", root / "dataset"


@pytest.mark.parametrize("seed", [0, 1])
def test_a_backbone_that_learns_from_out_of_fold_codes_is_not_misled_by_memorised_labels(
    tmp_path: Path, seed: int
) -> None:
    vocabulary, dataset = make_data(tmp_path, seed)
    best = {}
    for folds in (0, 2):
        root = tmp_path / str(folds)
        root.mkdir()
        pretrain_step(
            pretrain=PRETRAIN.model_copy(update={"folds": folds}), dataset=dataset, vocabulary=vocabulary, seed=seed,
            checkpoints=None, out=root / "pretrained",
        )  # fmt: skip
        quantize_step(
            quantize=QUANTIZE, pretrained=root / "pretrained", vocabulary=vocabulary, seed=seed,
            out_codebook=root / "codebook", out_codes=root / "codes",
        )  # fmt: skip
        train_step(
            train=TRAIN, dataset=dataset, pretrained=root / "pretrained", codebook=root / "codebook",
            codes=root / "codes", seed=seed, checkpoints=None, out=root / "model",
        )  # fmt: skip
        best[folds] = open_bundle(root / "model").extra["fit"]["best_auc"]
    assert best[2] > best[0] + 0.015
