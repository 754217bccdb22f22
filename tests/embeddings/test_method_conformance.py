"""The conformance checks pass for every method of mec, and name what is wrong with broken ones."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from mec.cli import main
from mec.embeddings.hashing import Hashing
from mec.embeddings.method import METHODS, Method
from mec.embeddings.methods import build_method, method_type
from mec.embeddings.sizing import BudgetError, largest_within
from mec.errors import ConfigError
from mec.testing_method_data import inputs
from mec.testing_methods import CHECKS, check_method
from tests.embeddings.broken_methods import BROKEN, Base, IdleParameter, Searches

OTHER_SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("full", {"start": "pretrained", "floats": "float16"}),
    ("double_hashing", {"combine": "concat"}),
    ("double_hashing", {"num_hashes": 1, "head": 0.9}),
    ("double_hashing", {"head": 0}),
    ("qr", {"compose": "add"}),
    ("qr", {"compose": "concat", "floats": "float32"}),
    ("low_rank", {"rank": 9}),
    ("mde", {"temperature": 0, "min_values": 2}),
    ("others", {"min_count": 1}),
    ("hashing", {"min_values": 10_000, "floats": "float32"}),
    ("scalar", {"bits": 2, "range": "scale", "first_order": "float", "training": "post", "floats": "float32"}),
    ("scalar", {"bits": 3, "start": "pretrained"}),
    ("binary", {"start": "pretrained"}),
    ("magnitude_pruning", {"schedule": "post", "keep": 0.5, "start": "pretrained"}),
    ("magnitude_pruning", {"until_step": 3, "every_steps": 1}),
    ("dhe", {"encoding": "normal", "num_layers": 1, "num_hashes": 64}),
    ("mec", {"codewords": "warm", "allocate": False, "quantize": {"num_codes": 3, "iterations": 2}}),
    ("dpq_vq", {"batch_norm": True, "commitment": 0.25}),
    ("dpq_sx", {"batch_norm": False, "num_codewords": 33, "floats": "float32"}),
    ("mgqe", {"variant": "unshared_codewords"}),
    ("mgqe", {"variant": "unshared_codes", "floats": "float32"}),
    ("amtl", {"straight_through": False}),
    ("amtl", {"twins": False}),
    ("autodim", {"derive": "argmax", "candidates": (2, 5)}),
    ("autoemb", {"derive": "argmax", "dim": 7}),
    ("autodpq", {"derive": "argmax", "min_count": 1}),
    ("xlightfm", {"candidates": (4, 8), "num_codewords": 8, "num_codes": 2}),
]
SLOW = frozenset({"dpq_sx", "lightfm", "opq", "pq", "xlightfm"})  # others, or other settings, run the same code


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in METHODS.names()]
)
def test_every_method_conforms(name):
    assert check_method(name) == []


@pytest.mark.parametrize(("name", "settings"), OTHER_SETTINGS)
def test_variants_conform(name, settings):
    assert check_method(name, settings) == []


def test_the_base_of_the_broken_ones_is_sound():
    assert check_method(Base) == []
    assert check_method(Searches) == []


@pytest.mark.parametrize(("broken", "check", "problem"), BROKEN, ids=lambda value: getattr(value, "__name__", None))
def test_a_broken_method_has_the_right_finding(broken, check, problem):
    findings = check_method(broken)
    assert check in {finding.check for finding in findings}, findings
    assert any(re.search(problem, f.problem) for f in findings if f.check == check), findings


def test_every_check_has_a_broken_method():
    assert {check for _, check, _ in BROKEN} == set(CHECKS)


def test_the_callers_random_state_stays():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    check_method("full")
    assert torch.equal(torch.get_rng_state(), before)


def test_settings_and_names_are_checked():
    with pytest.raises(
        ConfigError, match=r"bad settings of the method 'qr'; found: compose: .*its settings are: floats,"
    ):
        check_method("qr", {"compose": "cross"})
    with pytest.raises(
        ConfigError, match=r"unknown compression method; found: nope; .* double_hashing, .*full, hashing"
    ):
        check_method("nope")
    with pytest.raises(ConfigError, match="combine='concat' has no effect with num_hashes=1"):
        build_method("double_hashing", inputs(), {"num_hashes": 1, "combine": "concat"})

    class Bare(Method[Any]):
        name = "bare"

    with pytest.raises(ConfigError, match="'Bare' has no Settings"):
        check_method(Bare)


def test_a_method_must_be_called_as_it_is_registered(monkeypatch):
    monkeypatch.setitem(METHODS._items, "other", Hashing)
    with pytest.raises(ConfigError, match=r"registered as 'other' calls itself otherwise.*; found: hashing"):
        method_type("other")


def test_missing_pretrained_tables_are_refused():
    class Needs(Hashing):
        needs_pretrained = True

    bare = inputs().__class__(inputs().layout, 6, inputs().counts)
    with pytest.raises(ConfigError, match="compresses pre-trained tables"):
        Needs(bare, Needs.Settings())
    with pytest.raises(ConfigError, match="'full' is to start from pre-trained tables"):
        build_method("full", bare, {"start": "pretrained"})


def test_the_largest_size_within_a_budget_by_brute_force():
    sizes = [3, 3, 5, 8, 8, 8, 20]
    for budget in range(3, 25):
        best = largest_within(budget, len(sizes), lambda size: sizes[size - 1], "m")
        assert sizes[best - 1] == max(b for b in sizes if b <= budget)
    with pytest.raises(
        BudgetError, match=r"'m' cannot get down to 2 bytes: its smallest size is 3 bytes, .* next 5 bytes"
    ):
        largest_within(2, len(sizes), lambda size: sizes[size - 1], "m")


def test_the_command_prints_findings_and_ends_with_1(monkeypatch):
    result = CliRunner().invoke(main, ["check-method", "small_dim", "--set", "dim=2"])
    assert (result.exit_code, result.output) == (0, f"small_dim: conforms ({', '.join(CHECKS)})\n")

    class Idle(IdleParameter):
        name = "idle"

    monkeypatch.setitem(METHODS._items, "idle", Idle)
    result = CliRunner().invoke(main, ["check-method", "idle"])
    assert (result.exit_code, result.output) == (1, "idle: 1 finding\n  gradients: no gradient reaches idle\n")
