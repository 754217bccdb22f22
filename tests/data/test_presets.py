from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mec.config import DataConfig, NumericField, load_config
from mec.data.readers import Block, Source, open_source
from mec.errors import DataError

ROOT = Path(__file__).parents[2]
SHARED = ROOT / ".." / "shared" / "data"

USERS = "1::F::1::10::48067\n2::M::56::16::70072-1\n"
MOVIES = "1::Toy Story (1995)::Animation|Comedy\n2::Mis\xe9rables, Les: Part (II) (1998)::Drama\n3::Untitled::War\n"
RATINGS = "1::1::5::978300760\n1::2::3::978302109\n2::1::4::978301968\n2::3::1::978300275\n"


def read(data: DataConfig) -> tuple[Source, list[Block]]:
    source = open_source(data, seed=0)
    return source, [block for partition in source.partitions() for block in source.read(partition)]


def column(blocks: list[Block], name: str) -> list[Any]:
    return [value for block in blocks for value in block.columns[name].to_pylist()]


def movielens(directory: Path, **changed: str) -> Path:
    for name, text in ({"users": USERS, "movies": MOVIES, "ratings": RATINGS} | changed).items():
        (directory / f"{name}.dat").write_bytes(text.encode("latin-1"))
    return directory


def criteo_line(label: int, first: str, value: str) -> str:
    return "\t".join([str(label), first, *["1"] * 12, value, *["68fd1e64"] * 25]) + "\n"


def test_criteo_as_distributed(tmp_path: Path) -> None:
    file = tmp_path / "train.txt"
    file.write_text(criteo_line(0, "5", "05db9164") + criteo_line(1, "", "") + criteo_line(1, "-1", "x"))
    source, blocks = read(DataConfig(path=str(file), preset="criteo"))
    assert [f.name for f in source.fields] == [f"C{i}" for i in range(1, 27)] + [f"I{i}" for i in range(1, 14)]
    assert source.vocabulary_types["C1"] == "string"
    assert source.vocabulary_types["I13"] == "int64"
    assert column(blocks, "C1") == ["05db9164", None, "x"]
    assert column(blocks, "I1") == [5, None, -1]  # floor(log(5)^2) + 3
    assert blocks[0].label.tolist() == [0, 1, 1]


def test_criteo_with_a_header_all_the_same(tmp_path: Path) -> None:
    names = ["label", *(f"I{i}" for i in range(1, 14)), *(f"C{i}" for i in range(1, 27))]
    file = tmp_path / "day.tsv"
    file.write_text("\t".join(names) + "\n" + criteo_line(1, "5", "a"))
    _, blocks = read(DataConfig(path=str(file), preset="criteo"))
    assert column(blocks, "C1") == ["a"]


def test_criteo_line_cut_short(tmp_path: Path) -> None:
    file = tmp_path / "train.txt"
    file.write_text(criteo_line(0, "5", "a") + criteo_line(1, "5", "a")[:40])
    with pytest.raises(DataError, match=r"train.txt line 2 does not have 40 cells"):
        read(DataConfig(path=str(file), preset="criteo"))


def test_own_fields_and_label_replace_the_presets(tmp_path: Path) -> None:
    file = tmp_path / "train.txt"
    file.write_text(criteo_line(0, "5", "a") + criteo_line(1, "7", "b"))
    linear = NumericField(name="I1", transform="linear")
    source, blocks = read(DataConfig(path=str(file), preset="criteo", categorical=["C1"], numeric=[linear]))
    assert [f.name for f in source.fields] == ["C1", "I1"]
    assert column(blocks, "I1") == [5.0, 7.0]


def avazu_line(stamp: str) -> str:
    return f"1000009418151094273,0,{stamp},1005,0," + ",".join(["x"] * 9) + ",1,0,15706,320,50,1722,0,35,-1,79\n"


AVAZU_HEADER = (
    "id,click,hour,C1,banner_pos,site_id,site_domain,site_category,app_id,app_domain,app_category,device_id,"
    "device_ip,device_model,device_type,device_conn_type,C14,C15,C16,C17,C18,C19,C20,C21\n"
)


def test_avazu_as_distributed(tmp_path: Path) -> None:
    file = tmp_path / "train"
    stamps = ["14102100", "14102623", "14103012", ""]  # Tuesday, Sunday, Thursday
    file.write_text(AVAZU_HEADER + "".join(avazu_line(s) for s in stamps))
    source, blocks = read(DataConfig(path=str(file), preset="avazu", time=None))
    names = [f.name for f in source.fields]
    assert source.label == "click"
    assert len(names) == 23
    assert not {"id", "hour", "click"} & set(names)
    assert column(blocks, "hour_of_day") == [0, 23, 12, None]
    assert column(blocks, "weekday") == [1, 6, 3, None]
    assert column(blocks, "C20") == ["-1"] * 4


@pytest.mark.parametrize("stamp", ["14102124", "14130101", "14100012", "hello", "141021", "114102100", "14102100.5"])
def test_avazu_hour_that_is_none(tmp_path: Path, stamp: str) -> None:
    file = tmp_path / "train.csv"
    file.write_text(AVAZU_HEADER + avazu_line("14102100") + avazu_line(stamp))
    with pytest.raises(DataError, match=r"train.csv line 3: column 'hour' is not a .*found: ") as caught:
        read(DataConfig(path=str(file), preset="avazu"))
    assert stamp in str(caught.value)


def test_avazu_split_by_hour(tmp_path: Path) -> None:
    file = tmp_path / "train.csv"
    file.write_text(AVAZU_HEADER + "".join(avazu_line(s) for s in ("14102100", "14102900", "14103000")))
    split = {"kind": "time", "valid_from": 14102900, "test_from": 14103000}
    _, blocks = read(DataConfig(path=str(file), preset="avazu", time="hour", split=split))
    assert blocks[0].split.tolist() == [0, 1, 2]


def test_movielens_dat_files_are_joined(tmp_path: Path) -> None:
    source, blocks = read(DataConfig(path=str(movielens(tmp_path)), preset="movielens_1m", time="timestamp"))
    assert [f.name for f in source.fields] == [
        *("user_id", "movie_id", "gender", "age", "occupation", "zip", "genres", "year"),
    ]
    assert blocks[0].label.tolist() == [1, 0, 1, 0]
    assert column(blocks, "user_id") == [1, 1, 2, 2]
    assert column(blocks, "zip") == ["48067", "48067", "70072-1", "70072-1"]
    assert column(blocks, "age") == [1, 1, 56, 56]
    assert column(blocks, "genres") == ["Animation|Comedy", "Drama", "Animation|Comedy", "War"]
    assert column(blocks, "year") == ["1995", "1998", "1995", None]
    assert blocks[0].time is not None
    assert blocks[0].time[0] == 978300760


def test_movielens_titles_are_latin_1(tmp_path: Path) -> None:
    data = DataConfig(
        path=str(movielens(tmp_path) / "ratings.dat"), preset="movielens_1m", categorical=["title"], sequence=["genres"]
    )
    _, blocks = read(data)
    assert column(blocks, "title")[1] == "Misérables, Les: Part (II) (1998)"
    assert column(blocks, "genres")[0] == ["Animation", "Comedy"]


def test_movielens_rows_equal_those_of_a_table(tmp_path: Path) -> None:
    from_dat = read(DataConfig(path=str(movielens(tmp_path)), preset="movielens_1m"))
    columns = {f.name: column(from_dat[1], f.name) for f in from_dat[0].fields}
    pq.write_table(pa.table(columns | {"rating": [5, 3, 4, 1]}), tmp_path / "a.parquet")
    from_table = read(DataConfig(path=str(tmp_path / "a.parquet"), preset="movielens_1m"))
    assert {f.name: column(from_table[1], f.name) for f in from_table[0].fields} == columns
    assert from_table[1][0].label.tolist() == from_dat[1][0].label.tolist()
    assert from_table[0].vocabulary_types == from_dat[0].vocabulary_types


def test_movielens_version_follows_all_three_files(tmp_path: Path) -> None:
    def version(**changed: str) -> str:
        data = DataConfig(path=str(movielens(tmp_path, **changed)), preset="movielens_1m")
        return open_source(data, seed=0).data_version

    assert version() == version()
    versions = {version(), version(users=USERS.replace("M", "F")), version(movies=MOVIES.replace("War", "Noir"))}
    assert len(versions | {version(ratings=RATINGS.replace("::5::", "::2::"))}) == 4


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"users": "1::F::1::10::48067\n"}, r"ratings.dat line 3: its user_id is not in users.dat; found: 2"),
        ({"movies": "1::Toy Story (1995)::War\n"}, r"ratings.dat line 2: its movie_id is not in movies.dat; found: 2"),
        ({"users": "1::F::1::10\n"}, r"users.dat line 1 does not have 5 cells"),
        ({"users": "x::F::1::10::48067\n"}, r"users.dat line 1: user_id is not a whole number"),
        ({"movies": ""}, r"movies.dat is empty"),
        ({"ratings": ""}, r"ratings.dat is empty"),
        ({"ratings": "1::1::5::9\n1::1::5\n"}, r"ratings.dat line 2 does not have 4 cells"),
        ({"ratings": "1::1::5::9\n1::1::five::9\n"}, r"ratings.dat line 2: not a whole number; found: 'five'"),
    ],
)
def test_movielens_broken_files(tmp_path: Path, changed: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(DataConfig(path=str(movielens(tmp_path, **changed)), preset="movielens_1m"))


def test_movielens_file_that_is_missing(tmp_path: Path) -> None:
    movielens(tmp_path)
    (tmp_path / "users.dat").unlink()
    with pytest.raises(DataError, match=r"users\.dat cannot be read"):
        read(DataConfig(path=str(tmp_path), preset="movielens_1m"))


# the public tables and the shipped configs


def shared(name: str) -> Path:
    path = SHARED / name
    if not list(path.parent.glob(path.name)):
        pytest.skip(f"no {name} in ../shared/data")
    return path


def test_criteo_table() -> None:
    source, blocks = read(DataConfig(path=str(shared("criteo_small/wideresdnn_*.parquet")), preset="criteo"))
    assert sum(b.num_rows for b in blocks) == 8000
    assert set(source.vocabulary_types.values()) == {"int64", "string"}
    assert column(blocks, "C19").count(None) > 0


def test_avazu_table() -> None:
    source, blocks = read(DataConfig(path=str(shared("avazu_small")), preset="avazu"))
    assert sum(b.num_rows for b in blocks) == 8999
    assert set(column(blocks, "weekday")) == {1}
    assert len(source.fields) == 23


def test_movielens_100k_ratings_with_derived_label() -> None:
    data = DataConfig(path=str(shared("ml100k/ratings.parquet")), preset="movielens_1m", categorical=["user_id"])
    _, blocks = read(data)
    assert sum(int(b.label.sum()) for b in blocks) == 55_375


@pytest.mark.parametrize(
    ("name", "rows", "num_fields", "num_vocabularies"),
    [("ml1m", 1_000_209, 8, 8), ("yelp_next", 857_769, 5, 2), ("beauty_next", 528_417, 5, 2)],
)
def test_shipped_configs_read_their_tables(name: str, rows: int, num_fields: int, num_vocabularies: int) -> None:
    data = load_config(ROOT / "configs" / f"{name}.yaml").data
    assert data.path is not None
    path = shared(data.path.removeprefix("../shared/data/"))
    source = open_source(data.model_copy(update={"path": str(path)}), seed=0)
    assert source.num_rows_hint == rows
    assert len(source.fields) == num_fields
    assert len(source.vocabulary_types) == num_vocabularies
    block = next(source.read(source.partitions()[0]))
    assert set(block.split.tolist()) == {0, 1, 2}


@pytest.mark.parametrize("name", ["demo", "criteo", "avazu"])
def test_other_shipped_configs_are_valid(name: str) -> None:
    data = load_config(ROOT / "configs" / f"{name}.yaml").data
    assert data.preset == {"demo": None, "criteo": "criteo", "avazu": "avazu"}[name]
