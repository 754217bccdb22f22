"""Out-of-fold codes: each fold's table coded by hand with what is served, and what training on them changes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from mec.bundle import Bundle, open_bundle, write_bundle
from mec.config import PretrainConfig, QuantizeConfig, TrainConfig
from mec.ctr_model import CtrModel, predict_split
from mec.data.dataset import EncodedDataset
from mec.data.folds import Folds
from mec.embeddings.coded import CodedEmbedding
from mec.errors import ConfigError
from mec.evaluation.metrics import auc
from mec.fold_training import FoldTables, save_fold
from mec.model_bundle import load_ctr_model
from mec.pretraining import pretrain_step
from mec.quantize.codebook import Codebooks
from mec.quantize.codes import Codes
from mec.quantize.fold_codes import FoldCodes, code_folds
from mec.quantize.packing import unpack
from mec.quantize.quantizing import quantize_step
from mec.training_steps import train_step
from tests.quantize.tables import Made, clustered, make_bundles, zipf_counts
from tests.tiny import make_tiny

SIZES = {"user": 300, "colour": 6, "item": 200}
HEAD, TAIL_COUNT = 10, 400
NUM = 3


def served(root: Path, **settings: Any) -> tuple[Made, Codes]:
    made = make_bundles(root, {name: clustered(size, 5) for name, size in SIZES.items()})
    quantize = QuantizeConfig.model_validate({"num_codewords": 16, "min_values": 100, **settings})
    quantize_step(
        quantize=quantize, pretrained=made.pretrained, vocabulary=made.vocabulary, seed=0,
        out_codebook=root / "codebook", out_codes=root / "codes",
    )  # fmt: skip
    return made, Codes.open(root / "codes", Codebooks.open(root / "codebook"))


def fold_tables(root: Path, made: Made, scale: float = 0.2) -> FoldTables:
    """The served tables with noise of their own per fold; counts that differ too, and leave values out."""
    rng = np.random.default_rng(5)
    with write_bundle(root / "folds", "pretrained") as draft:
        for fold in range(NUM):
            rows = {
                n: torch.from_numpy(t + rng.normal(0, scale, t.shape).astype(np.float32))
                for n, t in made.tables.items()
            }
            counts = {n: rng.binomial(zipf_counts(size), 0.6) for n, size in SIZES.items()}
            counts["user"][250:260] = 0
            for counted in counts.values():
                counted[0] = (0, 1_000_000, 7)[fold]  # of a tail's shared row: none, nearly all, some
            save_fold(draft.path, fold, rows, counts)
        layout = open_bundle(made.pretrained).extra["layout"]
        draft.extra = {"embedding_dim": 4, "layout": layout, "folds": {"num": NUM, "seed": 1}}
    folds = FoldTables.of(open_bundle(root / "folds"))
    assert folds is not None
    return folds


def by_hand(codes: Codes, folds: FoldTables, fold: int, name: str) -> Tensor:
    """(V, W) rows that the fold's training rows read, value by value."""
    rows, counts = folds.rows(fold, name), folds.counts(fold, name)
    books = codes.codebooks
    if name in books.exact:
        return rows.to(books.exact[name].dtype).float()
    plan = codes.plan(name)
    end = plan.tail_start or len(rows)
    total, mean = 0.0, np.zeros(5)
    for value in (0, *range(end, len(rows))):
        total, mean = total + counts[value] ** 0.5, mean + counts[value] ** 0.5 * rows[value].double().numpy()
    shared = rows[0] if end == len(rows) else torch.from_numpy(mean / total).float()
    found = []
    for value in range(len(rows)):
        if 1 <= value <= plan.head:
            found.append(rows[value].to(codes.head[name].dtype).float())
        else:
            row = shared if value == 0 or value >= end else rows[value]
            found.append(nearest(codes, name, row))
    return torch.stack(found)


def nearest(codes: Codes, name: str, row: Tensor) -> Tensor:
    """The nearest pair of codewords whose first is among the four nearest, or the nearest ones side by side."""
    book, plan = codes.codebooks.coded[name], codes.plan(name)
    if plan.structure == "residual":
        first, second = book.codewords
        candidates = first[(row - first).square().sum(1).argsort()[:4]]
        sums = (candidates[:, None] + second[None]).flatten(0, 1)
        return sums[(row - sums).square().sum(1).argmin()]
    widths = [3, 2]  # of 5 floats in two sub-vectors
    parts = torch.split(row, widths)
    columns = torch.split(book.codewords, widths, dim=1)
    return torch.cat(
        [words[(part - words).square().sum(1).argmin()] for part, words in zip(parts, columns, strict=True)]
    )


@pytest.mark.parametrize("floats", ["float16", "float32"])
@pytest.mark.parametrize("structure", ["residual", "product"])
@pytest.mark.parametrize(
    "spans", [{}, {"head": HEAD}, {"tail_count": TAIL_COUNT}, {"head": HEAD, "tail_count": TAIL_COUNT}]
)
def test_each_folds_rows_are_coded_with_what_is_served(
    tmp_path: Path, spans: dict[str, int], structure: str, floats: str
) -> None:
    made, codes = served(tmp_path, num_codes=2, structure=structure, floats=floats, **spans)
    folds = fold_tables(tmp_path, made)
    coded = code_folds(folds, codes, "sqrt")
    assert coded.num == NUM
    embedding = CodedEmbedding(codes.codebooks, codes, folds=coded)
    for name, size in SIZES.items():
        ids = torch.arange(size, dtype=torch.int32)
        as_served = embedding.rows(name, ids)
        for fold in range(NUM):
            found = embedding.rows(name, ids, torch.full((size,), fold))
            torch.testing.assert_close(found, by_hand(codes, folds, fold, name), rtol=0, atol=1e-5)
            assert not torch.equal(found, as_served)


def test_streams_are_fold_after_fold_and_as_long_as_the_served_ones(tmp_path: Path) -> None:
    made, codes = served(tmp_path, num_codes=3, num_codewords=12, head=HEAD, tail_count=TAIL_COUNT)
    folds = fold_tables(tmp_path, made)
    coded = code_folds(folds, codes, "sqrt")
    for name in ("user", "item"):
        plan = codes.plan(name)
        num_coded = plan.coded(SIZES[name])
        stream = unpack(coded.packed[name], NUM * num_coded, 3, plan.bits).reshape(NUM, num_coded, 3)
        assert (len(coded.head[name]), coded.head[name].dtype) == (NUM * HEAD, torch.float16)
        for fold in range(NUM):
            own = folds.rows(fold, name)
            expected = codes.codebooks.encode(name, own[HEAD + 1 : HEAD + num_coded]).numpy()
            np.testing.assert_array_equal(stream[fold, 1:], expected)
            assert torch.equal(coded.head[name][fold * HEAD : (fold + 1) * HEAD], own[1 : HEAD + 1].half())
    assert set(coded.exact) == {"colour"}


def test_tables_that_are_the_served_ones_give_the_served_codes(tmp_path: Path) -> None:
    made, codes = served(tmp_path, num_codes=2, head=HEAD)
    coded = code_folds(fold_tables(tmp_path, made, scale=0.0), codes, "sqrt")
    embedding = CodedEmbedding(codes.codebooks, codes, folds=coded)
    for name, size in SIZES.items():
        ids = torch.arange(size, dtype=torch.int32)
        for fold in range(NUM):
            assert torch.equal(embedding.rows(name, ids, torch.full((size,), fold)), embedding.rows(name, ids))


@pytest.mark.parametrize("spans", [{}, {"head": HEAD}])
def test_rows_beyond_float16_are_refused(tmp_path: Path, spans: dict[str, int]) -> None:
    made, codes = served(tmp_path, **spans)
    folds = fold_tables(tmp_path, made, scale=1e6)
    with pytest.raises(ConfigError, match=r"an out-of-fold row of vocabulary '\w+' cannot be stored as float16"):
        code_folds(folds, codes, "sqrt")


PRETRAIN = PretrainConfig(embedding_dim=6, batch_size=512, max_epochs=2, learning_rate=0.02)
TRAIN = TrainConfig(batch_size=512, max_epochs=2, settings={"hidden_units": [8], "dropout": 0.0})


class Runs:
    """The same data through all steps, with and without folds."""

    def __init__(self, root: Path) -> None:
        self.root, self.tiny = root, make_tiny(root, num_rows=2000)
        for folds in (0, 2):
            self.path(folds, "pretrained").parent.mkdir()
            pretrain_step(
                pretrain=PRETRAIN.model_copy(update={"folds": folds}), dataset=self.tiny.dataset,
                vocabulary=self.tiny.vocabulary, seed=3, checkpoints=None, out=self.path(folds, "pretrained"),
            )  # fmt: skip
            quantize_step(
                quantize=QuantizeConfig(num_codes=2, num_codewords=16, min_values=100), seed=3,
                pretrained=self.path(folds, "pretrained"), vocabulary=self.tiny.vocabulary,
                out_codebook=self.path(folds, "codebook"), out_codes=self.path(folds, "codes"),
            )  # fmt: skip

    def path(self, folds: int, name: str) -> Path:
        return self.root / f"{folds}" / name

    def train(self, folds: int, name: str, **settings: Any) -> Bundle:
        train_step(
            train=TRAIN.model_copy(update=settings), dataset=self.tiny.dataset, seed=3, checkpoints=None,
            pretrained=self.path(folds, "pretrained"), codebook=self.path(folds, "codebook"),
            codes=self.path(folds, "codes"), out=self.path(folds, name),
        )  # fmt: skip
        return open_bundle(self.path(folds, name), "model")

    def load(self, folds: int, model: Bundle) -> CtrModel:
        return load_ctr_model(model, *(open_bundle(self.path(folds, name)) for name in ("codebook", "codes")))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"))


@pytest.mark.parametrize("codewords", ["frozen", "warm"])
def test_folds_take_no_bytes_and_the_model_is_judged_by_served_codes(runs: Runs, codewords: str) -> None:
    models = {folds: runs.train(folds, codewords, codewords=codewords) for folds in (0, 2)}
    for name in ("codebook", "codes"):
        with_folds, without = (open_bundle(runs.path(folds, name)).manifest.files for folds in (2, 0))
        assert with_folds == without, "names, bytes and checksums"
    sizes = {f: {name: facts["bytes"] for name, facts in m.manifest.files.items()} for f, m in models.items()}
    assert sizes[0] == sizes[2]
    loaded = {folds: runs.load(folds, model) for folds, model in models.items()}
    first, second = (model.embedding.serving_bytes() for model in loaded.values())
    assert first == second
    data = EncodedDataset.open(runs.tiny.dataset)
    for folds, model in loaded.items():
        logits, labels = predict_split(model, data, "valid", 2048)
        # trained codewords are rounded when they are written
        assert auc(labels, logits) == pytest.approx(
            models[folds].extra["fit"]["best_auc"], abs=1e-9 if codewords == "frozen" else 2e-3
        )
    weights = [load_file(model.file("weights.safetensors")) for model in models.values()]
    assert not all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_each_training_row_reads_the_codes_of_its_own_fold_and_validation_the_served(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []
    num_served = 0
    forward = CodedEmbedding.forward

    def spy(self: CodedEmbedding, ids: Tensor, fold: Tensor | None = None) -> Tensor:
        nonlocal num_served
        if fold is None:
            num_served += len(ids)
        else:
            seen.extend((*row, own) for row, own in zip(ids.tolist(), fold.tolist(), strict=True))
        return forward(self, ids, fold)

    monkeypatch.setattr(CodedEmbedding, "forward", spy)
    runs.train(2, "spied", max_epochs=1)
    data = EncodedDataset.open(runs.tiny.dataset)
    (batch,) = data.batches("train", 10_000)
    folds = Folds(2, 3).of_rows(0, batch.num_rows)
    assert Counter(seen) == Counter((*row, own) for row, own in zip(batch.ids.tolist(), folds.tolist(), strict=True))
    assert num_served == data.num_rows("valid")


def test_forward_by_fold_is_a_loop_over_folds_and_gradients_reach_warm_codewords(tmp_path: Path) -> None:
    made, codes = served(tmp_path, num_codes=2, head=HEAD)
    coded: FoldCodes = code_folds(fold_tables(tmp_path, made), codes, "sqrt")
    warm = CodedEmbedding(codes.codebooks, codes, "warm", coded)
    ids = torch.tensor([[50, 2, 60], [1, 0, 5], [299, 5, 199], [50, 2, 60]], dtype=torch.int32)
    fold = torch.tensor([0, 2, 1, 2])
    found = warm(ids, fold)
    found.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in warm.parameters())
    for row in range(4):
        alone = warm(ids[row : row + 1], fold[row : row + 1])[0]
        assert torch.equal(found[row], alone)
    assert torch.equal(found[:, 1], warm.exact[0][ids[:, 1]]), "trained exact rows are the same in every fold"
    assert not torch.equal(found[0, 0], found[3, 0])


def test_slots_that_share_a_vocabulary_read_their_rows_fold(runs: Runs) -> None:
    codes = Codes.open(runs.path(2, "codes"), Codebooks.open(runs.path(2, "codebook")))
    folds = FoldTables.of(open_bundle(runs.path(2, "pretrained")))
    assert folds is not None
    embedding = CodedEmbedding(codes.codebooks, codes, folds=code_folds(folds, codes, "sqrt"))
    batch = next(EncodedDataset.open(runs.tiny.dataset).with_folds(folds.folds).batches("train", 300))
    assert batch.fold is not None
    ids, fold = torch.from_numpy(batch.ids), torch.from_numpy(batch.fold).long()
    slots = [field.vocabulary for field in codes.codebooks.layout.fields]
    assert slots == ["user", "item", "colour", "item"]
    expected = torch.stack([embedding.rows(name, ids[:, i], fold) for i, name in enumerate(slots)], dim=1)
    assert torch.equal(embedding(ids, fold), expected)
    assert not torch.equal(embedding(ids), expected)
