"""The leaderboard's arithmetic by hand, and what is recommended."""

from __future__ import annotations

import math

import pytest

from mec.bakeoff.curve import better_half, draw_curve, ratio_axis
from mec.bakeoff.estimates import estimate
from mec.bakeoff.leaderboard import make_leaderboard
from mec.bakeoff.pages import heading, leaderboard_markdown, leaderboard_page
from mec.errors import BundleError
from mec.evaluation.figure_style import new_figure
from tests.bakeoff.made_up import cell, cells, failed

T_2 = 4.302653  # 97.5 % quantile of Student's t with 2 degrees of freedom, from a table


def row(board: dict, method: str, budget: str) -> dict:
    (found,) = [r for r in board["rows"] if (r["method"], r["budget"]) == (method, budget)]
    return found


def recommended(results: list, budget: str) -> dict:
    (found,) = [r for r in make_leaderboard(results)["recommendations"] if r["budget"] == budget]
    return found


def test_a_mean_has_students_interval():
    found = estimate([0.70, 0.72, 0.74])  # standard deviation 0.02
    assert found.mean == pytest.approx(0.72)
    assert found.half == pytest.approx(T_2 * 0.02 / 3**0.5, rel=1e-6)
    assert (found.low, found.high) == pytest.approx((0.72 - found.half, 0.72 + found.half))
    assert estimate([0.7]).to_json() == {"mean": 0.7, "low": None, "high": None, "num_seeds": 1}


@pytest.mark.parametrize(
    ("values", "excluded"),
    [([0.010, 0.011, 0.012], True), ([-0.012, -0.011, -0.010], True), ([-0.01, 0.01, 0.03], False), ([0.5], False)],
)
def test_an_interval_says_whether_it_excludes_zero(values, excluded):
    assert estimate(values).excludes_zero is excluded


def test_rows_are_means_over_seeds():
    results = cells("qr", "2x", [0.70, 0.72, 0.74], [0.60, 0.61, 0.62], 4000)
    results[1]["num_bytes"], results[1]["latency"] = 3400, None
    results[2]["train_seconds"] = results[2]["seconds_per_epoch"] = None
    results[0]["train_seconds"] = 6.0
    found = row(make_leaderboard(results[::-1]), "qr", "2x")
    assert found["valid_auc"]["mean"] == pytest.approx(0.72)
    assert found["auc"] == pytest.approx(
        {"mean": 0.61, "low": 0.61 - T_2 * 0.01 / 3**0.5, "high": 0.61 + T_2 * 0.01 / 3**0.5, "num_seeds": 3}
    )
    assert found["num_bytes"] == pytest.approx(3800)
    assert found["largest_bytes"] == 4000
    assert found["train_seconds"] == pytest.approx(5.0)
    assert found["latency_ratio"] == pytest.approx(2.0)
    assert found["bytes"]["codes"] == pytest.approx(2000)
    assert found["seeds"] == [0, 1, 2]
    assert found["auc_difference"] is None


def test_the_difference_to_full_tables_is_paired_by_seed():
    results = cells("qr", "2x", [0.7] * 3, [0.60, 0.71, 0.80], 4000)
    results += cells("full", "1x", [0.7] * 3, [0.61, 0.70, 0.83], 8000)
    results += cells("full", "2x", [0.7] * 3, [0.1] * 3, 4000)  # rounded to fp16, and not the reference
    board = make_leaderboard(results)
    differences = [-0.01, 0.01, -0.03]
    assert row(board, "qr", "2x")["auc_difference"] == pytest.approx(estimate(differences).to_json())
    assert row(board, "full", "1x")["auc_difference"] is None


def test_rows_go_by_budget_and_validation_auc_and_the_unmeasured_come_last():
    results = [
        cell("a", "8x", 0, 0.6, 0.9, 900),
        failed("c", "2x", 0),
        cell("a", "2x", 0, 0.6, 0.9, 3000),
        cell("b", "2x", 0, 0.7, 0.5, 3000),
    ]
    board = make_leaderboard(results)
    assert [(r["budget"], r["method"]) for r in board["rows"]] == [("2x", "b"), ("2x", "a"), ("2x", "c"), ("8x", "a")]
    assert board["budgets"] == [{"text": "2x", "bytes": 4000}, {"text": "8x", "bytes": 1000}]
    assert row(board, "c", "2x")["status"] == "over_budget"


def test_a_failed_seed_is_said_and_the_others_are_shown():
    results = [cell("a", "2x", 0, 0.6, 0.7, 3000), failed("a", "2x", 1, "diverged"), cell("b", "2x", 0, 0.5, 0.5, 3000)]
    results.append(cell("b", "2x", 1, 0.5, 0.5, 3000))
    found = row(make_leaderboard(results), "a", "2x")
    assert (found["status"], found["seeds"]) == ("diverged", [0])
    assert found["reason"] == "1 of 2 seeds: a did not make it"
    assert found["auc"]["mean"] == 0.7
    assert recommended(results, "2x")["method"] == "b"


def test_the_choice_is_made_on_validation_and_never_on_test():
    results = cells("a", "2x", [0.70, 0.71], [0.5, 0.5], 3000) + cells("b", "2x", [0.69, 0.70], [0.9, 0.9], 3000)
    found = recommended(results, "2x")
    assert (found["method"], found["next"]) == ("a", "b")
    assert found["difference"]["mean"] == pytest.approx(0.01)
    assert found["test_difference"]["mean"] == pytest.approx(-0.4)


def test_the_paired_interval_decides_what_is_beyond_chance():
    # far apart over seeds, yet a is better by nearly the same in each
    a, b = [0.60, 0.70, 0.80], [0.590, 0.689, 0.791]
    c = [0.65, 0.65, 0.65]
    results = [r for m, v in (("a", a), ("b", b), ("c", c)) for r in cells(m, "2x", v, v, 3000)]
    found = recommended(results, "2x")
    assert (found["method"], found["next"], found["beyond_chance"]) == ("a", "b", True)
    assert found["tied"] == ["c"]
    assert found["difference"]["low"] == pytest.approx(0.01 - T_2 * 0.001 / 3**0.5, rel=1e-4)
    assert "beyond chance" in found["why"]
    assert "As good as far as these seeds can tell: c" in found["why"]


def test_rows_of_smaller_budgets_are_within_a_larger_one():
    results = cells("a", "2x", [0.6, 0.6], [0.6, 0.6], 3000) + cells("b", "8x", [0.7, 0.7], [0.7, 0.7], 900)
    found = recommended(results, "2x")
    assert (found["method"], found["at"], found["next"]) == ("b", "8x", "a")
    assert found["why"].startswith("b at 8x has the best validation AUC")
    assert recommended(results, "8x")["next"] is None


def test_a_row_that_oversteps_its_budget_in_one_seed_is_not_recommended_for_it():
    results = cells("a", "8x", [0.7, 0.7], [0.7, 0.7], 900) + cells("b", "8x", [0.6, 0.6], [0.6, 0.6], 900)
    results[1] |= {"num_bytes": 1100, "within_budget": False}
    results += cells("b", "2x", [0.6, 0.6], [0.6, 0.6], 1800)
    assert recommended(results, "8x")["method"] == "b"
    assert recommended(results, "2x")["method"] == "a"
    assert row(make_leaderboard(results), "a", "8x")["within_budget"] is False


def test_of_tied_methods_the_smallest_and_the_fastest_are_named():
    results = cells("a", "2x", [0.70, 0.72], [0.7, 0.7], 3000) + cells("b", "2x", [0.71, 0.70], [0.7, 0.7], 2000)
    found = recommended(results, "2x")
    assert (found["method"], found["beyond_chance"], found["tied"]) == ("a", False, ["b"])
    assert "b takes the fewest bytes" in found["why"]
    assert "a is looked up fastest" in found["why"]


def test_a_sentence_lists_few_of_many_tied_methods():
    results = [r for index in range(8) for r in cells(f"m{index}", "2x", [0.70, 0.72], [0.7, 0.7], 3000 - index)]
    found = recommended(results, "2x")
    assert len(found["tied"]) == 7
    assert "can tell: m6, m5, m4, m3, 3 more; of these m7 takes the fewest bytes" in found["why"]


def test_one_seed_tells_nothing_about_chance_and_no_method_is_said():
    results = [cell("a", "2x", 0, 0.9, 0.9, 3000), cell("b", "2x", 0, 0.5, 0.5, 3000), failed("a", "8x", 0)]
    found = recommended(results, "2x")
    assert (found["method"], found["beyond_chance"]) == ("a", False)
    assert "one seed tells nothing about chance" in found["why"]
    assert recommended(results, "8x")["method"] is None


@pytest.mark.parametrize(
    ("a", "b", "doubt", "note"),
    [
        ([0.9], [0.5], " (one seed)", "before b on one seed"),
        ([0.70, 0.72], [0.71, 0.70], " (a tie)", "within chance of b"),
        ([0.70, 0.72], [0.60, 0.621], "", "beyond chance of b"),
        ([0.70], None, "", "the only one within it"),
    ],
)
def test_a_tie_is_said_where_seeds_can_tell(a, b, doubt, note):
    results = cells("a", "2x", a, a, 3000) + (cells("b", "2x", b, b, 2000) if b else [])
    board = make_leaderboard(results)
    assert heading(board) == f"Best by validation AUC: a within 2x{doubt}"
    assert f"<span>{note}</span>" in leaderboard_page(board, b"", name="tiny")


def test_cells_that_do_not_belong_together_are_refused():
    one = cell("a", "2x", 0, 0.6, 0.6, 3000)
    with pytest.raises(BundleError, match="no cells"):
        make_leaderboard([])
    with pytest.raises(BundleError, match="a at 2x, seed 0"):
        make_leaderboard([one, one])
    with pytest.raises(BundleError, match="different tables"):
        make_leaderboard([one, cell("b", "2x", 0, 0.6, 0.6, 3000, full_bytes=9000)])


def test_pages_hold_every_method_and_what_is_recommended():
    results = cells("full", "1x", [0.7, 0.72], [0.7, 0.71], 8000)
    for index in range(9):  # more than there are colours
        results += cells(f"m{index}", "2x", [0.6, 0.61], [0.6 + index / 100, 0.6], 3000)
    results += [failed("m0", "8x", seed) for seed in (0, 1)]
    results += [failed("m1", "8x", seed, "not_applicable") for seed in (0, 1)]
    results[-5]["latency"] = None
    board = make_leaderboard(results)
    figure = draw_curve(board)
    assert figure.startswith(b"\x89PNG")
    text, page = leaderboard_markdown(board), leaderboard_page(board, figure, name="tiny", config={"seed": 0})
    for shown in (text, page):
        assert all(f"m{index}" in shown for index in range(9))
        assert "over budget: m0 did not make it" in shown
        assert "not applicable: m1 did not make it" in shown
    assert "10 methods · 2 seeds · 100 test rows" in page
    assert "data:image/png;base64," in page
    assert heading(board).startswith("Best by validation AUC: full within 1x")


@pytest.mark.parametrize(
    ("means", "shown"),
    [
        ([0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85], False),  # evenly spread
        ([0.5, 0.6, 0.7, 0.8, 0.89, 0.90, 0.91, 0.92], True),
        ([0.5, 0.88, 0.89, 0.90, 0.91, 0.92], False),  # few
        ([0.9] * 8, False),
        ([0.5, 0.6] + [0.9] * 6, False),
    ],
)
def test_the_better_half_has_a_panel_where_others_fall_far_behind(means, shown):
    limits = better_half([{"mean": mean, "low": None, "high": None} for mean in means])
    assert (limits is not None) == shown
    if limits is not None:
        assert [mean for mean in means if limits[0] < mean < limits[1]] == [0.89, 0.90, 0.91, 0.92]
    results = [cell(f"m{i}", "2x", 0, mean, mean, 3000 - i) for i, mean in enumerate(means)]
    heights = [int.from_bytes(draw_curve(make_leaderboard(part))[20:24], "big") for part in (results, results[:1])]
    assert (heights[0] > 1.5 * heights[1]) == shown


@pytest.mark.parametrize("ratios", [[8.0], [1.0], [8.0, 9.1], [0.7, 1.3], [2.0, 130.0]])
def test_the_axis_of_ratios_spans_all_and_a_factor_of_four_at_least(ratios):
    axes = new_figure(4, 3).subplots()
    ratio_axis(axes, ratios)
    low, high = axes.get_xlim()
    assert low < min(ratios) <= max(ratios) < high
    assert high / low > 3.999
    ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
    assert len(ticks) >= 2
    assert all(math.log2(tick).is_integer() for tick in ticks)


def test_pages_of_a_bakeoff_in_which_nothing_was_measured():
    board = make_leaderboard([failed("a", "8x", 0)])
    assert heading(board) == "No method was measured within any budget"
    assert "a did not make it" in leaderboard_markdown(board)
    assert "1 method · 1 seed · nothing measured" in leaderboard_page(board, draw_curve(board), name="tiny")
