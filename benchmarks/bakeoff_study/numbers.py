"""What was measured of each method, a line of docs/methods.md for each: test AUC and place at every budget and table.

A line of the page that begins with ``<!-- numbers: NAME -->`` ends with what is known of NAME; the rest of the page is
written by hand. A place is among all methods that were measured at that budget, by mean test AUC.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mec.bakeoff.cells import REFERENCE, REFERENCE_BUDGET

_MARK = re.compile(r"(?m)^(<!-- numbers: (\w+) -->).*$")
TITLES = {"ml1m": "MovieLens-1M", "yelp_next": "Yelp", "beauty_next": "Beauty"}
_NEAR = 1.25  # bytes that are this much fewer than the budget are told
Board = Mapping[str, Any]


def fill(page: str, boards: Mapping[str, Board]) -> str:
    """The page with its lines of numbers renewed.

    Args:
        page: Markdown.
        boards: Table's name as readers know it -> from ``mec.bakeoff.leaderboard.make_leaderboard``.
    """
    return _MARK.sub(lambda found: f"{found[1]} {method_line(found[2], boards)}".rstrip(), page)


def method_line(method: str, boards: Mapping[str, Board]) -> str:
    """One method on all tables; empty where nothing was measured."""
    parts = [text for name, board in boards.items() if (text := _of_table(method, name, board))]
    return f"*Test AUC and place.* {' '.join(parts)}" if parts else ""


def _of_table(method: str, name: str, board: Board) -> str:
    budgets = [str(budget["text"]) for budget in board["budgets"] if budget["text"] != REFERENCE_BUDGET]
    cells = [text for budget in budgets if (text := _of_budget(method, budget, board))]
    if method == REFERENCE:
        whole = (row for row in board["rows"] if (row["method"], row["budget"]) == (REFERENCE, REFERENCE_BUDGET))
        cells = [f"whole {_auc(row)}" for row in whole if row["status"] == "measured"] + cells
    return f"{name}: {'; '.join(cells)}." if cells else ""


def _of_budget(method: str, budget: str, board: Board) -> str:
    rows = [row for row in board["rows"] if row["budget"] == budget]
    own = next((row for row in rows if row["method"] == method), None)
    if own is None:
        return ""
    if own["status"] != "measured":
        return f"{budget} {'beyond it' if own['status'] == 'over_budget' else own['status']}"
    aucs = [float(row["auc"]["mean"]) for row in rows if row["status"] == "measured"]
    place = 1 + sum(other > float(own["auc"]["mean"]) for other in aucs)
    asked = float(budget.removesuffix("x"))
    smaller = f" (at {own['ratio']:.0f}x)" if own["ratio"] > _NEAR * asked else ""
    return f"{budget} {_auc(own)}{smaller}, {place} of {len(aucs)}"


def _auc(row: Mapping[str, Any]) -> str:
    return f"{row['auc']['mean']:.4f}".removeprefix("0")
