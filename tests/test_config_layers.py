"""Files laid over a config, and the ablations that are shipped as such files."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from mec.cli import main
from mec.config import MecConfig, QuantizeConfig, RunConfig, load_config, overlaid, read_settings
from mec.errors import ConfigError

REPO = Path(__file__).parents[1]
CONFIGS = sorted((REPO / "configs").glob("*.yaml"))
ABLATIONS = sorted((REPO / "configs" / "ablations").glob("*.yaml"))

# what each ablation is to be, by hand
CODES = {"structure": "product", "num_codes": 4, "num_codewords": 64, "reliability": False, "budget": None}
MEC = CODES | {"weights": "sqrt", "objective": "mec"}
EXPECTED = {
    "pq": {"quantize": CODES | {"weights": "none", "mec": None}},
    "frequency_pq": {"quantize": CODES | {"weights": "sqrt", "mec": None}},
    "mec": {"quantize": MEC | {"mec": MecConfig()}},
    "mec_encoder": {"quantize": MEC | {"mec": MecConfig(encoder="mlp")}},
    "mec_paper": {"quantize": MEC | {"weights": "log2", "mec": MecConfig(encoder="mlp")}},
    "mec_no_contrastive": {"quantize": MEC | {"mec": MecConfig(contrastive=0)}},
    "mec_no_regulariser": {"quantize": MEC | {"mec": MecConfig(entropy=0)}},
    "mec_paper_no_contrastive": {"quantize": MEC | {"weights": "log2", "mec": MecConfig(encoder="mlp", contrastive=0)}},
    "mec_paper_no_regulariser": {"quantize": MEC | {"weights": "log2", "mec": MecConfig(encoder="mlp", entropy=0)}},
    "warm": {"quantize": CODES | {"weights": "sqrt", "mec": None}, "train": {"codewords": "warm"}},
    "random": {"quantize": CODES | {"weights": "sqrt", "mec": None}, "train": {"codewords": "random"}},
    "no_folds": {"pretrain": {"folds": 0}},
    "pretrain_deepfm": {"pretrain": {"model": "deepfm"}},
    "pretrain_dcnv2": {"pretrain": {"model": "dcnv2"}},
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "base.yaml").write_text(
        "name: base\nquantize: {budget: 64x, max_points: 5000}\n"
        "train: {model: [deepfm, pnn], settings: {deepfm: {dropout: 0.3}}}\n"
    )
    (tmp_path / "shape.yaml").write_text("quantize: {budget: null, num_codes: 2, num_codewords: 8}\n")
    (tmp_path / "other.yaml").write_text(
        "quantize: {num_codes: 3}\n"
        "train: {model: [pnn, gdcn_p], settings: {deepfm: null, pnn: {hidden_units: [8]}}}\nname: other\n"
    )
    return tmp_path


def test_later_files_win_and_overrides_win_over_all(place: Path) -> None:
    layers = [place / "shape.yaml", place / "other.yaml"]
    first = load_config(place / "base.yaml", layers=layers[:1]).quantize
    assert (first.budget, first.num_codes, first.num_codewords, first.max_points) == (None, 2, 8, 5000)
    override = "train.settings={pnn: {hidden_units: [8]}}"  # deepfm is none of the list any more
    both = load_config(place / "base.yaml", [override], layers)
    assert (both.name, both.quantize.num_codes, both.quantize.num_codewords) == ("other", 3, 8)
    assert both.train.model == ("pnn", "gdcn_p")
    last = load_config(place / "base.yaml", [override, "quantize.num_codes=5"], layers)
    assert (last.quantize.num_codes, last.quantize.num_codewords) == (5, 8)
    swapped = load_config(place / "base.yaml", [override], layers[::-1])
    assert (swapped.name, swapped.quantize.num_codes) == ("other", 2)


def test_mappings_are_laid_key_by_key_and_all_else_as_a_whole() -> None:
    raw = {"a": {"b": {"c": 1, "d": 2}, "list": [1, 2]}, "e": 3, "f": None}
    layer = {"a": {"b": {"d": {"x": 1}}, "list": [3]}, "e": None, "f": {"g": {"h": 1}}}
    kept = repr(raw), repr(layer)
    result = overlaid(raw, layer)
    assert result == {"a": {"b": {"c": 1, "d": {"x": 1}}, "list": [3]}, "e": None, "f": {"g": {"h": 1}}}
    result["a"]["b"]["d"]["x"] = result["f"]["g"]["h"] = 9
    assert (repr(raw), repr(layer)) == kept


def test_a_bad_layer_is_named(place: Path) -> None:
    (place / "bad.yaml").write_text("quantize: {codes: 2}\n")
    with pytest.raises(ConfigError, match=r"base\.yaml with .*bad\.yaml has bad settings:\n  quantize\.codes: unknown"):
        load_config(place / "base.yaml", layers=[place / "bad.yaml"])
    with pytest.raises(ConfigError, match=r"no config file .*gone\.yaml"):
        load_config(place / "base.yaml", layers=[place / "gone.yaml"])
    with pytest.raises(ConfigError, match=r"num_codes=2 has no effect with a budget"):
        load_config(place / "base.yaml", ["quantize.budget=2%"], [place / "shape.yaml"])


def test_the_command_line_lays_files_over_a_config(place: Path) -> None:
    arguments = ["config", str(place / "base.yaml"), "--with", str(place / "shape.yaml"), "--set", "name=last"]
    printed = CliRunner().invoke(main, arguments).output
    (place / "printed.yaml").write_text(printed)
    # what a run leaves beside its artifacts stands for itself
    assert load_config(place / "printed.yaml") == load_config(
        place / "base.yaml", ["name=last"], [place / "shape.yaml"]
    )
    for command in ("run", "refresh", "compile", "submit"):
        options = {name for parameter in main.commands[command].params for name in parameter.opts}
        assert {"--with", "--set"} <= options, command
    refused = CliRunner().invoke(main, ["compile", "--with", str(place / "shape.yaml"), "--out", str(place / "build")])
    assert refused.exit_code == 2
    assert "name one" in refused.output


def test_every_ablation_is_expected_and_says_how_to_run_it() -> None:
    assert {path.stem for path in ABLATIONS} == set(EXPECTED)
    for path in ABLATIONS:
        assert f"--with configs/ablations/{path.name} " in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
@pytest.mark.parametrize("ablation", ABLATIONS, ids=lambda path: path.stem)
def test_every_ablation_fits_every_config_and_changes_what_it_names(config: Path, ablation: Path) -> None:
    base, changed = load_config(config), load_config(config, layers=[ablation])
    assert RunConfig.model_validate_json(changed.model_dump_json()) == changed
    named = read_settings(ablation)
    for section in RunConfig.model_fields:
        before, after = getattr(base, section), getattr(changed, section)
        if section not in named:
            assert after == before
            continue
        expected = EXPECTED[ablation.stem].get(section, {})
        assert {name: getattr(after, name) for name in expected} == expected
        others = type(after).model_fields.keys() - named[section].keys()
        assert all(getattr(after, name) == getattr(before, name) for name in others)


@pytest.mark.parametrize("name", ["pq", "frequency_pq", "mec", "mec_no_contrastive", "warm", "random"])
def test_an_ablation_sets_all_of_the_coding(tmp_path: Path, name: str) -> None:
    (tmp_path / "own.yaml").write_text(
        "pretrain: {folds: 4}\n"
        "quantize: {structure: residual, num_codes: 7, head: 9, tail_count: 3, weights: raw, reliability: true,\n"
        "           objective: mec, mec: {encoder: none}}\n"
    )
    ablation = REPO / "configs" / "ablations" / f"{name}.yaml"
    found = load_config(tmp_path / "own.yaml", layers=[ablation]).quantize
    assert found == QuantizeConfig.model_validate(read_settings(ablation)["quantize"])
