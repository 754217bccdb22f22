"""The arithmetic behind the published numbers: intervals, pairs, crossovers, searches, and what variants stand for."""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from compression_study.plan import Workspace, plan
from compression_study.rivals import duels
from compression_study.summary import Row, crossover, summarise
from compression_study.tables import TABLES, Study, find_study
from compression_study.variants import Point, Variant, find_variants
from scipy import stats

from mec.bakeoff.estimates import Estimate, estimate
from mec.config import PretrainConfig, QuantizeConfig, load_config
from mec.data.layout import FieldLayout, FieldSlots

REPO = Path(__file__).parents[2]
LAYOUT = FieldLayout(
    tuple(FieldSlots(name, "categorical", name, i, 1, "none") for i, name in enumerate(("user", "item"))),
    (("user", 30_000), ("item", 20_000)),
)


def cell(auc: float, **more: Any) -> dict[str, Any]:
    slices = [{"by": "rarest value", "name": "tail", "auc": auc - 0.1}, {"by": "other", "name": "all", "auc": 0.5}]
    facts = {"auc": auc, "valid_auc": auc + 0.01, "logloss": 1 - auc, "logloss_uncalibrated": 1.1 - auc}
    return facts | {"ratio": 8.0, "bytes": {"codes": 60, "codebooks": 40}, "slices": slices} | more


def row(label: str, ratio: float, difference: float | None = None, cells: Mapping[int, Any] | None = None) -> Row:
    """A row of which only what is named means anything."""
    method, _, size = label.partition("/")
    none = Estimate(math.nan, None, 1)
    return Row(
        variant=Variant(method, size, PretrainConfig(), (Point(),)), floats="as stored", point=Point(), ratio=ratio,
        num_bytes=1.0, valid_auc=none, auc=none, logloss=none, logloss_uncalibrated=none,
        auc_difference=None if difference is None else Estimate(difference, None, 1), logloss_difference=None,
        slices={}, cells=dict(cells or {}),
    )  # fmt: skip


def is_of(found: Estimate | None, values: list[float]) -> bool:
    """Whether an estimate is that of these values, but for rounding."""
    assert found is not None
    assert found.num_seeds == len(values)
    half = estimate(values).half
    return found.mean == pytest.approx(statistics.mean(values)) and found.half == (half and pytest.approx(half))


class Measured:
    """Cells that are there, in place of a workspace."""

    def __init__(self, cells: Mapping[str, Mapping[int, Any]]) -> None:
        self.cells = cells

    def cell(self, variant: Variant, seed: int) -> Any:
        return self.cells.get(variant.label, {}).get(seed)

    def chosen(self, variant: Variant) -> Point:
        return variant.grid[0]


@pytest.mark.parametrize("values", [[0.81, 0.82], [0.5, 0.7, 0.4, 0.9, 0.6]])
def test_an_estimate_is_the_t_interval(values: list[float]) -> None:
    found = estimate(values)
    low, high = stats.t.interval(0.95, len(values) - 1, loc=statistics.mean(values), scale=stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.num_seeds == len(values)


def test_one_seed_has_no_interval() -> None:
    assert estimate([0.8]) == Estimate(0.8, None, 1)


def test_differences_are_paired_by_seed() -> None:
    ours, reference = (Variant(method, "", PretrainConfig(), (Point(),)) for method in ("ours", "reference"))
    measured = {
        "ours": {0: cell(0.80), 1: cell(0.90), 3: cell(0.10)},  # no reference of seed 3
        "reference": {0: cell(0.79, float16={"ratio": 2.0, "auc": 0.78}), 1: cell(0.92), 2: cell(0.2)},
    }
    workspace: Any = Measured(measured)
    rows = {found.label: found for found in summarise(workspace, [reference, ours], range(5))}
    assert list(rows) == ["reference", "reference, fp16", "ours"]
    assert rows["reference"].auc_difference is None
    assert is_of(rows["ours"].auc_difference, [0.01, -0.02])
    assert is_of(rows["ours"].logloss_difference, [-0.01, 0.02])
    assert list(rows["ours"].slices) == ["tail"]
    assert is_of(rows["ours"].slices["tail"], [0.01, -0.02])
    assert rows["ours"].auc.mean == pytest.approx(0.6)
    assert (rows["ours"].num_bytes, sorted(rows["ours"].cells)) == (100, [0, 1, 3])
    rounded = rows["reference, fp16"]
    assert (rounded.ratio, sorted(rounded.cells)) == (2.0, [0])
    assert is_of(rounded.auc_difference, [-0.01])


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([(16, 0.03), (64, -0.01)], math.exp(math.log(16) + 0.75 * math.log(4))),  # three quarters of the way in logs
        ([(64, -0.01), (16, 0.01)], 32.0),  # in any order
        ([(8, 0.01), (16, -0.01), (32, 0.01), (128, -0.01)], 64.0),  # of two changes the last
        ([(8, -0.01), (16, 0.01), (64, -0.01)], 32.0),
        ([(8, 0.01), (16, 0.02)], "beyond 16x, the most that was measured"),
        ([(8, -0.01), (16, 0.0)], "beyond 16x, the most that was measured"),
        ([(8, -0.01), (16, -0.02)], "below 8x, the least that was measured"),
        ([], "nothing to compare"),
        ([(8, None)], "nothing to compare"),
    ],
)
def test_crossover(points: list[tuple[float, float | None]], expected: float | str) -> None:
    ratio, text = crossover([row("ours/x", size, difference) for size, difference in points])
    if isinstance(expected, str):
        assert (ratio, text) == (None, expected)
    else:
        assert ratio == pytest.approx(expected)
        assert text == f"{expected:.3g}x"


def test_duels_are_against_the_smallest_rival_of_as_many_bytes() -> None:
    cells = {seed: cell(0.8 + 0.01 * seed) for seed in range(3)}
    others = {seed: cell(0.79) for seed in (1, 2, 7)}
    rows = [row("ours/64x", 64, cells=cells)]
    rows += [row(f"pq/{name}", ratio, cells=others) for name, ratio in (("a", 20), ("b", 60), ("c", 67.1), ("d", 90))]
    rows += [row(f"ablation/4x64-{name}", 9, cells=others) for name in ("frequency-pq", "mec")]
    rows.append(row("residual/1x64", 60, cells={9: cell(0.5)}))  # no seed in common
    found = duels(rows)
    # 67.1x has 4.6 % fewer bytes than 64x
    assert [(duel.row.label, duel.rival.label) for duel in found] == [
        ("ours/64x", "pq/c"),
        ("ablation/4x64-mec", "ablation/4x64-frequency-pq"),
    ]
    assert is_of(found[0].auc, [0.02, 0.03])
    assert is_of(found[0].logloss, [-0.02, -0.03])


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path, find_study("ml1m", tiny=True), tmp_path / "data", "rows-of-a-test")


def searched(workspace: Workspace, variant: Variant, valid_aucs: Sequence[float]) -> None:
    (workspace.root / "search").mkdir(exist_ok=True)
    for point, valid_auc in zip(variant.grid, valid_aucs, strict=False):
        workspace.result("search", variant, point, 0).write_text(json.dumps({"valid_auc": valid_auc, "auc": 1.0}))


def test_a_search_chooses_the_best_validation_auc_once_all_points_are_tried(workspace: Workspace) -> None:
    reference = find_variants(workspace.study, LAYOUT)[0]
    assert (reference.label, len(reference.grid)) == ("reference", 10)
    valid_aucs = [0.5, 0.7, 0.6, 0.65, 0.8, 0.9, 0.4, 0.3, 0.2, 0.1]
    searched(workspace, reference, valid_aucs[:9])
    assert workspace.chosen(reference) is None
    jobs, num_waiting = plan(workspace, [reference], range(3))
    assert num_waiting == 3
    assert {job.kind for job in jobs} == {"pretrain", "search"}
    searched(workspace, reference, valid_aucs)
    assert workspace.chosen(reference) == reference.grid[5]
    jobs, num_waiting = plan(workspace, [reference], range(3))
    cells = [job for job in jobs if job.kind == "cell"]
    assert (num_waiting, [job.seed for job in cells]) == (0, [0, 1, 2])
    assert {job.point for job in cells} == {reference.grid[5]}


def test_jobs_share_the_fm_of_a_seed_and_wait_for_what_they_read(workspace: Workspace) -> None:
    variants = [v for v in find_variants(workspace.study, LAYOUT) if v.method in ("ours", "pq", "no_folds", "hashing")]
    jobs, _ = plan(workspace, variants, range(2))
    left = [job.leaves for job in jobs]
    assert len(set(left)) == len(left)
    made: set[Path] = set()
    for job in jobs:  # the order is one in which they can run
        assert set(job.needs) <= made, job
        made.add(job.leaves)
    fms = [job for job in jobs if job.kind == "pretrain"]
    # of all rows with folds, without, and one for each of two hashed tables, whose search needs seed 0's
    assert len(fms) == 2 * 4
    assert len([job for job in jobs if job.kind == "hash"]) == 2


def test_a_setting_that_changes_results_changes_the_name(workspace: Workspace) -> None:
    ours = next(v for v in find_variants(workspace.study, LAYOUT) if v.method == "ours")
    point = ours.grid[0]
    others = [
        (replace(ours, pretrain=PretrainConfig(embedding_dim=3)), point, 0),
        (replace(ours, quantize={**(ours.quantize or {}), "budget": "9x"}), point, 0),
        (replace(ours, codewords="warm"), point, 0),
        (ours, Point(dropout=0.4), 0),
        (ours, point, 1),
    ]
    names = {workspace.result("cells", *other) for other in [(ours, point, 0), *others]}
    names.add(replace(workspace, data_uuid="other rows").result("cells", ours, point, 0))
    assert len(names) == 7
    # a label is none
    assert workspace.result("cells", replace(ours, size="renamed"), point, 0) in names


@pytest.mark.parametrize("table", TABLES)
def test_every_variant_of_every_table_is_a_valid_setting(table: str) -> None:
    study = find_study(table, tiny=False)
    variants = find_variants(study, LAYOUT)
    assert len({variant.label for variant in variants}) == len(variants)
    for variant in variants:
        if variant.quantize is not None:
            QuantizeConfig.model_validate(variant.quantize_settings())
        for point in variant.grid:
            variant.fit_settings(study, point)


@pytest.mark.parametrize("table", ["yelp_next", "beauty_next", "ml1m"])
def test_the_ablations_are_those_that_are_shipped(table: str) -> None:
    study: Study = find_study(table, tiny=False)
    variants = [variant for variant in find_variants(study, LAYOUT) if variant.method == "ablation"]
    assert len(variants) >= 11
    for variant in variants:
        stem = variant.size.removeprefix("4x64-").replace("-", "_")
        layer = REPO / "configs" / "ablations" / f"{stem}.yaml"
        shipped = load_config(REPO / "configs" / f"{table}.yaml", layers=[layer])
        assert QuantizeConfig.model_validate(variant.quantize_settings()) == shipped.quantize, stem
        assert variant.train_config(study, variant.grid[0]).codewords == shipped.train.codewords, stem
        assert variant.pretrain == shipped.pretrain, stem


@pytest.mark.slow
def test_the_study_runs_and_a_second_run_finds_everything_done(tmp_path: Path) -> None:
    command = [sys.executable, str(REPO / "benchmarks" / "compression.py"), "synthetic", "--tiny", "--seeds", "2"]
    command += ["--processes", "1", "--work", str(tmp_path)]
    for pattern in ("reference", "ours/*", "hashing/*"):
        command += ["--only", pattern]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    study = find_study("synthetic", tiny=True)
    hashing = [f"hashing/{ratio:g}x" for ratio in study.hashing_ratios]
    labels = {"reference", *(f"ours/{ratio:g}x" for ratio in study.ratios), *hashing}
    assert {found["variant"] for found in summary["rows"]} == labels
    for found in summary["rows"]:
        assert found["seeds"] == [0, 1]
        assert 0.4 < found["auc"]["mean"] < 1
        method, _, size = found["variant"].partition("/")
        if method == "ours":
            assert found["ratio"] >= float(size.removesuffix("x"))  # the budget is kept
        elif found["floats"] == "as stored":
            asked = float(size.removesuffix("x")) if size else 1.0
            assert found["ratio"] == pytest.approx(asked, rel=0.02)
    for name in ("report.md", "search.json", "auc.png", "difference.svg"):
        assert (tmp_path / name).stat().st_size > 0
    cells = {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()}
    assert len(cells) == 2 * len(labels)
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0, again.stdout + again.stderr
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()} == cells
