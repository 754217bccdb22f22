"""A leaderboard for people: the finding, the recommendations, one table per budget; Markdown and HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mec.evaluation import formatting as fmt
from mec.evaluation.byte_accounting import PART_NAMES
from mec.evaluation.report import markdown_page, page
from mec.evaluation.table import ABSENT, Row, Table

Board = Mapping[str, Any]

_HEADS = ("method", "valid AUC", "test AUC", "95 % interval", "to full", "logloss", "bytes", "fewer bytes")
_COSTS = ("training", "per epoch", "epochs", "look-up")
_NOTE = (
    "By validation AUC. Intervals: Student's t over seeds, which differ in first values, hash functions, shuffling and "
    "dropout, on the same pre-trained tables and the same rows; the difference to full tables is paired, seed by seed. "
    "Everything is measured on what a server holds. Logloss "
    "is calibrated on the validation split. Training is sizes, search and fit, validations among them; look-up is "
    "relative to a full table's."
)


def heading(board: Board) -> str:
    """The finding in one sentence: what is recommended at each budget."""
    chosen = [r for r in board["recommendations"] if r["method"] is not None]
    if not chosen:
        return "No method was measured within any budget"
    parts = [
        f"{r['method']} within {r['budget']}" + ("" if r["next"] is None or r["beyond_chance"] else f" ({_doubt(r)})")
        for r in chosen
    ]
    return "Best by validation AUC: " + ", ".join(parts)


def tables_of(board: Board) -> list[Table]:
    """The recommendations, each budget's leaderboard, and what could not be measured."""
    return [_recommended(board), *(_leaders(board, budget) for budget in board["budgets"]), *_parts(board)]


def leaderboard_markdown(board: Board) -> str:
    """The leaderboard as Markdown."""
    return markdown_page(heading(board), tables_of(board))


def leaderboard_page(
    board: Board,
    figure: bytes,
    *,
    name: str,
    tables: Sequence[Table] = (),
    config: Mapping[str, Any] | None = None,
) -> str:
    """The leaderboard as a self-contained HTML page.

    Args:
        board: From ``make_leaderboard``.
        figure: From ``draw_curve``.
        name: Of the run.
        tables: More tables to show below.
        config: Every setting of the run.
    """
    tiles = [
        {"label": f"within {r['budget']}", "value": r["method"], "note": _tile_note(r)}
        for r in board["recommendations"]
        if r["method"] is not None
    ]
    rows = "nothing measured" if board["num_test_rows"] is None else f"{fmt.count(board['num_test_rows'])} test rows"
    return page(
        title=f"{name} · mec bake-off",
        subtitle=f"{name} · {num_of(board['methods'], 'method')} · {num_of(board['seeds'], 'seed')} · {rows}",
        verdict=heading(board),
        tiles=tiles,
        figures={"Test AUC over bytes": figure},
        tables=[*tables_of(board), *tables],
        config=config,
    )


def num_of(items: Sequence[object], noun: str) -> str:
    """How many there are, such as ``1 seed`` and ``3 seeds``."""
    return f"{len(items)} {noun}{'' if len(items) == 1 else 's'}"


def _tile_note(recommendation: Mapping[str, Any]) -> str:
    if recommendation["next"] is None:
        return "the only one within it"
    if recommendation["beyond_chance"]:
        return f"beyond chance of {recommendation['next']}"
    if _has_one_seed(recommendation):
        return f"before {recommendation['next']} on one seed"
    return f"within chance of {', '.join(recommendation['tied'][:3]) or recommendation['next']}"


def _doubt(recommendation: Mapping[str, Any]) -> str:
    return "one seed" if _has_one_seed(recommendation) else "a tie"


def _has_one_seed(recommendation: Mapping[str, Any]) -> bool:
    return recommendation["difference"]["low"] is None


def _recommended(board: Board) -> Table:
    rows = [Row([r["budget"], r["method"] or "none", r["why"]]) for r in board["recommendations"]]
    note = (
        "Chosen by validation AUC among all rows within the budget, those made for smaller ones too; test rows judge "
        "the choice and had no part in it. The interval is of the paired difference to the next method, seed by seed; "
        "the best of many methods that are near each other is a little flattered by it."
    )
    return Table("Recommendations", ["budget", "method", "why"], rows, note, text_columns=3)


def _leaders(board: Board, budget: Mapping[str, Any]) -> Table:
    rows = [_row(row) for row in board["rows"] if row["budget"] == budget["text"]]
    title = f"Within {budget['text']}: {fmt.human_bytes(budget['bytes'])} of {fmt.human_bytes(board['full_bytes'])}"
    return Table(title, [*_HEADS, *_COSTS, ""], rows, _NOTE)


def _row(row: Mapping[str, Any]) -> Row:
    if "auc" not in row:
        reason = f"{row['status'].replace('_', ' ')}: {row['reason']}"
        return Row([row["method"], *[ABSENT] * (len(_HEADS) + len(_COSTS) - 1), reason])
    auc = row["auc"]
    interval = ABSENT if auc["low"] is None else f"{fmt.metric(auc['low'])} to {fmt.metric(auc['high'])}"
    cells = [row["method"], fmt.metric(row["valid_auc"]["mean"]), fmt.metric(auc["mean"]), interval]
    change = row["auc_difference"]
    cells.append(ABSENT if change is None else _change(change))
    cells += [fmt.metric(row["logloss"]["mean"]), fmt.human_bytes(row["num_bytes"]), fmt.ratio(row["ratio"])]
    cells += [_seconds(training_seconds(row)), _seconds(row["seconds_per_epoch"]), f"{row['epochs']:.1f}"]
    cells.append(ABSENT if row["latency_ratio"] is None else f"{row['latency_ratio']:.2f}{fmt.TIMES}")
    remark = "" if row["within_budget"] else "its search overstepped the budget"
    if row["reason"] is not None:
        remark = f"{row['status'].replace('_', ' ')}: {row['reason']}"
    return Row([*cells, remark])


def training_seconds(row: Mapping[str, Any]) -> float | None:
    """Sizes, search and fit together, mean over seeds; None where a part is not known."""
    parts = [row[name] for name in ("build_seconds", "search_seconds", "train_seconds")]
    return None if None in parts else float(sum(parts))


def _parts(board: Board) -> list[Table]:
    rows = [
        Row([row["method"], row["budget"], *(fmt.human_bytes(row["bytes"][part]) for part in PART_NAMES)])
        for row in board["rows"]
        if "bytes" in row
    ]
    heads = ["method", "budget", *PART_NAMES.values()]
    return [Table("Bytes by part", heads, rows, "Means over seeds.", text_columns=2)] if rows else []


def _change(change: Mapping[str, Any]) -> str:
    text = fmt.signed(change["mean"])
    return text if change["low"] is None else f"{text} ({fmt.interval(change['low'], change['high'])})"


def _seconds(value: float | None) -> str:
    return ABSENT if value is None else fmt.seconds(value)
