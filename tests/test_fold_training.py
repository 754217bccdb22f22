"""Out-of-fold tables: they never saw their rows' labels, lie in the space, and keep what a rotation keeps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import ortho_group
from torch import Tensor

from mec import pretraining, training
from mec.bundle import Bundle, open_bundle, write_bundle
from mec.checkpoints import Checkpoints
from mec.config import PretrainConfig, section
from mec.data.dataset import EncodedDataset
from mec.data.folds import Folds
from mec.data.layout import PAD_ID, FieldLayout, FieldSlots
from mec.data.shards import DatasetWriter
from mec.errors import BundleError, ConfigError, DataError, TrainingError
from mec.fold_training import FoldTables, count_rows, fold_seed, into_space, refuse_unlearned, save_fold
from mec.pretraining import pretrain_step
from tests.tiny import LAYOUT, SIZES, Tiny, make_tiny

PRETRAIN = PretrainConfig(embedding_dim=6, batch_size=256, max_epochs=2, patience=9, learning_rate=0.02)
FOLDS = Folds(2, 0)
Change = Callable[[NDArray[np.uint32], NDArray[np.uint8], NDArray[np.uint8]], None]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return make_tiny(tmp_path_factory.mktemp("tiny"), num_rows=2000)


@pytest.fixture(scope="module")
def pretrained(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return pretrain(tiny, tmp_path_factory.mktemp("pretrained") / "p")


def pretrain(tiny: Tiny, out: Path, checkpoints: Path | None = None, **settings: Any) -> Bundle:
    pretrain_step(
        pretrain=PRETRAIN.model_copy(update=settings), dataset=tiny.dataset, vocabulary=tiny.vocabulary, seed=0,
        checkpoints=checkpoints, out=out,
    )  # fmt: skip
    return open_bundle(out, "pretrained")


def changed(tiny: Tiny, out: Path, change: Change) -> Tiny:
    """The same data, training rows but for what ``change`` does to their ids and labels, given their folds."""
    data = EncodedDataset.open(tiny.dataset)
    with write_bundle(out, "dataset") as draft:
        with DatasetWriter(draft.path, LAYOUT) as writer:
            for split in ("train", "valid", "test"):
                (batch,) = data.batches(split, 10_000)
                ids, label = batch.ids.astype(np.uint32), batch.label.astype(np.uint8)
                if split == "train":
                    change(ids, label, FOLDS.of_rows(0, len(ids)))
                writer.append(split, ids, label)
        draft.extra = writer.extra()
    return Tiny(tiny.vocabulary, out)


def tables_of(bundle: Bundle, fold: int) -> dict[str, Tensor]:
    tables = FoldTables.of(bundle)
    assert tables is not None
    return {name: tables.rows(fold, name) for name in SIZES}


@pytest.mark.parametrize("fold", [0, 1])
def test_labels_of_a_folds_rows_change_nothing_in_its_tables(
    tiny: Tiny, pretrained: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fold: int
) -> None:
    def flip(ids: object, label: NDArray[np.uint8], folds: NDArray[np.uint8]) -> None:
        label[folds == fold] ^= 1

    flipped_data = changed(tiny, tmp_path / "flipped", flip)
    flipped = pretrain(flipped_data, tmp_path / "rotated")
    for name, rows in tables_of(pretrained, fold).items():
        found = tables_of(flipped, fold)[name]
        assert torch.equal(found[:, 0], rows[:, 0]), "first-order weights, which no rotation changes"
        torch.testing.assert_close(found[:, 1:] @ found[:, 1:].T, rows[:, 1:] @ rows[:, 1:].T, rtol=0, atol=1e-5)
        assert not torch.equal(tables_of(flipped, 1 - fold)[name][:, 0], tables_of(pretrained, 1 - fold)[name][:, 0])
    # the one matrix that leads into the space is fitted to tables of all rows; without it, no byte differs
    monkeypatch.setattr(pretraining, "into_space", lambda tables, *others: (tables, {}))
    bundles = [pretrain(data, tmp_path / name) for name, data in (("a", tiny), ("b", flipped_data))]
    for file in (f"fold-{fold}.safetensors", f"fold-{fold}-counts.safetensors"):
        first, second = (bundle.file(file).read_bytes() for bundle in bundles)
        assert first == second
    first, second = (bundle.file(f"fold-{1 - fold}.safetensors").read_bytes() for bundle in bundles)
    assert first != second


def test_a_value_of_one_fold_only_is_unseen_in_its_table(tiny: Tiny, tmp_path: Path) -> None:
    def keep_user_7_in_fold_0(ids: NDArray[np.uint32], label: object, folds: NDArray[np.uint8]) -> None:
        ids[(ids[:, 0] == 7) & (folds == 1), 0] = 8
        ids[:5, 0][folds[:5] == 0] = 7

    data = changed(tiny, tmp_path / "data", keep_user_7_in_fold_0)
    bundle = pretrain(data, tmp_path / "p")
    tables = FoldTables.of(bundle)
    assert tables is not None
    counts = tables.counts(0, "user")
    assert (counts[7], tables.counts(1, "user")[7] > 0) == (0, True)
    rows = tables.rows(0, "user")
    torch.testing.assert_close(rows[7], rows[torch.from_numpy(counts > 0)].mean(dim=0), rtol=0, atol=1e-6)
    assert not torch.allclose(tables.rows(1, "user")[7], rows[7], atol=1e-3)


def test_folds_change_nothing_in_the_tables_of_all_rows(tiny: Tiny, pretrained: Bundle, tmp_path: Path) -> None:
    without = pretrain(tiny, tmp_path / "p", folds=0)
    for file in ("tables.safetensors", "bias.safetensors"):
        assert without.file(file).read_bytes() == pretrained.file(file).read_bytes()
    assert without.extra["space"] == pretrained.extra["space"]
    assert FoldTables.of(without) is None
    assert sorted(without.manifest.files) == ["bias.safetensors", "tables.safetensors"]


def test_the_bundle_keeps_folds_and_how_they_agree(tiny: Tiny, pretrained: Bundle) -> None:
    data, tables = EncodedDataset.open(tiny.dataset), FoldTables.of(pretrained)
    assert tables is not None
    assert tables.folds == FOLDS
    for fold in range(2):
        for name, counts in count_rows(data.without_fold(FOLDS, fold)).items():
            np.testing.assert_array_equal(tables.counts(fold, name), counts)
            assert tables.rows(fold, name).shape == (SIZES[name], 7)
        facts = pretrained.extra["folds"]["fits"][fold]
        assert facts["alignment"]["overall"]["explained_after"] >= facts["alignment"]["overall"]["explained_before"]
        assert len(facts["fit"]["history"]) == 2
    assert not torch.equal(tables.rows(0, "user"), tables.rows(1, "user"))


def test_counts_against_a_slow_loop(tmp_path: Path) -> None:
    layout = FieldLayout(
        (
            FieldSlots("a", "categorical", "a", 0, 1, "none"),
            FieldSlots("x", "linear", "x", 1, 1, "none"),
            FieldSlots("mean", "sequence", "b", 2, 3, "mean"),
            FieldSlots("sum", "sequence", "a", 5, 2, "sum"),
        ),
        (("a", 9), ("x", 2), ("b", 5)),
    )
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 5, (300, 7)).astype(np.uint32)
    ids[:, 1] %= 2
    for row in ids:
        row[2 + rng.integers(0, 4) : 5] = PAD_ID
        row[5 + rng.integers(0, 3) : 7] = PAD_ID
    with write_bundle(tmp_path / "d", "dataset") as draft:
        with DatasetWriter(draft.path, layout, shard_rows=110) as writer:
            numbers = rng.normal(4, 0.1, (300, 1)).astype(np.float32)
            for split in ("train", "valid"):
                writer.append(split, ids, np.zeros(300, np.uint8), numerics=numbers)
        draft.extra = writer.extra()
    data, folds = EncodedDataset.open(tmp_path / "d"), Folds(3, 1)
    for left_out in (None, 0, 2):
        expected = {"a": [0] * 9, "x": [0] * 2, "b": [0] * 5}
        for row, fold in zip(ids, folds.of_rows(0, 300), strict=True):
            if fold == left_out:
                continue
            for slot, name in enumerate(["a", "x", "b", "b", "b", "a", "a"]):
                if row[slot] != PAD_ID:
                    expected[name][row[slot]] += 1
        found = count_rows(data if left_out is None else data.without_fold(folds, left_out))
        assert {name: counts.tolist() for name, counts in found.items()} == expected


def test_a_rotated_copy_comes_back_and_inner_products_stay() -> None:
    generator = torch.Generator().manual_seed(0)
    space = {name: torch.randn(size, 7, generator=generator) for name, size in SIZES.items()}
    rotation = torch.from_numpy(ortho_group.rvs(6, random_state=0)).float()
    counts = {name: np.arange(size) for name, size in SIZES.items()}
    turned = {name: torch.cat([rows[:, :1], rows[:, 1:] @ rotation], dim=1) for name, rows in space.items()}
    found, facts = into_space(turned, space, counts, counts)
    for name, rows in space.items():
        torch.testing.assert_close(found[name], rows, rtol=0, atol=1e-4)
    assert facts["overall"]["explained_after"] == pytest.approx(1.0)  # type: ignore[index]
    noisy = {name: rows + torch.randn(rows.shape, generator=generator) for name, rows in turned.items()}
    found, _ = into_space(noisy, space, counts, counts)
    both, own = torch.cat(list(found.values())), torch.cat(list(noisy.values()))
    assert torch.equal(both[:, 0], own[:, 0])
    torch.testing.assert_close(both[:, 1:] @ both[:, 1:].T, own[:, 1:] @ own[:, 1:].T, rtol=0, atol=1e-3)


class KilledError(Exception):
    pass


def test_a_step_killed_amid_a_fold_goes_on_there_and_gives_the_same_bytes(
    tiny: Tiny, pretrained: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[Path] = []
    save = Checkpoints.save

    def save_three(self: Checkpoints, state: dict[str, Any]) -> None:
        save(self, state)
        saved.append(self.path)
        if len(saved) == 3:
            raise KilledError

    work = tmp_path / "work"
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_three)
        with pytest.raises(KilledError):
            pretrain(tiny, tmp_path / "p", work)
    assert saved[0] == saved[1] != saved[2]
    assert sorted(work.glob("*.pt")) == sorted({saved[0], saved[2]})
    steps: list[int] = []
    train_batch = training.train_batch

    def counted(*args: Any) -> float:
        steps.append(args[5])
        return train_batch(*args)

    monkeypatch.setattr(training, "train_batch", counted)
    assert pretrain(tiny, tmp_path / "p", work).uuid == pretrained.uuid
    left = [-(-EncodedDataset.open(tiny.dataset).without_fold(FOLDS, fold).num_rows("train") // 256) for fold in (0, 1)]
    assert steps == [*range(left[0] + 1, 2 * left[0] + 1), *range(1, 2 * left[1] + 1)]
    assert not list(work.iterdir()), "checkpoints of a finished step are removed"


def test_every_training_has_a_checkpoint_and_a_seed_of_its_own(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(directory: Path, fold: int, *tables: object) -> None:
        if fold == 1:
            raise OSError("disk full")

    monkeypatch.setattr(pretraining, "save_fold", fails)
    with pytest.raises(OSError, match="disk full"):
        pretrain(tiny, tmp_path / "p", tmp_path / "work", max_epochs=1)
    kept = [file.stem.rsplit("-", 1) for file in (tmp_path / "work").iterdir()]
    assert sorted(name for name, _ in kept) == ["pretrain", "pretrain-fold-0", "pretrain-fold-1"]
    assert len({key for _, key in kept}) == 3
    seeds = [seed for first in range(100) for seed in (first, *(fold_seed(first, fold) for fold in range(32)))]
    assert len(set(seeds)) == len(seeds)


def test_one_fold_is_refused() -> None:
    with pytest.raises(ConfigError, match="folds=1 leaves no rows to train on; set 0 for none, or 2 or more"):
        section(PretrainConfig, '{"folds": 1}')


def test_too_few_rows_or_values(tiny: Tiny, tmp_path: Path) -> None:
    data = EncodedDataset.open(tiny.dataset)
    for num_rows, message in (
        (1, r"fold \d of 2 holds all training rows.*set pretrain\.folds to 0"),
        (3, r"too few values in the rows outside a fold to rotate vectors of 16 dimensions.*found: \d values"),
    ):
        out = tmp_path / str(num_rows)
        with write_bundle(out, "dataset") as draft:
            with DatasetWriter(draft.path, LAYOUT) as writer:
                for split, stop in (("train", num_rows), ("valid", 200)):
                    (batch,) = data.batches(split, 10_000)
                    writer.append(split, batch.ids[:stop].astype(np.uint32), batch.label[:stop].astype(np.uint8))
            draft.extra = writer.extra()
        with pytest.raises(DataError, match=message):
            pretrain(Tiny(tiny.vocabulary, out), tmp_path / f"p-{num_rows}", embedding_dim=16)
        assert not (tmp_path / f"p-{num_rows}").exists()


def test_a_bundle_without_a_folds_tables_is_refused(pretrained: Bundle, tmp_path: Path) -> None:
    for name, rows, extra in (
        ("missing", {"user": torch.zeros(301, 7)}, {}),
        ("narrow", {n: torch.zeros(size, 6) for n, size in SIZES.items()}, {}),
        ("old", {}, {"folds": None}),
    ):
        with write_bundle(tmp_path / name, "pretrained") as draft:
            save_fold(draft.path, 0, rows, {n: np.zeros(size, np.int64) for n, size in SIZES.items()})
            draft.extra = {**pretrained.extra, **extra}
        bundle = open_bundle(tmp_path / name)
        if name == "old":
            with pytest.raises(BundleError, match="do not say whether there are out-of-fold ones"):
                FoldTables.of(bundle)
            continue
        tables = FoldTables.of(bundle)
        assert tables is not None
        with pytest.raises(BundleError, match=r"fold-0\.safetensors.*no \(201, 7\) tensor of vocabulary 'item'"):
            tables.rows(0, "item")
        with pytest.raises(BundleError, match=r"has no file 'fold-1\.safetensors'"):
            tables.rows(1, "item")
        assert tables.counts(0, "item").tolist() == [0] * 201


def test_a_fold_that_learned_nothing_is_refused_unless_nothing_can_be_learned(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for fold_auc, auc in ((0.45, 0.59), (0.53, 0.9)):
        refuse_unlearned(0, fold_auc, auc)
    with pytest.raises(TrainingError, match=r"leaves out fold 1 learned nothing.*0\.4500 and 0\.7800.*pretrain\.l2"):
        refuse_unlearned(1, 0.45, 0.78)
    run = pretraining._Trainings.run

    def stuck(self: Any, data: EncodedDataset, seed: int, fold: int | None = None) -> Any:
        model, tables, result = run(self, data, seed, fold)
        result.best_auc = 0.9 if fold is None else 0.43
        return model, tables, result

    monkeypatch.setattr(pretraining._Trainings, "run", stuck)
    with pytest.raises(TrainingError, match="leaves out fold 0 learned nothing"):
        pretrain(tiny, tmp_path / "p")
    assert not (tmp_path / "p" / "manifest.json").exists()
