"""docs/adding-a-reader.md, followed literally: its files are written, its package is found, its rows are read."""

from __future__ import annotations

import json
import pickle
import runpy
import sys
import tomllib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from mec.config import parse_config
from mec.data.readers import open_source
from mec.errors import ConfigError, DataError
from tests.pages import Follower, Page

PAGE = Page("adding-a-reader.md")


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A directory with the page's files, its package as pip leaves it, and its rows."""
    PAGE.write(tmp_path)
    _install(tmp_path, tomllib.loads(PAGE.files["pyproject.toml"])["project"]["entry-points"]["mec.readers"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    runpy.run_path("rows.py")
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("mec_"):
            del sys.modules[name]


def _install(site: Path, readers: dict[str, str], package: str = "mec_arrow") -> None:
    info = site / f"{package}-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 0.1\n")
    lines = [f"{name} = {target}" for name, target in readers.items()]
    (info / "entry_points.txt").write_text("[mec.readers]\n" + "\n".join(lines) + "\n")


def _rows(**changes: object) -> list[tuple]:
    raw = yaml.safe_load(PAGE.files["config.yaml"])
    raw["data"] = {key: value for key, value in (raw["data"] | {"block_rows": 1024} | changes).items() if value}
    source = pickle.loads(pickle.dumps(open_source(parse_config(raw).data, seed=0)))
    found = []
    for partition in source.partitions():
        for block in source.read(partition):
            columns = [block.columns["user"].to_pylist(), block.columns["item"].to_pylist()]
            found += zip(*columns, block.label.tolist(), block.split.tolist(), strict=True)
    return found


def test_the_rows_are_those_of_the_same_table_in_parquet(home):
    with pa.ipc.open_file("rows.arrow") as file:
        assert file.num_record_batches > 1
        table = file.read_all()
    pq.write_table(table, "rows.parquet")
    rows = _rows()
    assert len(rows) == table.num_rows > 2 * 1024
    assert rows == _rows(path="rows.parquet", format=None)


def test_the_page_is_the_whole_way():
    assert set(PAGE.files) == {"mec_arrow.py", "pyproject.toml", "rows.py", "config.yaml"}
    assert PAGE.commands == ["pip install .", "python rows.py", "mec run config.yaml --out out"]


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


def test_a_reader_of_a_submodule_is_found_again_and_again(home):
    (home / "mec_deep").mkdir()
    (home / "mec_deep" / "__init__.py").write_text("from mec_deep.rows import ArrowRows\n")
    (home / "mec_arrow.py").rename(home / "mec_deep" / "rows.py")
    _install(home, {"deep": "mec_deep:ArrowRows"}, "mec_deep")
    rows = _rows(format="deep")
    assert rows
    assert _rows(format="deep") == rows


@pytest.mark.slow
def test_the_commands_lead_to_a_registered_model(tmp_path):
    follower = Follower(PAGE, tmp_path)
    for command in PAGE.commands:
        follower.run(command)
    assert (follower.site / "mec_arrow.py").is_file()
    summary = json.loads((follower.home / "out" / "summary.json").read_text(encoding="utf-8"))
    dataset = json.loads((Path(summary["bundles"]["dataset"]) / "manifest.json").read_text(encoding="utf-8"))
    with pa.ipc.open_file(follower.home / "rows.arrow") as file:
        assert sum(dataset["extra"]["rows"].values()) == file.read_all().num_rows
    assert (summary["model"], summary["model_version"]) == ("arrow", 1)
    assert summary["published_rows"] > 0
    assert summary["auc"] > 0.6, "the rows have something to learn"
