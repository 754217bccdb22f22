"""What was measured, in docs/methods.md: each method's test AUC and place, and where MEC stands on the frontier.

The line below ``<!-- numbers: NAME -->`` tells what is known of NAME at every budget and table, and the table below
``<!-- frontier: TABLE -->`` is that of ``bakeoff_study.frontier``; the rest of the page is written by hand. A place
is among the methods that were measured at that budget with all seeds of the table, by mean test AUC.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from bakeoff_study.frontier import frontier_table
from mec.bakeoff.cells import REFERENCE, REFERENCE_BUDGET
from mec.evaluation import formatting as fmt

TITLES = {"ml1m": "MovieLens-1M", "yelp_next": "Yelp", "beauty_next": "Beauty"}  # configs, as readers know them
_START = "*Test AUC and place.*"
_MARK = re.compile(rf"(?m)^<!-- numbers: (\w+) -->\n(?:{re.escape(_START)}(.*)\n)?")
_TABLE = re.compile(rf" ({'|'.join(map(re.escape, TITLES.values()))}): ")
_FRONTIER = re.compile(r"(?m)^<!-- frontier: (.+) -->\n(?:\|.*\n)*")
_NEAR = 1.25  # bytes that are this much fewer than the budget are told
Board = Mapping[str, Any]


def fill(page: str, boards: Mapping[str, Board]) -> str:
    """The page with its lines of numbers and frontiers renewed; what is said of a table without a board stays.

    Args:
        page: Markdown.
        boards: Table's name as readers know it -> from ``mec.bakeoff.leaderboard.make_leaderboard``.
    """

    def renewed(found: re.Match[str]) -> str:
        line = method_line(found[1], boards, kept=found[2] or "")
        return f"<!-- numbers: {found[1]} -->\n" + (f"{line}\n" if line else "")

    def drawn_again(found: re.Match[str]) -> str:
        board = boards.get(found[1])
        return found[0] if board is None else "\n".join([f"<!-- frontier: {found[1]} -->", *frontier_table(board), ""])

    return _FRONTIER.sub(drawn_again, _MARK.sub(renewed, page))


def method_line(method: str, boards: Mapping[str, Board], kept: str = "") -> str:
    """One method on all tables, those whose boards lack it as ``kept`` has them; empty where nothing was measured."""
    pieces = _TABLE.split(kept)[1:]
    said = {name: f"{name}: {text.strip()}" for name, text in zip(pieces[::2], pieces[1::2], strict=True)}
    said |= {name: text for name, board in boards.items() if (text := _of_table(method, name, board))}
    parts = [text for name in [*TITLES.values(), *boards] if (text := said.pop(name, ""))]
    return f"{_START} {' '.join(parts)}" if parts else ""


def _of_table(method: str, name: str, board: Board) -> str:
    budgets = [budget for budget in board["budgets"] if budget["bytes"] < board["full_bytes"]]
    cells = [text for budget in budgets if (text := _of_budget(method, budget, board))]
    if method == REFERENCE:
        whole = (row for row in board["rows"] if (row["method"], row["budget"]) == (REFERENCE, REFERENCE_BUDGET))
        cells = [f"whole {_auc(row)}" for row in whole if _is_measured(row, board)] + cells
    return f"{name}: {'; '.join(cells)}." if cells else ""


def _of_budget(method: str, budget: Mapping[str, Any], board: Board) -> str:
    text = str(budget["text"])
    rows = [row for row in board["rows"] if row["budget"] == text]
    own = next((row for row in rows if row["method"] == method), None)
    if own is None:
        return ""
    if own["status"] != "measured":
        return f"{text} {'beyond it' if own['status'] == 'over_budget' else own['status'].replace('_', ' ')}"
    if not _is_measured(own, board):
        return ""
    aucs = [float(row["auc"]["mean"]) for row in rows if _is_measured(row, board)]
    place = 1 + sum(other > float(own["auc"]["mean"]) for other in aucs)
    smaller = f" (at {own['ratio']:.0f}x)" if own["ratio"] > _NEAR * board["full_bytes"] / budget["bytes"] else ""
    return f"{text} {_auc(own)}{smaller}, {place} of {len(aucs)}"


def _is_measured(row: Mapping[str, Any], board: Board) -> bool:
    return row["status"] == "measured" and len(row["seeds"]) == len(board["seeds"])


def _auc(row: Mapping[str, Any]) -> str:
    return fmt.metric(row["auc"]["mean"]).removeprefix("0")
