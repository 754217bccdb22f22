"""Pre-train, quantize, train on codes and on full tables: what moves, what stays, what is refused."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mec import pretraining, training_steps
from mec.bundle import Bundle, open_bundle, write_bundle
from mec.config import CountConfig, EvaluateConfig, PretrainConfig, QuantizeConfig, ReferenceConfig, TrainConfig
from mec.ctr_model import CtrModel
from mec.data.layout import FieldLayout
from mec.data.shards import DatasetWriter
from mec.data.vocabulary import Vocabularies, vocabulary_step
from mec.embeddings.coded import CodedEmbedding
from mec.errors import BundleError, ConfigError, SpaceError
from mec.model_bundle import WEIGHTS_FILE, load_ctr_model, write_model
from mec.models import build_backbone
from mec.pretraining import fill_unseen, pretrain_step
from mec.quantize.codebook import Codebooks
from mec.quantize.codes import Codes
from mec.quantize.quantizing import quantize_step
from mec.training import FitResult
from mec.training_steps import reference_step, train_step
from tests.tiny import LAYOUT, make_tiny

PRETRAIN = PretrainConfig(embedding_dim=6, batch_size=512, max_epochs=3, learning_rate=0.02, folds=0)
QUANTIZE = QuantizeConfig(num_codes=2, num_codewords=16, min_values=100)
TRAIN = TrainConfig(batch_size=512, max_epochs=2, settings={"hidden_units": [8], "dropout": 0.0})
FULL = ReferenceConfig(batch_size=512, max_epochs=2, l2=0.01)


@dataclass(frozen=True)
class Run:
    root: Path
    vocabulary: Path
    dataset: Path
    pretrained: Path
    codebook: Path
    codes: Path

    def train(self, name: str, train: TrainConfig = TRAIN) -> Bundle:
        out = self.root / name
        train_step(
            train=train, dataset=self.dataset, pretrained=self.pretrained, codebook=self.codebook,
            codes=self.codes, seed=0, checkpoints=self.root / "work", out=out,
        )  # fmt: skip
        return open_bundle(out, "model")

    def reference(self, name: str, evaluate: EvaluateConfig) -> Bundle:
        out = self.root / name
        reference_step(
            train=TRAIN, evaluate=evaluate, dataset=self.dataset, pretrained=self.pretrained, seed=0,
            checkpoints=None, out=out,
        )  # fmt: skip
        return open_bundle(out, "model")

    def load(self, model: Bundle) -> CtrModel:
        return load_ctr_model(model, open_bundle(self.codebook), open_bundle(self.codes))


def make_run(root: Path, seed: int = 0) -> Run:
    tiny = make_tiny(root)
    run = Run(root, tiny.vocabulary, tiny.dataset, root / "pretrained", root / "codebook", root / "codes")
    pretrain_step(
        pretrain=PRETRAIN,
        dataset=run.dataset,
        vocabulary=run.vocabulary,
        seed=seed,
        checkpoints=root / "work",
        out=run.pretrained,
    )
    quantize_step(
        quantize=QUANTIZE,
        pretrained=run.pretrained,
        vocabulary=run.vocabulary,
        seed=seed,
        out_codebook=run.codebook,
        out_codes=run.codes,
    )
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("run"))


def test_pretrained_tables_have_the_layouts_shapes_and_one_space(run: Run) -> None:
    bundle = open_bundle(run.pretrained, "pretrained")
    tables = load_file(bundle.file("tables.safetensors"))
    assert {n: tuple(t.shape) for n, t in tables.items()} == {"user": (301, 7), "item": (201, 7), "colour": (5, 7)}
    assert open_bundle(run.codebook).extra["space"] == bundle.extra["space"]
    assert not list((run.root / "work").glob("pretrain-*")), "the checkpoint of a finished step is removed"


def test_the_same_seed_gives_the_same_bundles_and_another_another_space(run: Run, tmp_path: Path) -> None:
    again, other = make_run(tmp_path / "again"), make_run(tmp_path / "other", seed=1)
    for kind in ("pretrained", "codebook", "codes"):
        assert open_bundle(getattr(again, kind)).uuid == open_bundle(getattr(run, kind)).uuid
    assert open_bundle(other.pretrained).extra["space"] != open_bundle(run.pretrained).extra["space"]


def test_unseen_rows_get_the_mean_of_the_seen(run: Run) -> None:
    counts = Vocabularies.open(run.vocabulary).counts("item")
    assert counts[0] == 0
    table = torch.arange(201 * 2, dtype=torch.float32).view(201, 2)
    seen = torch.from_numpy(counts > 0)
    filled = fill_unseen({"item": table.clone()}, {"item": counts}, {"item": "int64"})["item"]
    torch.testing.assert_close(filled[0], table[seen].mean(dim=0))
    assert torch.equal(filled[seen], table[seen])


def test_the_null_of_a_linear_field_that_training_never_saw_adds_nothing(tmp_path: Path) -> None:
    for nulls, expected in ((0, [0.0, 0.0]), (3, [5.0, 6.0])):
        with write_bundle(tmp_path / f"counts-{nulls}", "counts") as draft:
            fact = {"mean": 1.0, "std": 2.0, "num_values": 40, "num_nulls": nulls}
            draft.extra = {"vocabularies": {}, "rows": {}, "numeric": {"price": fact}}
        out = tmp_path / f"vocabulary-{nulls}"
        vocabulary_step(counts=draft.path, count=CountConfig(), out=out)
        table = torch.tensor([[5.0, 6.0], [2.0, 3.0]])
        made = Vocabularies.open(out)
        filled = fill_unseen({"price": table}, {"price": made.counts("price")}, made.types)["price"]
        assert filled.tolist() == [expected, [2.0, 3.0]]


def test_frozen_codewords_stay_and_are_not_written_again(run: Run) -> None:
    model = run.train("frozen")
    assert not [k for k in load_file(model.file(WEIGHTS_FILE)) if k.startswith("embedding.")]
    loaded = run.load(model).embedding
    assert isinstance(loaded, CodedEmbedding)
    books = Codebooks.open(run.codebook)
    for name in books.coded:
        assert torch.equal(loaded.codebook(name).codewords, books.coded[name].codewords)


@pytest.mark.parametrize("codewords", ["warm", "random"])
def test_trained_codewords_move_and_survive_the_round_trip(run: Run, codewords: str) -> None:
    model = run.train(codewords, TRAIN.model_copy(update={"codewords": codewords}))
    loaded = run.load(model).embedding
    assert isinstance(loaded, CodedEmbedding)
    books = Codebooks.open(run.codebook)
    weights = load_file(model.file(WEIGHTS_FILE))
    for i, name in enumerate(books.coded):
        assert not torch.equal(loaded.codewords[i], books.coded[name].codewords)
        assert torch.equal(loaded.codewords[i], weights[f"embedding.codewords.{i}"])
        assert loaded.codewords[i].dtype == weights["embedding.exact.0"].dtype == torch.float16
    assert not torch.equal(loaded.exact[0], books.exact[loaded.exact_names[0]])


def test_trained_codewords_are_rounded_when_they_are_written(run: Run, tmp_path: Path) -> None:
    books = Codebooks.open(run.codebook)
    embedding = CodedEmbedding(books, Codes.open(run.codes, books), "warm")
    with torch.no_grad():
        embedding.codewords[0].add_(1e-5)
    model = CtrModel(books.layout, embedding, build_backbone("lr", books.layout.num_fields, 6, {}))
    shape = {"embedding": "codes", "backbone": "lr", "space": books.space, "codebook": books.uuid}
    write_model(tmp_path / "model", model, **shape, parents={}, config={}, fit={})
    loaded = run.load(open_bundle(tmp_path / "model")).embedding
    assert isinstance(loaded, CodedEmbedding)
    assert torch.equal(loaded.codewords[0], embedding.codewords[0].half())
    written = load_file(tmp_path / "model" / WEIGHTS_FILE)
    assert torch.equal(written["embedding.codewords.0"], embedding.codewords[0].half())
    assert not torch.equal(loaded.codewords[0].float(), embedding.codewords[0])
    with torch.no_grad():
        embedding.exact[0][0, 0] = 1e5
    with pytest.raises(ConfigError, match=r"the trained embedding\.exact\.0 cannot be stored as float16"):
        write_model(tmp_path / "never", model, **shape, parents={}, config={}, fit={})
    assert not (tmp_path / "never").exists()


def test_rows_are_the_decoded_codes_and_exact_rows(run: Run) -> None:
    books = Codebooks.open(run.codebook)
    embedding = run.load(run.train("rows")).embedding
    assert isinstance(embedding, CodedEmbedding)
    ids = torch.tensor([[300, 200, 4, 1], [0, 0, 0, 0]], dtype=torch.int32)
    rows = embedding(ids)
    tables = load_file(open_bundle(run.pretrained).file("tables.safetensors"))
    for slot, name in ((0, "user"), (1, "item"), (3, "item")):
        expected = books.decode(name, books.encode(name, tables[name][ids[:, slot]]))
        torch.testing.assert_close(rows[:, slot], expected)
    assert torch.equal(rows[:, 2], tables["colour"][ids[:, 2]].half().float())


def test_the_model_scores_the_same_after_loading(run: Run) -> None:
    first, second = run.load(run.train("a")), run.load(run.train("b"))
    ids = torch.randint(0, 5, (50, 4), dtype=torch.int32)
    assert torch.equal(first.logits(ids, None), second.logits(ids, None))


def test_the_reference_starts_from_the_pretrained_tables_or_random(run: Run) -> None:
    evaluate = EvaluateConfig(reference="full", full=FULL)
    warm = run.reference("warm-start", evaluate)
    cold = run.reference(
        "cold-start", EvaluateConfig(reference="full", full=FULL.model_copy(update={"init": "random"}))
    )
    assert warm.extra["fit"]["history"][0]["valid_auc"] > cold.extra["fit"]["history"][0]["valid_auc"]
    still = FULL.model_copy(update={"learning_rate": 1e-12, "max_epochs": 1})
    start = run.reference("still", EvaluateConfig(reference="full", full=still))
    found = load_ctr_model(start, None, None).embedding.tables()  # type: ignore[operator]
    for name, table in load_file(open_bundle(run.pretrained).file("tables.safetensors")).items():
        torch.testing.assert_close(found[name], table, rtol=0, atol=1e-6)
    assert load_ctr_model(warm, None, None).embedding.serving_bytes()["rows"] == (301 + 201 + 5) * 7 * 4


def test_no_reference_is_a_bundle_that_says_so(run: Run) -> None:
    assert run.reference("none", EvaluateConfig()).extra == {"embedding": "none"}


def test_a_codebook_of_another_space_is_refused(run: Run, tmp_path: Path) -> None:
    other = make_run(tmp_path, seed=1)
    with pytest.raises(SpaceError, match="not of the space"):
        train_step(
            train=TRAIN, dataset=run.dataset, pretrained=run.pretrained, codebook=other.codebook,
            codes=other.codes, seed=0, checkpoints=None, out=tmp_path / "model",
        )  # fmt: skip
    assert not (tmp_path / "model").exists()
    model = run.train("mine")
    with pytest.raises(SpaceError, match=f"model {model.uuid} was trained in"):
        load_ctr_model(model, open_bundle(other.codebook), open_bundle(other.codes))
    with pytest.raises(SpaceError, match="are not of codebook"):
        load_ctr_model(model, open_bundle(run.codebook), open_bundle(other.codes))
    with pytest.raises(BundleError, match="needs a codebook"):
        load_ctr_model(model, None, None)


def test_a_dataset_of_other_vocabularies_is_refused(run: Run, tmp_path: Path) -> None:
    other = tmp_path / "dataset"
    layout = FieldLayout(LAYOUT.fields, (("user", 301), ("item", 202), ("colour", 5)))
    with write_bundle(other, "dataset") as draft:
        with DatasetWriter(draft.path, layout) as writer:
            writer.append("train", np.ones((4, 4), np.uint32), np.array([0, 1, 0, 1], np.uint8))
        draft.extra = writer.extra()
    with pytest.raises(SpaceError, match="not encoded with the fields and vocabularies"):
        replace(run, root=tmp_path, dataset=other).train("model")
    with pytest.raises(SpaceError, match="not encoded with the fields and vocabularies"):
        replace(run, root=tmp_path, dataset=other).reference("full", EvaluateConfig(reference="full", full=FULL))


def test_trained_codewords_are_bound_to_their_codebook_and_frozen_ones_to_its_space(run: Run, tmp_path: Path) -> None:
    again, codes = tmp_path / "codebook", tmp_path / "codes"
    quantize_step(
        quantize=QUANTIZE, pretrained=run.pretrained, vocabulary=run.vocabulary, seed=7,
        out_codebook=again, out_codes=codes,
    )  # fmt: skip
    assert open_bundle(again).uuid != open_bundle(run.codebook).uuid
    load_ctr_model(run.train("kept"), open_bundle(again), open_bundle(codes))
    warm = run.train("bound", TRAIN.model_copy(update={"codewords": "warm"}))
    run.load(warm)
    with pytest.raises(SpaceError, match=f"fit codes of codebook {open_bundle(run.codebook).uuid} only"):
        load_ctr_model(warm, open_bundle(again), open_bundle(codes))


def test_the_checkpoint_stays_until_the_model_is_written(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: object, **more: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(training_steps, "write_model", fails)
    with pytest.raises(OSError, match="disk full"):
        run.train("unwritten")
    assert len(list((run.root / "work").glob("train-*"))) == 1
    monkeypatch.undo()
    run.train("unwritten")
    assert not list((run.root / "work").glob("train-*"))


def test_l2_of_pretraining_rises_over_the_warm_up(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[float, list[float]] = {}

    def remember(model: CtrModel, data: object, settings: PretrainConfig, **more: object) -> FitResult:
        found[settings.l2_warmup_epochs] = [more["l2_at"](epoch) for epoch in (0.5, 1.0, 2.0, 5.0)]  # type: ignore[operator]
        return FitResult(best_auc=0.5)

    monkeypatch.setattr(pretraining, "fit", remember)
    for warmup in (0.0, 2.0):
        settings = PRETRAIN.model_copy(update={"l2": 0.4, "l2_warmup_epochs": warmup})
        pretrain_step(
            pretrain=settings, dataset=run.dataset, vocabulary=run.vocabulary, seed=0, checkpoints=None,
            out=tmp_path / str(warmup),
        )  # fmt: skip
    assert found == {0.0: [0.4] * 4, 2.0: pytest.approx([0.1, 0.2, 0.4, 0.4])}


@pytest.mark.parametrize("model", ["deepfm", "dcnv2"])
def test_other_models_pretrain_too(run: Run, tmp_path: Path, model: str) -> None:
    for out in ("a", "b"):
        pretrain_step(
            pretrain=PRETRAIN.model_copy(update={"model": model, "settings": {"hidden_units": [8]}, "max_epochs": 1}),
            dataset=run.dataset,
            vocabulary=run.vocabulary,
            seed=0,
            checkpoints=None,
            out=tmp_path / out,
        )
    first, second = open_bundle(tmp_path / "a", "pretrained"), open_bundle(tmp_path / "b", "pretrained")
    assert first.extra["model"] == model
    assert first.uuid == second.uuid
    assert first.extra["space"] != open_bundle(run.pretrained).extra["space"]
