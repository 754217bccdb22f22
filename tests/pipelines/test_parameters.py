"""Settings as pipeline parameters, there and back."""

from __future__ import annotations

import inspect
from pathlib import Path

from mec.config import RunConfig, joined, parse_config
from pipelines.parameters import SECTIONS, resolve_paths, section_parameters
from pipelines.train import train

CONFIG = parse_config(
    {
        "name": "shop",
        "seed": 3,
        "data": {
            "path": "clicks/*.csv",
            "categorical": ["user", {"name": "item", "vocabulary": "items"}],
            "numeric": [{"name": 'pri"ce', "transform": "linear"}],
            "sequence": [{"name": "last", "vocabulary": "items", "max_length": 5}],
            "split": {"kind": "time", "valid_from": 1.5, "test_from": 2.0},
            "time": "ts",
        },
        "train": {"model": "pnn", "settings": {"hidden": [64, 32]}},
    }
)


def test_parameters_and_back():
    assert RunConfig.model_validate_json(joined(**section_parameters(CONFIG))) == CONFIG


def test_every_section_travels():
    assert set(SECTIONS) | {"name", "seed", "store", "image"} == set(RunConfig.model_fields)
    assert set(section_parameters(CONFIG)) <= set(inspect.signature(train.pipeline_func).parameters)


def test_paths_are_taken_from_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = resolve_paths(CONFIG)
    assert config.data.path == str(tmp_path / "clicks" / "*.csv")
    assert config.store == str(tmp_path / ".mec")
    assert config.publish.feature_repo is None


def test_absolute_paths_and_absent_ones_stay(tmp_path):
    config = parse_config({"store": str(tmp_path), "publish": {"feature_repo": "/repo"}})
    assert resolve_paths(config) == config
    assert Path(resolve_paths(config).store).is_absolute()
