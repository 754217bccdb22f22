"""Settings: overrides, errors that name the key, impossible combinations."""

from __future__ import annotations

from pathlib import Path

import pytest

from mec.config import (
    CountConfig,
    PretrainConfig,
    QuantizeConfig,
    RunConfig,
    SplitConfig,
    TrainConfig,
    load_config,
    parse_config,
    section,
)
from mec.errors import ConfigError

REPO = Path(__file__).parents[1]
CONFIGS = sorted((REPO / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_shipped_configs_are_valid_and_round_trip(path: Path) -> None:
    config = load_config(path)
    assert RunConfig.model_validate_json(config.model_dump_json()) == config
    assert config.name == path.stem


def test_overrides_win_in_order_and_take_yaml(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("name: x\nquantize: {num_codes: 1}\n")
    config = load_config(
        file, ["quantize.num_codes=2", "quantize.num_codes=3", "train.settings={dropout: 0.1}", "image=null"]
    )
    assert config.quantize.num_codes == 3
    assert config.train.settings == {"dropout": 0.1}
    assert config.image is None


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"quantise": {}}, r"quantise: unknown key.*use one of name, seed"),
        ({"quantize": {"codes": 1}}, r"quantize\.codes: unknown key.*num_codes, num_codewords"),
        ({"quantize": {"num_codes": "many"}}, r"quantize\.num_codes: .*valid integer.*found: 'many'"),
        ({"quantize": {"num_codes": 0}}, r"quantize\.num_codes: .*greater than or equal to 1"),
        ({"quantize": {"structure": "tree"}}, r"quantize\.structure: .*'product' or 'residual'"),
        (
            {"quantize": {"structure": "product", "num_codes": 9}, "pretrain": {"embedding_dim": 4}},
            r"num_codes=9 sub-vectors do not fit",
        ),
        (
            {"quantize": {"num_codewords": 512, "max_points": 300}},
            r"num_codewords=512 is more than max_points=300",
        ),
        ({"quantize": {"floats": "bfloat16"}}, r"quantize\.floats: .*'float32' or 'float16'"),
        ({"quantize": {"budget": "2"}}, r"quantize: .*budget.*found: "),
        ({"quantize": {"budget": "2%", "head": 5}}, r"head=5 has no effect with a budget"),
        ({"quantize": {"budget": "2%", "tail_count": 5}}, r"tail_count=5 has no effect with a budget"),
        (
            {"quantize": {"budget": "2%", "num_codes": 2}},
            r"num_codes=2 has no effect with a budget.*; remove it, or set quantize\.budget=null",
        ),
        (
            {"quantize": {"budget": 64}},
            r"quantize: the budget is no share, .*; found: '64'; fix: .*a ratio such as 64x",
        ),
        ({"quantize": {"budget": True}}, r"quantize: the budget is no share, .*; found: 'True'"),
        ({"quantize": {"budget": "2%", "num_codewords": 2}}, r"num_codewords=2 has no effect with a budget"),
        ({"quantize": {"budget": "2%", "min_values": 2}}, r"min_values=2 has no effect with a budget"),
        ({"quantize": {"budget": "2%", "structure": "product"}}, r"structure='product' has no effect with a budget"),
        ({"data": {"path": "x.parquet"}}, r"data: no feature columns"),
        ({"data": {"path": "x", "categorical": ["a", "a"]}}, r"fields named twice: \['a'\]"),
        ({"data": {"path": "x", "categorical": ["label"]}}, r"column 'label' is the label"),
        ({"data": {"path": "x", "categorical": ["a"], "synthetic": {}}}, r"data\.synthetic has no effect"),
        ({"data": {"path": "x", "categorical": ["a"], "split": {"kind": "time"}}}, r"split.*needs valid_from"),
        (
            {
                "data": {
                    "path": "x",
                    "categorical": ["a"],
                    "split": {"kind": "random", "valid_fraction": 0.9, "test_fraction": 0.2},
                }
            },
            "between 0 and 1",
        ),
        ({"count": {"scheduler": "cluster"}}, r"count: scheduler must be"),
        ({"name": "a b"}, r"name: .*pattern"),
        ({"train": {"l2": 0.1}}, r"train: l2=0\.1 has no effect while codewords is 'frozen'"),
        ({"pretrain": {"l2": 0, "l2_warmup_epochs": 3}}, r"pretrain\.l2_warmup_epochs=3 has no effect"),
        ({"quantize": {"reliability": True}, "pretrain": {"folds": 0}}, r"pretrain\.folds=0 trains none"),
        ({"quantize": {"budget": "64x"}, "train": {"codewords": "random"}}, r"set train\.codewords to warm or frozen"),
        ({"quantize": {"head": 8}, "train": {"codewords": "random"}}, r"set train\.codewords to warm or frozen"),
        ({"data": {"split": {"kind": "column", "test_fraction": 0.2}}}, r"test_fraction=0\.2 has no effect while kind"),
        (
            {"data": {"split": {"kind": "random", "column": "fold"}}},
            r"column='fold' has no effect while kind",
        ),
        ({"data": {"split": {"kind": "random", "test_from": 3}}}, r"test_from=3\.0 has no effect"),
        ({"data": {"synthetic": {"new_values": 0.3}}}, r"new_values=0\.3 has no effect while num_periods is 1"),
        ({"count": {"scheduler": "synchronous", "num_workers": 2}}, r"num_workers=2 has no effect with scheduler"),
    ],
)
def test_bad_settings_are_named(raw: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(raw)


@pytest.mark.parametrize(
    ("override", "message"),
    [("quantize", "needs key=value"), ("seed.x=1", "seed is not a section"), ("seed=[", "the value is not YAML")],
)
def test_bad_overrides(tmp_path: Path, override: str, message: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("seed: 1\n")
    with pytest.raises(ConfigError, match=message):
        load_config(file, [override])


@pytest.mark.parametrize(
    ("text", "message"), [(None, "no config file"), ("a: [", "cannot read"), ("- a", "not a mapping")]
)
def test_bad_files(tmp_path: Path, text: str | None, message: str) -> None:
    file = tmp_path / "c.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(file)


def test_options_with_an_effect_are_taken() -> None:
    warmed = parse_config({"pretrain": {"l2": 0, "l2_warmup_epochs": 3}, "refresh": {"anchor": 0.1, "start": "fresh"}})
    assert warmed.pretrain.l2_warmup_epochs == 3
    assert parse_config({"evaluate": {"reference": "full", "full": {"l2": 0.5}}}).evaluate.full.l2 == 0.5
    # set for every step by a cluster's profile
    assert parse_config({"evaluate": {"full": {"device": "cuda"}}}).evaluate.full.device == "cuda"
    assert TrainConfig(l2=0.1, codewords="warm").l2 == 0.1
    assert SplitConfig(kind="column", column="fold", valid="dev").valid == "dev"
    assert CountConfig(num_workers=2).num_workers == 2


def test_sections_travel_as_json() -> None:
    settings = QuantizeConfig(num_codes=2)
    assert section(QuantizeConfig, settings.model_dump_json()) == settings
    with pytest.raises(ConfigError, match="bad PretrainConfig parameter"):
        section(PretrainConfig, '{"num_codes": 2}')
