"""Which cells a bake-off has, and the settings that are refused."""

from __future__ import annotations

import json

import pytest

from mec.bakeoff.cells import Cell, cell_parameters, plan_cells, without_effect
from mec.cli_options import bakeoff_overrides
from mec.config import RunConfig, TrainConfig, apply_override, parse_config, section
from mec.embeddings.methods import METHODS, method_type
from mec.errors import ConfigError
from mec.testing_method_data import inputs


def config(**bakeoff) -> RunConfig:
    chosen = {"methods": ["qr", "hashing"], "budgets": ["8x", "2x"], "seeds": 2, "reference": False} | bakeoff
    return parse_config({"seed": 7, "bakeoff": chosen})


def test_every_method_at_every_budget_with_every_seed_each_seed_together():
    found = [(c.seed, c.budget, c.method) for c in plan_cells(config())]
    one = [("8x", "qr"), ("8x", "hashing"), ("2x", "qr"), ("2x", "hashing")]
    assert found == [(seed, *place) for seed in (7, 8) for place in one]


def test_full_tables_are_the_reference_once_and_start_from_the_pretrained_ones():
    cells = plan_cells(config(reference=True, seeds=1))
    assert [(c.method, c.budget) for c in cells[:2]] == [("full", "1x"), ("qr", "8x")]
    assert cells[0].settings == {"start": "pretrained"}
    own = plan_cells(config(reference=True, seeds=1, settings={"full": {"floats": "float16"}}))
    assert own[0].settings == {"floats": "float16"}
    listed = plan_cells(config(reference=True, seeds=1, methods=["full"], budgets=["1x"]))
    assert [(c.method, c.budget) for c in listed] == [("full", "1x")]


@pytest.mark.parametrize("budgets", [["2x", "50%"], ["1x", "1.0x"], ["4x", "2KiB", "2048B"]])
def test_budgets_that_are_the_same_bytes_are_refused(budgets):
    with pytest.raises(ConfigError, match=f"{budgets[-2]} and {budgets[-1]} are the same bytes"):
        config(budgets=budgets)
    assert len(plan_cells(config(budgets=budgets[:-1], seeds=1))) == 2 * len(budgets[:-1])


def test_all_bytes_are_1x_however_they_are_written():
    for methods, expected in (["full"], [("full", "1x")]), (["qr"], [("full", "1x"), ("qr", "1x")]):
        cells = plan_cells(config(reference=True, seeds=1, methods=methods, budgets=["100%"]))
        assert [(c.method, c.budget) for c in cells] == expected


def test_a_method_is_trained_as_train_says_but_for_what_is_its_own():
    cells = plan_cells(config(l2=0.5, training={"qr": {"learning_rate": 0.25, "l2": 0.0}}, seeds=1, budgets=["2x"]))
    train = TrainConfig(learning_rate=0.125, patience=9)
    qr, hashing = (cell.optimizer(train) for cell in cells)
    assert (qr.learning_rate, qr.l2, qr.patience) == (0.25, 0.0, 9)
    assert (hashing.learning_rate, hashing.l2, hashing.patience) == (0.125, 0.5, 9)


def test_a_cell_comes_back_from_its_parameter_and_changes_only_with_its_own_settings():
    before = cell_parameters(config())
    after = cell_parameters(config(budgets=["8x", "2x", "4x"], settings={"qr": {"compose": "add"}}))
    assert [section(Cell, text) for text in before] == plan_cells(config())
    kept = [text for text in before if json.loads(text)["method"] == "hashing"]
    assert set(kept) <= set(after)
    assert not set(before) - set(kept) & set(after)


@pytest.mark.parametrize(
    ("bakeoff", "said"),
    [
        ({"methods": ["qr", "qr"]}, "qr is listed twice"),
        ({"methods": []}, "an empty list compares nothing"),
        ({"budgets": ["2x", "2x"]}, "2x is listed twice"),
        ({"budgets": [64]}, "is no share, ratio or number of bytes"),
        ({"budgets": ["0.5x"]}, "more than the full tables"),
        ({"seeds": 0}, "greater than or equal to 1"),
        ({"training": {"qr": {"learning_rat": 1}}}, "unknown key"),
    ],
)
def test_settings_that_make_no_sense_are_refused(bakeoff, said):
    with pytest.raises(ConfigError, match=said):
        config(**bakeoff)


@pytest.mark.parametrize(
    ("bakeoff", "said"),
    [
        ({"methods": ["qrr"]}, "qrr"),
        ({"settings": {"qr": {"composed": "add"}}}, "bad settings of the method 'qr'"),
        ({"settings": {"mqge": {}}}, "mqge"),
        ({"training": {"mqge": {}}}, "mqge"),
    ],
)
def test_unknown_methods_and_settings_are_refused_before_anything_is_trained(bakeoff, said):
    with pytest.raises(ConfigError, match=said):
        plan_cells(config(**bakeoff))


def test_settings_without_effect_are_said():
    assert without_effect(config(settings={"qr": {}}, training={"hashing": {"l2": 0.1}})) == []
    raw = config(settings={"pq": {}, "qr": {}}, training={"mde": {}}).model_dump()
    raw["train"] |= {"codewords": "warm", "l2": 0.1}
    raw["bakeoff"]["parallelism"] = 4
    said = without_effect(parse_config(raw))
    assert [note.split(" has no effect")[0] for note in said] == [
        "bakeoff.settings of pq",
        "bakeoff.training of mde",
        "bakeoff.parallelism",
        "train.codewords",
        "train.l2",
    ]


def test_sizes_that_budgets_decide_are_said():
    given = {"pq": {"num_codewords": 8, "num_codes": 2}, "qr": {"collisions": 100.0}, "dpq_vq": {"num_codewords": 16}}
    assert without_effect(config(methods=["pq", "qr", "dpq_vq"], settings=given)) == [
        "bakeoff.settings.pq.num_codewords has no effect: budgets decide sizes",
        "bakeoff.settings.qr.collisions has no effect: budgets decide sizes",
    ]
    searched = {"num_codes": 2, "found": {"user": (4,)}}  # which a budget keeps
    assert without_effect(config(methods=["xlightfm"], settings={"xlightfm": searched})) == []


_CEILINGS = {name: {"num_codewords"} for name in ("autodpq", "dpq_sx", "dpq_vq", "mgqe", "xlightfm")}


@pytest.mark.parametrize("name", METHODS.names())
def test_methods_name_what_a_budget_decides(name):
    cls, own = method_type(name), inputs()
    base = cls.Settings()
    num = cls.num_sizes(own, base)
    changed = set()
    for size in {1, (num + 1) // 2, num}:
        found = cls.at_size(own, base, size)
        changed |= {key for key, value in found.model_dump().items() if value != base.model_dump()[key]}
    assert changed - _CEILINGS.get(name, set()) == set(cls.size_settings)


def test_a_clusters_limit_has_an_effect_there():
    limited = config(parallelism=4)
    assert [note.split(" has")[0] for note in without_effect(limited)] == ["bakeoff.parallelism"]
    assert without_effect(limited, on_cluster=True) == []


def test_several_backbones_are_refused():
    several = parse_config({"train": {"model": ["lr", "fm"]}, "bakeoff": {"methods": ["qr"]}})
    with pytest.raises(ConfigError, match="one backbone"):
        plan_cells(several)


def test_options_win_over_the_config():
    raw = {"bakeoff": {"methods": ["pq"], "seeds": 9}}
    for override in bakeoff_overrides("qr, hashing", "2x", None):
        apply_override(raw, override)
    assert raw == {"bakeoff": {"methods": ["qr", "hashing"], "budgets": ["2x"], "seeds": 9}}
    assert bakeoff_overrides(None, None, 3) == ["bakeoff.seeds=3"]
