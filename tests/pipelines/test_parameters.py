"""Settings as pipeline parameters, there and back."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from mec.config import RunConfig, joined, parse_config
from mec.errors import ConfigError, MecError
from pipelines.compiling import compile_pipelines
from pipelines.local import run_train
from pipelines.parameters import (
    SECTIONS,
    refuse_what_is_not_here,
    refuse_wrong_backbone,
    resolve_paths,
    section_parameters,
)
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
        "train": {"model": "pnn", "settings": {"hidden_units": [64, 32]}},
    }
)


def test_parameters_and_back():
    assert RunConfig.model_validate_json(joined(**section_parameters(CONFIG))) == CONFIG


def test_every_section_travels():
    own_pipelines = {"refresh", "bakeoff"}
    assert {*SECTIONS, "name", "seed", "store", "image", *own_pipelines} == set(RunConfig.model_fields)
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


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train": {"model": "nope"}}, "unknown backbone; found: nope"),
        ({"train": {"settings": {"layers": 2}}}, "bad settings of the backbone 'deepfm'"),
        ({"pretrain": {"settings": {"layers": 2}}}, "bad settings of the backbone 'fm'"),
    ],
)
def test_a_wrong_backbone_is_refused_before_anything_is_written(tmp_path, settings, message):
    refuse_wrong_backbone(CONFIG)
    config = parse_config(settings)
    with pytest.raises(ConfigError, match=message):
        run_train(config, tmp_path / "run")
    with pytest.raises(ConfigError, match=message):
        compile_pipelines(f"registry.example/mec@sha256:{'0' * 64}", tmp_path / "yaml", config)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pretrain": {"device": "cuda:99"}}, "pretrain.device=cuda:99: there is no such device"),
        ({"train": {"device": "cuda:99"}}, "train.device=cuda:99"),
        ({"quantize": {"device": "cuda:99"}}, "quantize.device=cuda:99"),
        ({"evaluate": {"reference": "full", "full": {"device": "cuda:99"}}}, "evaluate.full.device=cuda:99"),
        ({"store": "/dev/null"}, "cannot write to the store /dev/null; found: Not a directory"),
        ({"store": "/dev/null/below"}, "cannot write to the store /dev/null/below"),
        ({"tracking": {"uri": "file:///tmp/x"}}, "MLflow keeps no runs in plain files"),
        ({"publish": {"feature_repo": "no/repo"}}, "no feature_store.yaml in the feature repo .*no/repo"),
    ],
)
def test_what_is_not_here_is_refused_before_anything_is_written(tmp_path, settings, message):
    with pytest.raises(MecError, match=message):
        run_train(parse_config(settings), tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_what_a_run_does_not_use_need_not_be_here():
    full, off = {"full": {"device": "cuda:99"}}, {"enabled": False}
    unused = {"evaluate": full, "publish": off | {"feature_repo": "no/repo"}, "tracking": off, "store": "/dev/null"}
    refuse_what_is_not_here(parse_config(unused))
