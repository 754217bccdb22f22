"""Bad files: the problem, where it is, and what to do."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mec.config import DataConfig
from mec.data import csv_reader
from mec.data.readers import open_source
from mec.errors import DataError
from tests.data.reader_tables import column, config, failure, read, rows, write


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
