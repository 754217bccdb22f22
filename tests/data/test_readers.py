import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from mec.config import DataConfig
from mec.data import csv_reader, parquet_reader
from mec.data.readers import Block, Source, open_source
from mec.errors import DataError

N = 3000


def rows(num_rows: int = N) -> dict[str, Any]:
    random = np.random.default_rng(0)
    return {
        "user": pa.array(random.integers(0, 50, num_rows), pa.int32()),
        "city": pa.array([None if i % 7 == 0 else f"c{i % 5}" for i in range(num_rows)], pa.large_string()),
        "price": pa.array([None if i % 9 == 0 else i / 4 for i in range(num_rows)]),
        "label": pa.array(random.integers(0, 2, num_rows), pa.int8()),
    }


def write(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    pq.write_table(pa.table(columns), path, **options)
    return path


def config(path: Path | str, **settings: Any) -> DataConfig:
    return DataConfig.model_validate({"path": str(path), "categorical": ["user"], **settings})


def read(source: Source, columns: list[str] | None = None) -> list[Block]:
    return [block for partition in source.partitions() for block in source.read(partition, columns)]


def column(blocks: list[Block], name: str) -> list[Any]:
    return [value for block in blocks for value in block.columns[name].to_pylist()]


def one(path: Path, values: Any, **settings: Any) -> list[Any]:
    """Column x of a Parquet file, as read."""
    label = [i % 2 for i in range(len(values))]
    write(path / "x.parquet", {"x": values, "label": label})
    return column(read(open_source(config(path / "x.parquet", **settings), seed=0)), "x")


def failure(data: DataConfig) -> str:
    with pytest.raises(DataError) as caught:
        read(open_source(data, seed=0))
    assert caught.value.fix
    return str(caught.value)


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


# Bad input


def test_missing_path_names_it(tmp_path: Path) -> None:
    message = failure(config(tmp_path / "none.parquet"))
    assert "none.parquet" in message
    assert "nothing" in message


def test_directory_without_data(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("hello")
    assert "['README.md']" in failure(config(tmp_path))


@pytest.mark.parametrize("name", ["a.parquet", "a.csv"])
def test_empty_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert f"{name} is empty" in failure(config(tmp_path / name))


def test_no_rows(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("user,label\n")
    write(tmp_path / "b.parquet", {"user": pa.array([], pa.int64()), "label": pa.array([], pa.int8())})
    assert "a.csv has no rows" in failure(config(tmp_path / "a.csv"))
    assert "b.parquet has no rows" in failure(config(tmp_path / "b.parquet"))


def test_an_empty_part_among_full_ones_is_fine(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"user": pa.array([], pa.int64()), "label": pa.array([], pa.int64())})
    write(tmp_path / "b.parquet", {"user": [1, 2], "label": [0, 1]})
    assert column(read(open_source(config(tmp_path), seed=0)), "user") == [1, 2]


def test_files_of_several_formats(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"user": [1], "label": [0]})
    (tmp_path / "b.csv").write_text("user,label\n1,0\n")
    assert "several formats" in failure(config(tmp_path))


def test_name_that_tells_no_format_and_compressed_text(tmp_path: Path) -> None:
    (tmp_path / "train").write_text("user,label\n1,0\n2,1\n")
    assert "does not tell its format" in failure(config(tmp_path / "train"))
    assert column(read(open_source(config(tmp_path / "train", format="csv"), seed=0)), "user") == ["1", "2"]
    (tmp_path / "train.csv.gz").write_bytes(b"\x1f\x8b")
    assert "decompress" in failure(config(tmp_path / "train.csv.gz"))


@pytest.mark.parametrize("settings", [{"categorical": ["usr"]}, {"label": "usr"}, {"time": "usr"}])
def test_missing_column_lists_those_there(tmp_path: Path, settings: dict[str, Any]) -> None:
    write(tmp_path / "a.parquet", {"user": [1], "label": [0]})
    (tmp_path / "a.csv").write_text("user,label\n1,0\n")
    for name in ("a.parquet", "a.csv"):
        message = failure(config(tmp_path / name, **settings))
        assert f"{name}: column 'usr' is missing; found: user, label" in message


def test_missing_split_column(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", {"user": [1], "label": [0]})
    assert "column 'fold' is missing" in failure(config(file, split={"kind": "column", "column": "fold"}))


def test_column_missing_in_the_second_file(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"user": [1], "label": [0]})
    write(tmp_path / "b.parquet", {"usr": [1], "label": [0]})
    assert "b.parquet: column 'user' is missing" in failure(config(tmp_path))


def test_column_named_twice(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_arrays([pa.array([1])] * 3, names=["user", "label", "user"]), tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("user,label,user\n1,0,1\n")
    for name in ("a.parquet", "a.csv"):
        assert f"{name}: columns named twice; found: ['user']" in failure(config(tmp_path / name))


def test_header_that_is_none(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("1,,0\n")
    assert "line 1 is no header" in failure(config(file))
    assert "data.columns is not set" in failure(config(file, header=False))


@pytest.mark.parametrize("bad", [2, -1, None, 0.5])
def test_label_other_than_0_or_1_names_file_and_row(tmp_path: Path, bad: object) -> None:
    labels = pa.array([0.0, 1.0, bad, 1.0])
    write(tmp_path / "a.parquet", {"user": [1, 2], "label": [0.0, 1.0]})
    write(tmp_path / "b.parquet", {"user": [1, 2, 3, 4], "label": labels})
    message = failure(config(tmp_path))
    assert "b.parquet row 2 (from 0): column 'label' is not 0 or 1; found: " in message
    assert ("null" if bad is None else repr(float(bad))) in message  # type: ignore[arg-type]


@pytest.mark.parametrize(("bad", "problem"), [("2", "is not 0 or 1"), ("", "is not 0 or 1"), ("yes", "is not 0 or 1")])
def test_bad_csv_label_names_the_line(tmp_path: Path, bad: str, problem: str) -> None:
    file = tmp_path / "a.csv"
    file.write_text(f"user,label\n1,0\n\n2,{bad}\n3,1\n")
    assert f"a.csv line 4: column 'label' {problem}" in failure(config(file))


def test_number_that_is_none_names_the_line(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("user,price,label\n1,2.5,0\n2,n/a,1\n")
    message = failure(config(file, numeric=["price"]))
    assert "a.csv line 3: column 'price' is not a number; found: 'n/a'" in message


@pytest.mark.parametrize("bad", [float("inf"), float("-inf")])
def test_infinite_numbers(tmp_path: Path, bad: float) -> None:
    file = write(tmp_path / "a.parquet", {"price": [1.0, bad], "label": [0, 1]})
    for transform in ("linear", "log2_buckets"):
        data = config(file, categorical=[], numeric=[{"name": "price", "transform": transform}])
        assert "row 1 (from 0): column 'price' is infinite" in failure(data)


def test_number_too_large_for_a_bucket(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", {"price": [1.0, 1e30], "label": [0, 1]})
    assert "beyond 2^62" in failure(config(file, categorical=[], numeric=["price"]))


def test_fractions_are_no_categories(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", {"user": [1.0, 2.5], "label": [0, 1]})
    message = failure(config(file))
    assert "row 1 (from 0): column 'user' is no whole number; found: 2.5" in message
    assert "data.numeric" in message


def test_fraction_inside_a_list_names_the_row(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", {"tags": [[], [1.0, 2.0], [3.0, 0.5]], "label": [0, 1, 0]})
    assert "row 2 (from 0)" in failure(config(file, categorical=[], sequence=["tags"]))


def test_unsigned_value_beyond_int64(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", {"user": pa.array([1, 2**63], pa.uint64()), "label": [0, 1]})
    assert "row 1 (from 0): column 'user' does not fit" in failure(config(file))


def test_text_under_numeric_is_the_wrong_type(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", {"price": ["1", "2"], "label": [0, 1]})
    message = failure(config(file, categorical=[], numeric=["price"]))
    assert "a.parquet: column 'price' has the wrong type" in message


def test_row_without_time(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", {"user": [1, 2], "label": [0, 1], "at": [1.0, None]})
    assert "row 1 (from 0): column 'at' has no value; found: null" in failure(config(file, time="at"))


def test_not_a_parquet_file(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    file.write_text("user,label\n1,0\n")
    assert "a.parquet is not a readable Parquet file" in failure(config(file))


def test_truncated_parquet(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", rows())
    file.write_bytes(file.read_bytes()[:-100])
    assert "a.parquet is not a readable Parquet file" in failure(config(file))


@pytest.mark.parametrize("checksum", [True, False])
def test_corrupt_page_names_file_and_row_group(tmp_path: Path, checksum: bool) -> None:
    file = write(
        tmp_path / "a.parquet",
        rows(),
        row_group_size=1000,
        compression="zstd",
        use_dictionary=False,
        write_page_checksum=checksum,
    )
    chunk = pq.ParquetFile(file).metadata.row_group(1).column(0)
    damaged = bytearray(file.read_bytes())
    middle = chunk.data_page_offset + chunk.total_compressed_size // 2
    damaged[middle : middle + 32] = bytes(range(100, 132))
    file.write_bytes(damaged)
    message = failure(config(file))
    assert "a.parquet: row group 1 (from 0) cannot be read, the file is damaged" in message


def test_parquet_text_that_is_not_utf8(tmp_path: Path) -> None:
    text = pa.array([b"a", b"\xff"], pa.binary())
    write(tmp_path / "a.parquet", {"user": text, "label": [0, 1]})
    assert "column 'user' cannot be converted" in failure(config(tmp_path / "a.parquet"))
    marked_text = pa.Array.from_buffers(pa.string(), 2, text.buffers())
    write(tmp_path / "b.parquet", {"user": marked_text, "label": [0, 1]})
    assert "b.parquet: row group 0 (from 0) cannot be read" in failure(config(tmp_path / "b.parquet"))


@pytest.mark.parametrize(("line", "count"), [("2", 1), ("2,1,9", 3)])
def test_ragged_line_names_file_and_line(tmp_path: Path, line: str, count: int) -> None:
    file = tmp_path / "a.csv"
    file.write_text(f"user,label\n1,0\n\n5,1\n{line}\n3,1\n")
    message = failure(config(file))
    assert f"a.csv line 5 does not have 2 cells; found: {count}: {line!r}" in message


def test_ragged_line_in_a_later_partition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.csv"
    file.write_text("user,label\n" + "10,1\n" * 500 + "oops\n")
    monkeypatch.setattr(csv_reader, "PARTITION_BYTES", 512)
    assert "a.csv line 502 does not have 2 cells" in failure(config(file))


def test_bytes_that_are_not_utf8_name_file_and_line(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(b"user,label\nann,0\ncaf\xe9,1\n")
    assert "a.csv line 3 is not UTF-8; found: byte 0xe9 at position 3" in failure(config(file))
    file.write_bytes(b"us\xe9r,label\nann,0\n")
    assert "a.csv line 1 is no header" in failure(config(file))


def test_quote_left_open(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text('user,label\n1,0\n"2,1\n3,1\n')
    assert "a.csv line 3" in failure(config(file))


def test_line_broken_inside_quotes(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text('user,label\n1,0\n"2\n2",1\n3,1\n')
    assert "a.csv line 3" in failure(config(file))


def test_file_that_goes_away(tmp_path: Path) -> None:
    for name in ("a.parquet", "a.csv"):
        file = tmp_path / name
        if name == "a.csv":
            file.write_text("user,label\n1,0\n")
        else:
            write(file, {"user": [1], "label": [0]})
        source = open_source(config(file), seed=0)
        file.unlink()
        with pytest.raises(DataError, match="do not move files"):
            read(source)


def test_settings_without_effect(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", {"user": [1], "label": [0]})
    assert "no effect on Parquet" in failure(config(file, header=False, columns=["user", "label"]))
    assert "data.preset has no effect" in failure(DataConfig(preset="criteo"))
