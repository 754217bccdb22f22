from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mec.bundle import write_bundle
from mec.data import dataset as dataset_module
from mec.data.dataset import Batch, EncodedDataset
from mec.data.layout import OOV_ID, PAD_ID, FieldLayout, FieldSlots
from mec.data.shards import DatasetWriter
from mec.errors import BundleError

PLAIN = FieldLayout(
    (FieldSlots("a", "categorical", "a", 0, 1, "none"), FieldSlots("b", "bucketed", "b", 1, 1, "none")),
    (("a", 100_000), ("b", 7)),
)
MIXED = FieldLayout(
    (
        FieldSlots("a", "categorical", "a", 0, 1, "none"),
        FieldSlots("x", "linear", "x", 1, 1, "none"),
        FieldSlots("m", "sequence", "a", 2, 3, "mean"),
        FieldSlots("s", "sequence", "a", 5, 2, "sum"),
    ),
    (("a", 100), ("x", 2)),
)


def write_plain(path: Path, num_rows: int, *, shard_rows: int = 400, chunk: int = 150) -> EncodedDataset:
    """Rows whose first id is the row's number, with a few rows in the other splits."""
    with write_bundle(path, "dataset") as draft:
        with DatasetWriter(draft.path, PLAIN, shard_rows=shard_rows) as writer:
            for split, num in (("train", num_rows), ("valid", 10), ("test", 0)):
                numbers = np.arange(num, dtype=np.uint32)
                ids = np.stack([numbers, numbers % 7], axis=1)
                for start in range(0, num, chunk):
                    part = ids[start : start + chunk]
                    writer.append(split, part, (part[:, 0] % 2).astype(np.uint8))
        draft.extra = writer.extra()
    return EncodedDataset.open(path)


def first_ids(batches: list[Batch]) -> list[int]:
    return [int(i) for batch in batches for i in batch.ids[:, 0]]


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset_module, "_PIECE_ROWS", 64)


def test_file_order_gives_every_row_once_and_its_label(tmp_path: Path, small_pieces: None) -> None:
    data = write_plain(tmp_path / "d", 1037)
    batches = list(data.batches("train", 100))
    assert first_ids(batches) == list(range(1037))
    assert [b.num_rows for b in batches] == [100] * 10 + [37]
    for batch in batches:
        assert batch.ids.dtype == np.int32
        assert batch.label.dtype == np.float32
        assert batch.weights is None
        np.testing.assert_array_equal(batch.label, batch.ids[:, 0] % 2)
        np.testing.assert_array_equal(batch.ids[:, 1], batch.ids[:, 0] % 7)
    assert data.num_rows("train") == 1037
    assert [data.num_rows(s) for s in ("valid", "test")] == [10, 0]
    assert list(data.batches("test", 5)) == []


@pytest.mark.parametrize("shuffle_rows", [1, 50, 200, 5000])
@pytest.mark.parametrize("batch_size", [1, 64, 333, 4096])
def test_shuffled_every_row_once(tmp_path: Path, shuffle_rows: int, batch_size: int) -> None:
    data = write_plain(tmp_path / "d", 701)
    batches = list(data.batches("train", batch_size, seed=1, shuffle_rows=shuffle_rows))
    assert sorted(first_ids(batches)) == list(range(701))
    assert all(b.num_rows == batch_size for b in batches[:-1])
    for batch in batches:
        np.testing.assert_array_equal(batch.label, batch.ids[:, 0] % 2)


def test_order_depends_on_seed_and_epoch_only(tmp_path: Path) -> None:
    data = write_plain(tmp_path / "d", 1000)

    def order(batch_size: int = 32, **settings: Any) -> list[int]:
        return first_ids(list(data.batches("train", batch_size, shuffle_rows=5000, **settings)))

    assert order(seed=3, epoch=2) == order(seed=3, epoch=2)
    assert order(seed=3, epoch=2) != order(seed=3, epoch=3)
    assert order(seed=3) != order(seed=4)
    assert order(seed=3) != list(range(1000))


def test_buffer_mixes_rows_from_all_over_the_split(tmp_path: Path) -> None:
    data = write_plain(tmp_path / "d", 4000, shard_rows=1000)
    first = first_ids(list(data.batches("train", 100, seed=0, shuffle_rows=640)))[:600]
    assert np.std(first) > 800  # of a uniform draw: 1155; of 600 rows in a row: 173


def test_buffer_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_plain(tmp_path / "d", 4000)
    held: list[int] = []
    allocate = EncodedDataset._allocate

    def spy(self: EncodedDataset, split: str, num_rows: int) -> Any:
        held.append(num_rows)
        return allocate(self, split, num_rows)

    monkeypatch.setattr(EncodedDataset, "_allocate", spy)
    list(data.batches("train", 128, seed=0, shuffle_rows=512))
    assert held == [512 + 128]


def test_batches_do_not_change_after_they_are_given(tmp_path: Path, small_pieces: None) -> None:
    data = write_plain(tmp_path / "d", 500)
    for seed in (None, 1):
        copies = []
        batches = []
        for batch in data.batches("train", 32, seed=seed, shuffle_rows=128):
            batches.append(batch)
            copies.append(batch.ids.copy())
        for batch, copy in zip(batches, copies, strict=True):
            np.testing.assert_array_equal(batch.ids, copy)


def test_weights_and_padding(tmp_path: Path) -> None:
    ids = np.array(
        [
            [5, 1, 7, 8, PAD_ID, 9, 9],
            [6, 0, PAD_ID, PAD_ID, PAD_ID, PAD_ID, PAD_ID],
            [0, 1, 1, 2, 3, 4, PAD_ID],
        ],
        dtype=np.uint32,
    )
    numerics = np.array([[-2.5], [1.0], [0.0]], dtype=np.float32)
    with write_bundle(tmp_path / "d", "dataset") as draft:
        with DatasetWriter(draft.path, MIXED) as writer:
            writer.append("train", ids, np.array([1, 0, 1], np.uint8), numerics=numerics)
        draft.extra = writer.extra()
    (batch,) = EncodedDataset.open(tmp_path / "d").batches("train", 10)
    third = np.float32(1 / 3)
    assert batch.weights is not None
    assert batch.weights.dtype == np.float32
    np.testing.assert_array_equal(
        batch.weights,
        [[1, -2.5, 0.5, 0.5, 0, 1, 1], [1, 1, 0, 0, 0, 0, 0], [1, 0, third, third, third, 1, 0]],
    )
    np.testing.assert_array_equal(batch.ids, np.where(ids == PAD_ID, OOV_ID, ids).astype(np.int32))


def test_shards_are_plain_npy_with_the_rows_the_bundle_states(tmp_path: Path) -> None:
    data = write_plain(tmp_path / "d", 1037, shard_rows=400)
    assert data.bundle.extra["shards"]["train"] == [400, 400, 237]
    files = [data.bundle.file(f"train/ids-0000{i}.npy") for i in range(3)]
    arrays = [np.load(f, mmap_mode="r", allow_pickle=False) for f in files]
    assert [a.shape for a in arrays] == [(400, 2), (400, 2), (237, 2)]
    assert {a.dtype for a in arrays} == {np.dtype(np.uint32)}


def test_time_shard_round_trip(tmp_path: Path) -> None:
    time = np.array([1.5, 2.5])
    with write_bundle(tmp_path / "d", "dataset") as draft:
        with DatasetWriter(draft.path, PLAIN, with_time=True) as writer:
            writer.append("valid", np.zeros((2, 2), np.uint32), np.zeros(2, np.uint8), time=time)
        draft.extra = writer.extra()
    bundle = EncodedDataset.open(tmp_path / "d").bundle
    np.testing.assert_array_equal(np.load(bundle.file("valid/time-00000.npy")), time)


@pytest.mark.parametrize(
    "wrong",
    [
        {"ids": np.zeros((2, 2), np.int64)},
        {"ids": np.zeros((3, 2), np.uint32)},
        {"time": np.zeros(2)},
    ],
)
def test_writer_takes_only_rows_that_fit_the_layout(tmp_path: Path, wrong: dict[str, Any]) -> None:
    rows: dict[str, Any] = {"ids": np.zeros((2, 2), np.uint32), "label": np.zeros(2, np.uint8), **wrong}
    with DatasetWriter(tmp_path, PLAIN) as writer, pytest.raises(AssertionError):
        writer.append("train", **rows)
    assert not list(tmp_path.rglob("*.npy"))


def test_corrupt_shard_is_named(tmp_path: Path) -> None:
    write_plain(tmp_path / "d", 1000)
    shard = tmp_path / "d" / "train" / "ids-00001.npy"
    raw = bytearray(shard.read_bytes())
    raw[-1] ^= 1
    shard.write_bytes(bytes(raw))
    with pytest.raises(BundleError, match=r"train/ids-00001\.npy.*checksum"):
        EncodedDataset.open(tmp_path / "d")


def test_cut_and_missing_shards_are_named(tmp_path: Path) -> None:
    write_plain(tmp_path / "d", 1000)
    shard = tmp_path / "d" / "train" / "label-00000.npy"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(BundleError, match=r"label-00000\.npy.*size"):
        EncodedDataset.open(tmp_path / "d", verify=False)
    shard.unlink()
    with pytest.raises(BundleError, match=r"misses its file 'train/label-00000\.npy'"):
        EncodedDataset.open(tmp_path / "d", verify=False)


def test_rows_of_a_piece_are_shuffled_too(tmp_path: Path) -> None:
    data = write_plain(tmp_path / "d", 1000)
    (batch,) = data.batches("train", 1000, seed=0, shuffle_rows=2_000_000)  # all in one piece
    assert np.mean(np.diff(batch.ids[:, 0]) == 1) < 0.1
