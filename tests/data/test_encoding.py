from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mec.config import CountConfig, DataConfig
from mec.data import encoding
from mec.data.counting import count_step
from mec.data.dataset import EncodedDataset
from mec.data.encoding import encode_step
from mec.data.layout import PAD_ID, FieldSlots
from mec.data.numeric import log2_buckets
from mec.data.shards import SPLITS
from mec.data.vocabulary import Vocabularies, vocabulary_step
from mec.errors import BundleError, DataError

N = 5000


def columns(num_rows: int = N) -> dict[str, Any]:
    random = np.random.default_rng(1)
    return {
        "user": pa.array(random.zipf(1.2, num_rows) % 700),
        "item": pa.array([None if i % 11 == 0 else f"i{i % 97}" for i in range(num_rows)]),
        "age": pa.array([None if i % 5 == 0 else float(i % 40) for i in range(num_rows)]),
        "price": pa.array([None if i % 9 == 0 else i % 13 / 2 for i in range(num_rows)]),
        "past": pa.array([[f"i{v}" for v in random.integers(0, 120, i % 5)] for i in range(num_rows)]),
        "when": pa.array(np.arange(num_rows, dtype=np.float64)),
        "label": pa.array(random.integers(0, 2, num_rows)),
        "split": pa.array(random.choice(["train", "train", "train", "valid", "test", "none"], num_rows)),
    }


def config(path: Path, **more: Any) -> DataConfig:
    fields = {
        "categorical": ["user", {"name": "item", "vocabulary": "thing"}],
        "numeric": ["age", {"name": "price", "transform": "linear"}],
        "sequence": [{"name": "past", "vocabulary": "thing", "max_length": 3}],
    }
    split = {"kind": "column", "column": "split"}
    settings = {"path": str(path), "split": split, "time": "when", "block_rows": 1024, **fields, **more}
    return DataConfig.model_validate(settings)


def write(path: Path, table: dict[str, Any] | None = None, row_group_size: int = 700) -> Path:
    pq.write_table(pa.table(table or columns()), path, row_group_size=row_group_size)
    return path


def prepare(tmp_path: Path, data: DataConfig, min_count: int = 1) -> Vocabularies:
    count = CountConfig(scheduler="synchronous", min_count=min_count)
    count_step(data=data, count=count, seed=0, out=tmp_path / "counts")
    vocabulary_step(counts=tmp_path / "counts", count=count, out=tmp_path / "vocabulary")
    return Vocabularies.open(tmp_path / "vocabulary")


def encode(tmp_path: Path, data: DataConfig, name: str = "dataset") -> EncodedDataset:
    encode_step(data=data, vocabulary=tmp_path / "vocabulary", seed=0, out=tmp_path / name)
    return EncodedDataset.open(tmp_path / name)


def shard(data: EncodedDataset, split: str, name: str) -> np.ndarray:
    return np.load(data.bundle.file(f"{split}/{name}-00000.npy"))


@pytest.mark.parametrize("min_count", [1, 4])
def test_every_row_in_source_order_against_the_plain_way(tmp_path: Path, min_count: int) -> None:
    path = write(tmp_path / "x.parquet")
    data = config(path)
    vocabularies = prepare(tmp_path, data, min_count)
    dataset = encode(tmp_path, data)
    table = pq.read_table(path).to_pylist()
    known = {
        name: {v: i for i, v in enumerate(vocabularies.values(name).to_pylist()) if i}
        for name in ("user", "thing", "age")
    }
    prices = np.array([r["price"] for r in table if r["split"] == "train" and r["price"] is not None])
    for split in SPLITS:
        rows = [r for r in table if r["split"] == split]
        expected_ids = []
        for r in rows:
            age = None if r["age"] is None else int(log2_buckets(np.array([r["age"]]))[0])
            past = [known["thing"].get(v, 0) for v in r["past"][-3:]]
            expected_ids.append(
                [
                    known["user"].get(r["user"], 0),
                    known["thing"].get(r["item"], 0),
                    known["age"].get(age, 0),
                    int(r["price"] is not None),
                    *past,
                    *[PAD_ID] * (3 - len(past)),
                ]
            )
        weights = [1.0 if r["price"] is None else (r["price"] - prices.mean()) / prices.std() for r in rows]
        np.testing.assert_array_equal(shard(dataset, split, "ids"), expected_ids)
        np.testing.assert_array_equal(shard(dataset, split, "label"), [r["label"] for r in rows])
        np.testing.assert_array_equal(shard(dataset, split, "time"), [r["when"] for r in rows])
        np.testing.assert_allclose(shard(dataset, split, "numerics")[:, 0], weights, rtol=1e-6, atol=1e-7)
        assert dataset.num_rows(split) == len(rows)


def test_layout(tmp_path: Path) -> None:
    data = config(write(tmp_path / "x.parquet"))
    vocabularies = prepare(tmp_path, data)
    layout = encode(tmp_path, data).layout
    assert layout.fields == (
        FieldSlots("user", "categorical", "user", 0, 1, "none"),
        FieldSlots("item", "categorical", "thing", 1, 1, "none"),
        FieldSlots("age", "bucketed", "age", 2, 1, "none"),
        FieldSlots("price", "linear", "price", 3, 1, "none"),
        FieldSlots("past", "sequence", "thing", 4, 3, "mean"),
    )
    assert [name for name, _ in layout.vocabularies] == ["user", "thing", "age", "price"]
    assert dict(layout.vocabularies) == vocabularies.sizes


def test_values_only_validation_or_test_have_get_id_0(tmp_path: Path) -> None:
    split = ["train", "train", "valid", "test"] * 30
    value = [{"train": i % 3, "valid": 100, "test": 200}[s] for i, s in enumerate(split)]
    path = write(tmp_path / "x.parquet", {"a": value, "split": split, "label": [i // 4 % 2 for i in range(120)]})
    data = DataConfig.model_validate({"path": str(path), "categorical": ["a"], "split": {"kind": "column"}})
    vocabularies = prepare(tmp_path, data)
    assert vocabularies.values("a").to_pylist() == [None, 0, 1, 2]
    dataset = encode(tmp_path, data)
    assert shard(dataset, "valid", "ids").max() == 0
    assert shard(dataset, "test", "ids").max() == 0
    assert shard(dataset, "train", "ids").min() == 1


def test_rows_of_no_split_are_dropped_and_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = config(write(tmp_path / "x.parquet"))
    prepare(tmp_path, data)
    dataset = encode(tmp_path, data)
    dropped = N - sum(dataset.num_rows(s) for s in SPLITS)
    assert dropped > 0
    out = capsys.readouterr().out
    assert f"[encode] note: {dropped} rows belong to no split" in out
    assert f"[encode] 100% {N}/{N}" in out


def test_neither_threads_nor_block_size_change_the_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "x.parquet", row_group_size=5000)
    prepare(tmp_path, config(path))
    files = []
    for threads, block_rows in ((1, 5000), (8, 1024), (3, 1100)):
        monkeypatch.setattr(encoding, "_THREADS", threads)
        dataset = encode(tmp_path, config(path, block_rows=block_rows), f"d{threads}")
        files.append(dataset.bundle.manifest.files)
    assert files[0] == files[1] == files[2]


def test_rows_are_held_in_bounded_number() -> None:
    taken: list[int] = []

    def items() -> Any:
        for i in range(50):
            taken.append(i)
            yield i

    for i, result in enumerate(encoding._in_threads(lambda x: x * x, items())):
        assert result == i * i
        assert len(taken) <= i + encoding._THREADS + 1


def test_other_rows_than_were_counted(tmp_path: Path) -> None:
    prepare(tmp_path, config(write(tmp_path / "x.parquet")))
    other = config(write(tmp_path / "y.parquet", columns(N - 500)))
    with pytest.raises(DataError, match="not those that the vocabulary was counted from"):
        encode(tmp_path, other)
    assert not (tmp_path / "dataset").exists()


def test_field_without_its_vocabulary(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet")
    prepare(tmp_path, config(path))
    with pytest.raises(DataError, match="field 'item' needs a vocabulary 'item' of type string"):
        encode(tmp_path, config(path, categorical=["user", "item"]))
    with pytest.raises(DataError, match="field 'price' needs a vocabulary 'price' of type int64"):
        encode(tmp_path, config(path, numeric=["age", "price"]))


def test_bad_row_ends_the_step_and_leaves_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet")
    prepare(tmp_path, config(path))
    broken = columns()
    broken["label"] = pa.array([0, 1] * (N // 2 - 1) + [0, 3])
    write(path, broken)
    with pytest.raises(DataError, match=r"row 4999 .*'label' is not 0 or 1"):
        encode(tmp_path, config(path))
    assert not (tmp_path / "dataset").exists()


def test_corrupt_vocabulary_is_named(tmp_path: Path) -> None:
    data = config(write(tmp_path / "x.parquet"))
    file = prepare(tmp_path, data).bundle.file("thing.parquet")
    file.write_bytes(b"x" + file.read_bytes()[1:])
    with pytest.raises(BundleError, match=r"thing\.parquet does not match its checksum"):
        encode(tmp_path, data)


def test_a_killed_step_run_again_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    data = config(write(tmp_path / "x.parquet"))
    prepare(tmp_path, data)
    left = tmp_path / "dataset" / "train"
    left.mkdir(parents=True)
    (left / "ids-00007.npy").write_bytes(b"half a shard")
    assert encode(tmp_path, data).bundle.uuid == encode(tmp_path, data, "fresh").bundle.uuid


def test_no_slots_weights_for_plain_fields(tmp_path: Path) -> None:
    data = config(write(tmp_path / "x.parquet"), numeric=[], sequence=[], time=None)
    prepare(tmp_path, data)
    dataset = encode(tmp_path, data)
    assert dataset.layout.is_plain
    assert next(dataset.batches("train", 10)).weights is None
    names = {Path(f).name for f in dataset.bundle.manifest.files}
    assert names == {"ids-00000.npy", "label-00000.npy"}


def test_null_only_a_training_value_where_training_has_it(tmp_path: Path) -> None:
    split = ["train", "train", "valid", "test"] * 10
    value = [None if s == "valid" else i % 4 // 2 + i % 2 for i, s in enumerate(split)]
    table = {"a": pa.array(value, pa.int64()), "split": split, "label": [i // 4 % 2 for i in range(40)]}
    path = write(tmp_path / "x.parquet", table)
    data = DataConfig.model_validate({"path": str(path), "categorical": ["a"], "split": {"kind": "column"}})
    prepare(tmp_path, data)
    assert shard(encode(tmp_path, data), "valid", "ids").tolist() == [[0]] * 10
