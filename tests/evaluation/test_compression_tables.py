"""Tables and figures on the compression: every number where it belongs, and nothing where there is none."""

from __future__ import annotations

from typing import Any

import pytest

from mec.evaluation import compression_figures as figures
from mec.evaluation import compression_tables as tables
from mec.evaluation.figure_style import house_style
from mec.evaluation.figures import draw_figures
from mec.evaluation.formatting import MINUS
from mec.evaluation.report import markdown_summary, render
from mec.evaluation.table import ABSENT, Table
from tests.evaluation.made_up import make_evaluation
from tests.evaluation.made_up_diagnostics import make_diagnostics

MAKERS = [
    tables.budget_table, tables.coverage_table, tables.distortion_table, tables.codewords_table, tables.overlap_table,
    tables.neighbours_table, tables.folds_table, tables.reliability_table,
]  # fmt: skip


def summary(**changes: Any) -> dict[str, Any]:
    return {"compression_diagnostics": make_diagnostics() | changes}


def cells(table: Table | None) -> list[list[str]]:
    assert table is not None
    assert all(len(row.cells) == len(table.heads) for row in table.rows)
    return [list(row.cells) for row in table.rows]


def test_codewords_of_each_codebook() -> None:
    user, item = cells(tables.codewords_table(summary()))
    assert item == ["item", "product\N{NO-BREAK SPACE}2x64", "64, 61", "50.2, 12.8", "20.0 %", "62.5 %"]
    assert user[0] == "user"  # the largest first


def test_distortion_is_head_first_and_its_shares_add_up() -> None:
    rows = cells(tables.distortion_table(summary()))[:4]
    assert [row[:2] for row in rows] == [["user", "head"], ["", "torso"], ["", "tail"], ["", "unseen"]]
    assert [row[4] for row in rows] == ["90.0 %", "50.0 %", "25.0 %", ABSENT]
    assert [row[5] for row in rows] == ["7.41 %", "37.0 %", "55.6 %", "0.00 %"]
    assert [row[3] for row in rows] == ["0.00 %", "33.3 %", "16.7 %", "50.0 %"]


def test_coverage_by_way_with_exact_vocabularies_together() -> None:
    rows = cells(tables.coverage_table(summary()))
    by_name = {row[0]: (row, rows[place + 1]) for place, row in enumerate(rows) if row[0]}
    assert list(by_name) == ["user", "item", "2 exact", "all"]
    values, impressions = by_name["item"]
    assert values == ["item", "values", "800", "3.75 %", "71.2 %", "25.0 %", ABSENT, ABSENT]
    assert impressions == ["", "training impressions", "8,000", "3.75 %", "71.2 %", "25.0 %", ABSENT, "0.62 %"]
    assert by_name["2 exact"][0] == ["2 exact", "values", "9", ABSENT, ABSENT, ABSENT, "100.0 %", ABSENT]
    assert by_name["all"][0][2] == "1,709"


def test_budget_says_what_was_given_and_what_was_not_taken() -> None:
    rows = cells(tables.budget_table(summary()))
    assert rows[0] == [
        "item",
        "product 2x64, the first 30 rows exact, one code for the last 200 values",
        "product 3x64, one code for the last 200 values",
        "+1.00 KiB",
        f"{MINUS}5.00 %",
        "3.42 KiB",
        "77.6 %",
        "40.0 %",
    ]
    assert rows[1][1:5] == ["product 2x64", "none distorts less", ABSENT, ABSENT]
    assert rows[2][1] == "all rows exact"
    assert rows[-1][5:] == ["4.40 KiB", "100.0 %", "100.0 %"]


def test_neighbours_by_number_and_by_name() -> None:
    assert cells(tables.overlap_table(summary()))[1] == [
        "item", "700", "12.3 %", "1.43 %", "45.0 %", ABSENT, ABSENT, "21.3",
    ]  # fmt: skip
    first = cells(tables.neighbours_table(summary()))[0]
    assert first == [
        "user", "<Cafe>", f"Bar\N{NO-BREAK SPACE}(0.88), Zoo\N{NO-BREAK SPACE}({MINUS}0.12)",
        "Inn\N{NO-BREAK SPACE}(1.00) and 1,234 more as near", "4,321", "35.0 %",
    ]  # fmt: skip


def test_only_the_largest_vocabularies_are_listed_by_name() -> None:
    one = make_diagnostics()["vocabularies"]["item"]
    many = {f"v{num}": one | {"size": num} for num in range(9)}
    table = tables.neighbours_table(summary(vocabularies=many))
    assert [row[0] for row in cells(table)] == ["v8", "v7", "v6", "v5"]
    assert table is not None
    assert "5 smaller vocabularies are not listed" in table.note


def test_folds_with_their_agreement() -> None:
    assert cells(tables.folds_table(summary()))[1] == ["without fold 1", "0.7100", "2.5", f"{MINUS}25.00 %", "37.5 %"]
    assert tables.folds_table(summary(folds={"num": 0, "seed": 0, "fits": []})) is None


def test_reliability_by_range_the_popular_first_and_the_large_vocabularies() -> None:
    table = tables.reliability_table(summary())
    assert cells(table) == [
        ["user", "16", "400", "100.0 %"],
        ["", "1", "499", "1.00 %"],
        ["item", "4", "300", "62.5 %"],
    ]
    assert table is not None
    assert "not listed" not in table.note
    many = {f"v{num}": [{"count_from": 1, "values": 300 + num, "reliability": 0.5}] for num in range(11)}
    table = tables.reliability_table(summary(reliability=many))
    assert [row[0] for row in cells(table)] == [f"v{num}" for num in range(10, 2, -1)]
    assert table is not None
    assert "3 smaller vocabularies are not listed" in table.note


@pytest.mark.parametrize("make", MAKERS)
def test_nothing_without_numbers(make: Any) -> None:
    assert make({}) is None
    empty = {"vocabularies": {}, "coverage": [], "allocation": None, "folds": None, "reliability": None}
    assert make(summary(**empty)) is None


def test_page_holds_all_and_escapes_values() -> None:
    evaluation = make_evaluation() | summary()
    page = render(evaluation, {})
    for make in MAKERS:
        table = make(evaluation)
        assert table is not None
        assert f"<h2>{table.title}</h2>" in page
        assert f"## {table.title}" in markdown_summary(evaluation)
    assert "&lt;Cafe&gt;" in page
    assert "<Cafe>" not in page


def test_figures_are_drawn_where_there_are_numbers() -> None:
    drawn = draw_figures(summary(allocation=None))
    assert list(drawn) == ["distortion"]
    names = {"vocabularies": make_diagnostics((r"$\frac", "_^{"))["vocabularies"]}
    assert list(draw_figures(summary(**names))) == ["distortion", "budget"]
    assert draw_figures(summary(vocabularies={}, allocation=None)) == {}


def test_distortion_figure_shows_each_slice() -> None:
    with house_style():
        kept, left = figures._distortion(summary()).axes
    points = sorted(float(line.get_xdata()[0]) for line in kept.lines if line.get_marker() != "None")
    assert points == pytest.approx([25, 25, 50, 50, 90, 90])
    widths = [bar.get_width() for bar in left.patches]
    assert widths == pytest.approx(2 * [100 * part / 10.8 for part in (0.8, 4, 6)])


def test_budget_figure_shows_shares_of_the_budget() -> None:
    with house_style():
        figure = figures._budget(summary())
    spent, error = figure.axes
    assert sum(bar.get_width() for bar in spent.patches) == pytest.approx(100)
    assert [bar.get_width() for bar in error.patches] == pytest.approx([40, 60, 0, 0])
    assert figure.get_suptitle() == "100 % of the budget spent, 78 % on item"


def test_many_vocabularies_share_the_last_bar_of_the_budget() -> None:
    given = {f"v{n}": {"bytes": {"codes": n, "rows": 1}, "distortion_share": 0.1} for n in range(10)}
    rows = figures._largest(given)
    assert (len(rows), rows[-1][0], rows[-1][1]) == (8, "3 others", {"codes": 3, "rows": 3})
    assert rows[-1][2] == pytest.approx(0.3)
