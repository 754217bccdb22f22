"""The small model again: how it starts, what anchors it, what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mec.alignment import align, shared_weights
from mec.bundle import open_bundle
from mec.checkpoints import Checkpoints
from mec.config import PretrainConfig, RefreshConfig
from mec.ctr_model import squared_norm
from mec.data.dataset import EncodedDataset
from mec.data.vocabulary import Vocabularies
from mec.embeddings.full import FullEmbedding
from mec.errors import BundleError, ConfigError, DataError, SpaceError
from mec.pretraining import build_pretrained
from mec.refresh.anchoring import AnchoredModel
from mec.refresh.pretraining import refresh_pretrain_step, warm_tables
from mec.refresh.recode_step import recode_step
from mec.refresh.refreshable import check_refreshable
from mec.refresh.replay import write_training_rows
from mec.refresh.vocabulary import new_counts
from mec.training import FitResult, fit
from mec.training_steps import train_step
from tests.refresh.refresh_run import Generation, new_period, pretrain_again, train_run


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Generation:
    return train_run(tmp_path_factory.mktemp("run"), 1200)


@pytest.fixture(scope="module")
def new(base: Generation, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return new_period(base, tmp_path_factory.mktemp("new"), num_rows=800)


def tables(path: Path) -> dict[str, torch.Tensor]:
    return load_file(open_bundle(path).file("tables.safetensors"))


def test_a_warm_start_is_the_old_rows_and_their_mean() -> None:
    old = {"a": torch.tensor([[1.0, 2.0], [3.0, 4.0]])}
    noise = torch.tensor([[9.0, 9.0], [9.0, 9.0], [0.0, 0.5]])
    warm_tables({"a": noise}, old, 1.0)
    assert noise.tolist() == [[1.0, 2.0], [3.0, 4.0], [2.0, 3.5]]


def test_a_shrunk_start_keeps_directions() -> None:
    old = {"a": torch.tensor([[1.0, 2.0], [3.0, 4.0]])}
    noise = torch.tensor([[9.0, 9.0], [9.0, 9.0], [0.0, 0.5]])
    warm_tables({"a": noise}, old, 0.5)
    assert noise.tolist() == [[0.5, 1.0], [1.5, 2.0], [1.0, 2.0]]


def test_the_start_decides_where_training_begins(
    base: Generation, new: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, begun = tables(base.pretrained), {}

    def stop(model: Any, *_: Any, **__: Any) -> Any:
        begun[name] = {n: t.clone() for n, t in model.embedding.tables().items()}
        raise KeyboardInterrupt

    monkeypatch.setattr("mec.refresh.pretraining.fit", stop)
    for name, settings in {"warm": {}, "shrunk": {"shrink": 0.25}, "fresh": {}}.items():
        refresh = RefreshConfig.model_validate({"start": name, "replay": "none", **settings})
        with pytest.raises(KeyboardInterrupt):
            pretrain_again(base, new, tmp_path / name, refresh)
    for vocabulary, rows in old.items():
        assert torch.equal(begun["warm"][vocabulary][: len(rows)], rows)
        assert torch.equal(begun["shrunk"][vocabulary][: len(rows)], 0.25 * rows)
        assert not torch.allclose(begun["fresh"][vocabulary][: len(rows)], rows)


def test_an_anchor_keeps_vectors_near_and_only_those_of_known_values(
    base: Generation, new: dict[str, Path], tmp_path: Path
) -> None:
    old, moved = tables(base.pretrained), []
    for anchor in (0.0, 10.0):
        refresh = RefreshConfig(start="warm", replay="none", anchor=anchor)
        after = tables(pretrain_again(base, new, tmp_path / str(anchor), refresh))
        known = sum(float((after[n][: len(rows)] - rows).square().sum()) for n, rows in old.items())
        moved.append(known)
    assert moved[1] < 0.05 * moved[0]


@pytest.mark.parametrize(("l2", "anchor"), [(0.3, 0.7), (0.0, 2.0)])
def test_the_penalised_rows_are_l2_and_anchor(base: Generation, new: dict[str, Path], l2: float, anchor: float) -> None:
    data = EncodedDataset.open(new["dataset"])
    plain = build_pretrained(data, PretrainConfig(embedding_dim=4, init_std=0.5), 0)
    assert isinstance(plain.embedding, FullEmbedding)
    old = tables(base.pretrained)
    model = AnchoredModel(data.layout, plain.embedding, plain.backbone, old, l2, anchor).train()
    for table in (m for m in model.modules() if hasattr(m, "start_training")):
        table.start_training()
    batch = next(data.batches("train", 64))
    assert batch.weights is not None
    _, rows = model(torch.from_numpy(batch.ids), torch.from_numpy(batch.weights))
    used = rows * (torch.from_numpy(batch.weights) != 0)[:, :, None]
    expected, views = 0.0, plain.embedding.tables()
    for row, weights in zip(batch.ids, batch.weights, strict=True):
        for slot, field in enumerate(data.layout.fields):
            if weights[slot] == 0:
                continue
            own, value = views[field.vocabulary][int(row[slot])], int(row[slot])
            expected += l2 * own.square().sum().item()
            if value < len(old[field.vocabulary]):
                expected += anchor * (own - old[field.vocabulary][value]).square().sum().item()
    assert (model.weight * squared_norm(used)).item() == pytest.approx(expected, rel=1e-5)
    assert torch.equal(
        model.eval().logits(torch.from_numpy(batch.ids), None), model(torch.from_numpy(batch.ids), None)[0]
    )


def test_fresh_vectors_are_rotated_into_the_space(base: Generation, new: dict[str, Path], tmp_path: Path) -> None:
    out = pretrain_again(base, new, tmp_path / "fresh", RefreshConfig(start="fresh", replay="all"))
    bundle = open_bundle(out)
    overall = bundle.extra["alignment"]["overall"]
    assert overall["explained_after"] > overall["explained_before"]
    old, vocabularies = tables(base.pretrained), Vocabularies.open(new["vocabulary"])
    trained = load_file(bundle.file("trained.safetensors"))
    counts = {n: (vocabularies.counts(n) - new_counts(vocabularies, n))[: len(rows)] for n, rows in old.items()}
    weights = {n: shared_weights(counts[n], trained[n].numpy()) for n in old}
    again = align(old, tables(out), weights, counts).overall  # a second rotation finds nothing left to do
    assert again.explained_before == pytest.approx(overall["explained_after"], abs=1e-4)
    assert again.explained_after == pytest.approx(overall["explained_after"], abs=1e-4)
    assert bundle.extra["space"] == open_bundle(base.pretrained).extra["space"]
    assert bundle.extra["rows"]["replayed"] == EncodedDataset.open(base.dataset).num_rows("train")
    assert not (tmp_path / "fresh.rows").exists()


def test_a_drawn_sample_has_each_old_row_once_at_most(base: Generation, new: dict[str, Path], tmp_path: Path) -> None:
    old, own = EncodedDataset.open(base.dataset), EncodedDataset.open(new["dataset"])
    refresh = RefreshConfig(replay_ratio=0.5, replay_min_rows=1)
    mixed = write_training_rows(own, [old, old], refresh, 3, tmp_path / "rows")
    num_new = own.num_rows("train")
    assert mixed.num_rows("train") == num_new + round(0.5 * num_new)
    assert mixed.num_rows("valid") == own.num_rows("valid")
    found = np.concatenate([np.c_[b.ids, b.weights, b.label] for b in mixed.batches("train", 1000)])
    new_part = np.concatenate([np.c_[b.ids, b.weights, b.label] for b in own.batches("train", 1000)])
    assert np.array_equal(found[:num_new], new_part)
    known = {tuple(r) for b in old.batches("train", 1000) for r in np.c_[b.ids, b.weights, b.label].tolist()}
    drawn = [tuple(r) for r in found[num_new:].tolist()]
    assert set(drawn) <= known
    assert max(drawn.count(r) for r in drawn) <= 2  # the price makes rows distinct, and each is in both datasets
    other = write_training_rows(own, [old, old], refresh, 4, tmp_path / "other")
    assert other.bundle.uuid != mixed.bundle.uuid


@pytest.mark.parametrize(
    ("settings", "replayed"),
    [
        ({"replay_ratio": 0.5, "replay_min_rows": 400}, lambda new, old: 400),
        ({"replay_ratio": 0.5, "replay_min_rows": 1}, lambda new, old: round(0.5 * new)),
        ({"replay_ratio": 0.5, "replay_min_rows": 10**9}, lambda new, old: 2 * old),
        ({"replay_ratio": 1_000.0, "replay_min_rows": 1}, lambda new, old: 2 * old),
        ({}, lambda new, old: 2 * old),
    ],
)
def test_few_old_rows_are_all_replayed(
    base: Generation,
    new: dict[str, Path],
    tmp_path: Path,
    settings: dict[str, Any],
    replayed: Any,
) -> None:
    old, own = EncodedDataset.open(base.dataset), EncodedDataset.open(new["dataset"])
    num_new, num_old = own.num_rows("train"), old.num_rows("train")
    assert num_new < 800 < 2 * num_old, "else the cases do not differ"
    mixed = write_training_rows(own, [old, old], RefreshConfig.model_validate(settings), 3, tmp_path / "rows")
    assert mixed.num_rows("train") - num_new == mixed.bundle.extra["replayed"] == replayed(num_new, num_old)


def test_a_killed_training_goes_on(
    base: Generation, new: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refresh = RefreshConfig()
    inputs: dict[str, Any] = {
        "refresh": refresh, "pretrain": base.config.pretrain, "dataset": new["dataset"], "replay": base.datasets,
        "vocabulary": new["vocabulary"], "pretrained": base.pretrained, "seed": 1, "checkpoints": tmp_path / "kept",
    }  # fmt: skip
    whole = pretrain_again(base, new, tmp_path / "whole", refresh)
    with monkeypatch.context() as patch:
        patch.setattr("mec.refresh.pretraining.count_rows", _killed)
        with pytest.raises(KeyboardInterrupt):
            refresh_pretrain_step(**inputs, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert list((tmp_path / "kept").iterdir())
    other = RefreshConfig(learning_rate_factor=0.5)  # whose training takes nothing from the one that was killed
    whole_other = pretrain_again(base, new, tmp_path / "whole_other", other)
    refresh_pretrain_step(**inputs | {"refresh": other}, out=tmp_path / "other")
    assert open_bundle(tmp_path / "other").uuid == open_bundle(whole_other).uuid != open_bundle(whole).uuid
    refresh_pretrain_step(**inputs, out=tmp_path / "out")
    assert open_bundle(tmp_path / "out").uuid == open_bundle(whole).uuid
    assert not list((tmp_path / "kept").iterdir())


@pytest.mark.parametrize("part", [1, 2])
def test_a_training_killed_in_either_part_goes_on(
    base: Generation, new: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int
) -> None:
    refresh = RefreshConfig()
    whole = pretrain_again(base, new, tmp_path / "whole", refresh)
    saves, save = [], Checkpoints.save

    def save_and_stop(self: Checkpoints, state: dict[str, Any]) -> None:
        save(self, state)
        saves.append(self.path)
        if len(set(saves)) == part and saves.count(self.path) == 2:
            raise KeyboardInterrupt

    inputs: dict[str, Any] = {
        "refresh": refresh, "pretrain": base.config.pretrain, "dataset": new["dataset"], "replay": base.datasets,
        "vocabulary": new["vocabulary"], "pretrained": base.pretrained, "seed": 1, "checkpoints": tmp_path / "kept",
    }  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            refresh_pretrain_step(**inputs, out=tmp_path / "out")
    assert len(list((tmp_path / "kept").iterdir())) == part
    refresh_pretrain_step(**inputs, out=tmp_path / "out")
    assert open_bundle(tmp_path / "out").uuid == open_bundle(whole).uuid
    assert not list((tmp_path / "kept").iterdir())


def test_the_new_rows_come_alone_at_the_end(
    base: Generation, new: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_new, num_old = (EncodedDataset.open(p).num_rows("train") for p in (new["dataset"], base.dataset))
    step_size = base.config.pretrain.learning_rate
    seen: list[tuple[int, float, float]] = []

    def look(model: Any, dataset: EncodedDataset, how: Any, **settings: Any) -> FitResult:
        times = how.learning_rate / step_size
        seen.append((dataset.num_rows("train"), times, settings.get("start_auc", -math.inf)))
        return fit(model, dataset, how, **settings)

    monkeypatch.setattr("mec.refresh.pretraining.fit", look)
    both = open_bundle(pretrain_again(base, new, tmp_path / "both", RefreshConfig(replay="all"))).extra
    assert seen == [(num_new + num_old, 2, -math.inf), (num_new, 1, both["fit"]["best_auc"])]
    assert both["finish"]["best_auc"] >= both["fit"]["best_auc"]
    seen.clear()
    once = RefreshConfig(replay="all", finish_on_new=False)
    assert open_bundle(pretrain_again(base, new, tmp_path / "once", once)).extra["finish"] is None
    assert seen == [(num_new + num_old, 2, -math.inf)]
    seen.clear()
    pretrain_again(base, new, tmp_path / "none", RefreshConfig(replay="none"))
    pretrain_again(base, new, tmp_path / "warm", RefreshConfig(start="warm", finish_on_new=False))
    pretrain_again(base, new, tmp_path / "slow", RefreshConfig(learning_rate_factor=0.5, finish_on_new=False))
    assert [times for _, times, _ in seen] == [1, 1, 0.5]


def _killed(*_: object) -> None:
    raise KeyboardInterrupt


def test_what_does_not_belong_together_is_refused(base: Generation, new: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"

    def again(refresh: RefreshConfig | None = None, **changed: Any) -> None:
        inputs = {
            "pretrain": base.config.pretrain,
            "dataset": new["dataset"],
            "vocabulary": new["vocabulary"],
        } | changed
        refresh_pretrain_step(
            refresh=refresh or RefreshConfig(), replay=(), pretrained=base.pretrained, seed=1, checkpoints=None,
            out=out, **inputs,
        )  # fmt: skip

    with pytest.raises(DataError, match=r"refresh.replay is 'sample'.*found: 0 datasets"):
        again()
    none = RefreshConfig(replay="none")
    with pytest.raises(ConfigError, match=r"has embedding_dim 4; found: pretrain.embedding_dim 8"):
        again(none, pretrain=base.config.pretrain.model_copy(update={"embedding_dim": 8}))
    with pytest.raises(SpaceError, match="encoded with another vocabulary"):
        again(none, vocabulary=base.vocabulary)
    assert not out.exists()


def test_codes_of_another_space_or_an_older_vocabulary_are_refused(
    base: Generation, new: dict[str, Path], tmp_path: Path
) -> None:
    pretrained = pretrain_again(base, new, tmp_path / "pretrained", RefreshConfig(replay="none"))
    other = train_run(tmp_path / "other", 1000)
    inputs: dict[str, Any] = {
        "refresh": RefreshConfig(), "quantize": base.config.quantize, "pretrained": pretrained, "seed": 0,
        "codebook": base.codebook, "codes": base.codes, "vocabulary": new["vocabulary"],
    }  # fmt: skip
    for changed, words, error in (
        ({"codebook": other.codebook, "codes": other.codes}, "not of the space of the codes", SpaceError),
        ({"vocabulary": base.vocabulary}, "were not trained with the vocabulary", SpaceError),
        ({"codebook": other.codebook}, "not of codebook", SpaceError),
        ({"codes": base.codebook}, "not a codes bundle", BundleError),
    ):
        with pytest.raises(error, match=words):
            recode_step(**inputs | changed, out_codebook=tmp_path / "book", out_codes=tmp_path / "codes")
        assert not (tmp_path / "codes").exists()


def test_models_of_full_tables_or_with_codewords_of_their_own_cannot_be_refreshed(
    base: Generation, tmp_path: Path
) -> None:
    check_refreshable(open_bundle(base.model))
    with pytest.raises(ConfigError, match=r"does not score codes.*found: embedding 'none'"):
        check_refreshable(open_bundle(base.reference))
    train: Any = base.config.train.model_copy(update={"codewords": "warm", "max_epochs": 1})
    inputs = {role: base.bundles[role] for role in ("dataset", "pretrained", "codebook", "codes")}
    train_step(train=train, **inputs, seed=0, checkpoints=None, out=tmp_path / "warm")
    with pytest.raises(ConfigError, match=r"trained its codewords on.*found: 4 trained tensors"):
        check_refreshable(open_bundle(tmp_path / "warm"))
