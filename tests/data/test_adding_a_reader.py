"""docs/adding-a-reader.md, followed literally: its files are written, its package is found, its rows are read."""

from __future__ import annotations

import pickle
import re
import sys
import tomllib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from mec.config import parse_config
from mec.data.readers import open_source
from mec.errors import ConfigError, DataError

PAGE = (Path(__file__).parents[2] / "docs" / "adding-a-reader.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
FILES = {text.splitlines()[0].removeprefix("# "): text for language, text in BLOCKS if language != "sh"}


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A directory with the page's files, its package installed, and rows."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    _install(tmp_path, tomllib.loads(FILES["pyproject.toml"])["project"]["entry-points"]["mec.readers"])
    rng = np.random.default_rng(0)
    table = pa.table(
        {
            "user": pa.array([f"u{n}" for n in rng.integers(0, 300, 2500)]),
            "item": pa.array(rng.integers(0, 200, 2500)),
            "label": pa.array(rng.integers(0, 2, 2500)),
        }
    )
    with pa.ipc.new_file(tmp_path / "rows.arrow", table.schema) as file:
        file.write_table(table, max_chunksize=1100)
    pq.write_table(table, tmp_path / "rows.parquet")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    sys.modules.pop("mec_arrow", None)


def _install(site: Path, readers: dict[str, str], package: str = "mec_arrow") -> None:
    info = site / f"{package}-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 0.1\n")
    lines = [f"{name} = {target}" for name, target in readers.items()]
    (info / "entry_points.txt").write_text("[mec.readers]\n" + "\n".join(lines) + "\n")


def _rows(**changes: object) -> list[tuple]:
    raw = yaml.safe_load(FILES["config.yaml"])
    raw["data"] = {key: value for key, value in (raw["data"] | {"block_rows": 1024} | changes).items() if value}
    source = pickle.loads(pickle.dumps(open_source(parse_config(raw).data, seed=0)))
    found = []
    for partition in source.partitions():
        for block in source.read(partition):
            columns = [block.columns["user"].to_pylist(), block.columns["item"].to_pylist()]
            found += zip(*columns, block.label.tolist(), block.split.tolist(), strict=True)
    return found


def test_the_rows_are_those_of_the_same_table_in_parquet(home):
    rows = _rows()
    assert len(rows) == 2500
    assert rows == _rows(path="rows.parquet", format=None)


def test_the_page_has_every_file_and_command():
    assert set(FILES) == {"mec_arrow.py", "pyproject.toml", "config.yaml"}
    assert [text.strip() for language, text in BLOCKS if language == "sh"] == [
        "pip install .",
        "mec run config.yaml --out out",
    ]


def test_what_is_wrong_is_named(home):
    with pytest.raises(ConfigError, match=r"no reader of data.format; found: nope; fix: use one of arrow, auto, csv"):
        _rows(format="nope")
    with pytest.raises(DataError, match=r"data.preset has no effect with data.format 'arrow'"):
        _rows(preset="criteo")
    with pytest.raises(DataError, match=r"no file missing.arrow"):
        _rows(path="missing.arrow")
    with pytest.raises(DataError, match=r"column 'shop' is missing"):
        _rows(categorical=["shop"])


def test_broken_and_contending_packages_are_refused(home):
    _install(home, {"bare": "mec_arrow:Path", "gone": "mec_arrow:Nothing", "arrow": "mec_arrow:Path"}, "other")
    with pytest.raises(ConfigError, match=r"lacks version, num_rows_hint"):
        _rows(format="bare")
    with pytest.raises(ConfigError, match=r"cannot be loaded from 'mec_arrow:Nothing'.*AttributeError"):
        _rows(format="gone")
    with pytest.raises(ConfigError, match=r"several packages read data.format 'arrow'"):
        _rows(format="arrow")
