"""What the readers give for good files."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pytest
from pydantic import ValidationError

from mec.config import DataConfig
from mec.data import csv_reader, parquet_reader
from mec.data.readers import open_source
from tests.data.reader_tables import N, column, config, failure, one, read, rows, write

# Parquet


def test_parquet_columns_become_canonical(tmp_path: Path) -> None:
    raw = rows()
    file = write(tmp_path / "a.parquet", raw, row_group_size=700)
    data = config(file, categorical=["user", "city"], numeric=["price", {"name": "user2", "transform": "linear"}])
    write(file, raw | {"user2": raw["user"]}, row_group_size=700)
    source = open_source(data, seed=0)
    blocks = read(source)
    assert source.num_rows_hint == N
    assert source.vocabulary_types == {"user": "int64", "city": "string", "price": "int64"}
    first = blocks[0].columns
    assert {n: str(a.type) for n, a in first.items()} == {
        "user": "int64",
        "city": "string",
        "price": "int64",
        "user2": "double",
    }
    assert column(blocks, "user") == raw["user"].to_pylist()
    assert column(blocks, "city") == raw["city"].to_pylist()
    assert column(blocks, "price")[:3] == [None, 0, 0]
    assert column(blocks, "price")[401] == 24  # floor(log(100.25)^2) + 3
    assert column(blocks, "user2") == raw["user"].to_pylist()
    assert np.concatenate([b.label for b in blocks]).tolist() == raw["label"].to_pylist()


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_rows_do_not_depend_on_block_size_or_columns(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"a.{suffix}"
    if suffix == "parquet":
        write(file, rows(), row_group_size=1700)
    else:
        pacsv.write_csv(pa.table(rows()), file)
    settings = {"categorical": ["user", "city"], "numeric": ["price"]}
    small = read(open_source(config(file, block_rows=1024, **settings), seed=5))
    large = read(open_source(config(file, **settings), seed=5))
    label_only = read(open_source(config(file, **settings), seed=5), [])
    assert len(small) >= 3 > len({b.first_row for b in large})
    assert max(b.num_rows for b in small) <= 1024
    for name in ("user", "city", "price"):
        assert column(small, name) == column(large, name)
    split = [np.concatenate([b.split for b in blocks]) for blocks in (small, large, label_only)]
    assert np.array_equal(split[0], split[1])
    assert np.array_equal(split[0], split[2])
    assert label_only[0].columns == {}
    starts = np.cumsum([0, *(b.num_rows for b in small)])
    assert [b.first_row for b in small] == starts[:-1].tolist()
    assert str(file) in small[0].where


def test_small_row_groups_share_a_partition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "a.parquet", rows(), row_group_size=100)
    assert len(open_source(config(file), seed=0).partitions()) == 1
    monkeypatch.setattr(parquet_reader, "_PARTITION_ROWS", 1000)
    source = open_source(config(file), seed=0)
    assert [(p.begin, p.end, p.first_row, p.num_rows) for p in source.partitions()] == [
        (0, 10, 0, 1000),
        (10, 20, 1000, 1000),
        (20, 30, 2000, 1000),
    ]
    assert len(column(read(source), "user")) == N


def test_directory_and_glob_are_read_in_name_order(tmp_path: Path) -> None:
    for name, first in (("b.parquet", 10), ("a.parquet", 0), ("c.parquet", 20)):
        write(tmp_path / name, {"user": [first, first + 1], "label": [0, 1]})
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / ".hidden.parquet").write_bytes(b"x")
    (tmp_path / "README.md").write_text("not data")
    for path in (tmp_path, tmp_path / "*.parquet"):
        blocks = read(open_source(config(path), seed=0))
        assert column(blocks, "user") == [0, 1, 10, 11, 20, 21]
        assert [b.first_row for b in blocks] == [0, 2, 4]


def test_several_paths_are_one_source_in_any_order(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    places = [str(tmp_path / "old"), str(tmp_path / "new-*.parquet"), str(tmp_path / "last.parquet")]
    for name, first in (("new-2", 30), ("old/b", 10), ("last", 40), ("old/a", 0), ("new-1", 20)):
        write(tmp_path / f"{name}.parquet", {"user": [first, first + 1], "label": [0, 1]})
    source, turned = (
        open_source(DataConfig.model_validate({"path": paths, "categorical": ["user"]}), seed=0)
        for paths in (places, places[::-1])
    )
    assert column(read(source), "user") == column(read(turned), "user") == [40, 41, 20, 21, 30, 31, 0, 1, 10, 11]
    assert source.data_version == turned.data_version
    assert source.data_version != open_source(config(places[0]), seed=0).data_version

    doubled = DataConfig.model_validate({"path": [places[0], f"{places[0]}/a.parquet"], "categorical": ["user"]})
    assert f"named twice by data.path; found: ['{tmp_path}/old/a.parquet']" in failure(doubled)
    gone = DataConfig.model_validate({"path": [places[0], str(tmp_path / "gone")], "categorical": ["user"]})
    assert f"no data files at data.path '{tmp_path}/gone'" in failure(gone)
    for nothing in ([], ""):
        with pytest.raises(ValidationError, match=r"data\.path names no file"):
            DataConfig.model_validate({"path": nothing, "categorical": ["user"]})


def test_relative_paths_and_globs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    write(tmp_path / "a.parquet", {"user": [1, 2], "label": [0, 1]})
    monkeypatch.chdir(tmp_path / "work")
    assert column(read(open_source(config("../*.parquet"), seed=0)), "user") == [1, 2]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([True, False, None]), [1, 0, None]),
        (pa.array([1.0, None, 3.0]), [1, None, 3]),
        (pa.array([1.0, float("nan"), 3.0], pa.float32()), [1, None, 3]),
        (pa.array([1, 2**63 - 1], pa.uint64()), [1, 2**63 - 1]),
        (pa.array(["a", None, "b"]).dictionary_encode(), ["a", None, "b"]),
        (pa.array([7, None, 7]).dictionary_encode(), [7, None, 7]),
        (pa.array([b"a", b"\xc3\xa9"], pa.binary()), ["a", "é"]),
        (pa.array(["", "a"], pa.string_view()), ["", "a"]),
        (pa.array([None, None], pa.null()), [None, None]),
    ],
)
def test_categorical_types(tmp_path: Path, values: pa.Array, expected: list[Any]) -> None:
    assert one(tmp_path, values, categorical=["x"]) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([1, None, 3], pa.uint8()), [1.0, None, 3.0]),
        (pa.array([1.5, float("nan")], pa.float32()), [1.5, None]),
        (pa.array(["1.50", "2.25"]).cast(pa.decimal128(5, 2)), [1.5, 2.25]),
        (pa.array([2**60 + 1, 0]), [float(2**60), 0.0]),
    ],
)
def test_linear_numeric_types(tmp_path: Path, values: pa.Array, expected: list[Any]) -> None:
    assert one(tmp_path, values, categorical=[], numeric=[{"name": "x", "transform": "linear"}]) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([[1, 2, 3], [], None, [4]], pa.list_(pa.int32())), [[2, 3], [], [], [4]]),
        (pa.array([["a", None], ["b"]], pa.large_list(pa.large_string())), [["a", None], ["b"]]),
        (pa.array([[1, 2, 3], [4, 5, 6]], pa.list_(pa.int64(), 3)), [[2, 3], [5, 6]]),
        (pa.array(["x|y|z", "", None, "w"]), [["y", "z"], [], [], ["w"]]),
        (pa.array([[], None], pa.list_(pa.int32())), [[], []]),
    ],
)
def test_sequence_types(tmp_path: Path, values: pa.Array, expected: list[Any]) -> None:
    sequence = [{"name": "x", "max_length": 2}]
    assert one(tmp_path, values, categorical=[], sequence=sequence) == expected


def test_shared_vocabularies_of_different_types_become_text(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", {"item": [1.0, None], "last": [["1", "2"], ["3"]], "label": [0, 1]})
    data = config(file, categorical=["item"], sequence=[{"name": "last", "vocabulary": "item"}])
    source = open_source(data, seed=0)
    blocks = read(source)
    assert source.vocabulary_types == {"item": "string"}
    assert column(blocks, "item") == ["1", None]
    assert column(blocks, "last") == [["1", "2"], ["3"]]


def test_a_field_of_different_types_in_two_files_becomes_text(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"user": [1, 2], "label": [0, 1]})
    write(tmp_path / "b.parquet", {"user": ["2", "x"], "label": [0, 1]})
    assert column(read(open_source(config(tmp_path), seed=0)), "user") == ["1", "2", "2", "x"]


@pytest.mark.parametrize(
    "values",
    [
        ["0", "1", "2", "9"],
        [0, 1, 2, 9],
        [0.0, 1.0, 2.0, None],
        pa.array(["0", "1", "2", "9"]).dictionary_encode(),
    ],
)
def test_split_column_is_compared_as_text(tmp_path: Path, values: Any) -> None:
    file = write(tmp_path / "a.parquet", {"user": [1, 2, 3, 4], "label": [0, 1, 0, 1], "part": values})
    split = {"kind": "column", "column": "part", "train": "0", "valid": "1", "test": "2"}
    (block,) = read(open_source(config(file, split=split), seed=0))
    assert block.split.tolist() == [0, 1, 2, 255]


def test_time_split_and_timestamps(tmp_path: Path) -> None:
    seconds = [10, 20, 30]
    for kind in (pa.int64(), pa.timestamp("s"), pa.timestamp("ns")):
        stamps = pa.array(seconds).cast(pa.timestamp("s")).cast(kind) if kind != pa.int64() else pa.array(seconds)
        file = write(tmp_path / "a.parquet", {"user": [1, 2, 3], "label": [0, 1, 0], "at": stamps})
        split = {"kind": "time", "valid_from": 20, "test_from": 30}
        (block,) = read(open_source(config(file, time="at", split=split), seed=0))
        assert block.split.tolist() == [0, 1, 2]
        assert block.time is not None
        assert block.time.tolist() == [10.0, 20.0, 30.0]


def test_labels_of_other_types(tmp_path: Path) -> None:
    for labels in ([True, False], [1.0, 0.0], ["1", "0"]):
        file = write(tmp_path / "a.parquet", {"user": [1, 2], "label": labels})
        assert read(open_source(config(file), seed=0))[0].label.tolist() == [1, 0]


def test_source_and_partitions_pickle(tmp_path: Path) -> None:
    source = open_source(config(write(tmp_path / "a.parquet", rows())), seed=0)
    again = pickle.loads(pickle.dumps(source))
    (partition,) = pickle.loads(pickle.dumps(source.partitions()))
    assert next(again.read(partition)).num_rows == N


def test_data_version_follows_the_rows_not_the_place(tmp_path: Path) -> None:
    def version(path: Path) -> str:
        return open_source(config(path), seed=0).data_version

    table = {"user": [1, 2], "label": [0, 1]}
    other = {"user": [1, 3], "label": [0, 1]}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    a, b = write(tmp_path / "one" / "a.parquet", table), write(tmp_path / "two" / "a.parquet", table)
    os.utime(b, (1, 1))
    assert version(a) == version(b)
    assert version(a) != version(write(b, other))
    text, changed = tmp_path / "one" / "a.csv", tmp_path / "two" / "a.csv"
    text.write_text("user,label\n1,0\n2,1\n")
    changed.write_text("user,label\n1,0\n3,1\n")  # as long, one digit in the middle differs
    assert version(text) != version(changed)


# CSV and TSV


def test_csv_cells_are_text_and_empty_ones_null(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(
        b'\xef\xbb\xbfuser,name,price,tags,label\r\n007,"Lee, Ann",3,a|b,1\r\n,,,,0\r\n\r\n8,caf\xc3\xa9, 2.5 ,c,1\r\n'
    )
    data = config(file, categorical=["user", "name"], numeric=["price"], sequence=["tags"])
    source = open_source(data, seed=0)
    blocks = read(source)
    assert source.vocabulary_types == {"user": "string", "name": "string", "price": "int64", "tags": "string"}
    assert column(blocks, "user") == ["007", None, "8"]
    assert column(blocks, "name") == ["Lee, Ann", None, "café"]
    assert column(blocks, "price") == [4, None, 3]
    assert column(blocks, "tags") == [["a", "b"], [], ["c"]]
    assert blocks[0].label.tolist() == [1, 0, 1]
    assert source.num_rows_hint == 4  # the empty line is counted: an upper bound


def test_tsv_without_header(tmp_path: Path) -> None:
    file = tmp_path / "a.tsv"
    file.write_text("0\tx\n1\ty")
    data = config(file, categorical=["user"], header=False, columns=["label", "user"])
    assert column(read(open_source(data, seed=0)), "user") == ["x", "y"]


def test_csv_is_cut_into_partitions_at_line_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [f"u{i},{'x' * (i % 40)},{i % 2}\n" for i in range(500)]
    lines[250] = "u250," + "y" * 900 + ",0\n"  # longer than a partition
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("user,pad,label\n" + "".join(lines))
    monkeypatch.setattr(csv_reader, "PARTITION_BYTES", 512)
    source = open_source(config(tmp_path), seed=0)
    partitions = source.partitions()
    assert len(partitions) > 40
    blocks = read(source)
    assert column(blocks, "user") == [f"u{i}" for i in range(500)] * 2
    starts = np.cumsum([0, *(b.num_rows for b in blocks)])
    assert [b.first_row for b in blocks] == starts[:-1].tolist()
    last = partitions[-1]
    assert source.rows.row_name(last, 0).endswith(f"b.csv line {last.first_row - 500 + 2}")


def test_quoted_separators_do_not_disturb_columns_in_any_order(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('user,label\n"a,b",1\n')
    (tmp_path / "b.csv").write_text("label,user\n0,c\n")
    assert column(read(open_source(config(tmp_path), seed=0)), "user") == ["a,b", "c"]
