"""Which method for a budget: the best by validation AUC of those within it, and how sure that is.

Test rows judge a choice and never make it: the best of many on the test split would look better than it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mec.bakeoff.estimates import Estimate, paired
from mec.evaluation import formatting as fmt

Row = Mapping[str, Any]

_NAMED = 4  # tied methods that a sentence lists


def recommend(rows: Sequence[Row], budget: Mapping[str, Any], num_seeds: int) -> dict[str, Any]:
    """Choose for one budget among all rows whose bytes are within it, those made for smaller budgets too.

    Args:
        rows: Of the leaderboard.
        budget: ``text`` and ``bytes``.
        num_seeds: Of the bake-off; a row that lacks one is not recommended.

    Returns:
        JSON value: ``budget``, ``method`` and ``at`` (the budget that its row was made for), null where no method is
        within, ``next`` (the best other method, null without one), ``difference`` (validation AUC to ``next``, paired
        by seed) and ``beyond_chance`` (its interval excludes zero), ``tied`` (other methods whose paired interval does
        not, best first), ``test_difference`` (to ``next``, for judging only) and ``why``, for people.
    """
    ranked = best_of_each_method(rows, budget["bytes"], num_seeds)
    result: dict[str, Any] = {"budget": budget["text"], "method": None, "at": None, "next": None, "tied": []}
    result |= {"difference": None, "beyond_chance": False, "test_difference": None}
    if not ranked:
        return result | {"why": f"no method was measured within {fmt.human_bytes(budget['bytes'])}"}
    best, *others = ranked
    result |= {"method": best["method"], "at": best["budget"]}
    if others:
        difference = _difference(best, others[0], "valid_auc")
        tied = [row for row in others if not _difference(best, row, "valid_auc").excludes_zero]
        result |= {
            "next": others[0]["method"],
            "difference": difference.to_json(),
            "beyond_chance": difference.excludes_zero,
            "tied": [row["method"] for row in tied],
            "test_difference": _difference(best, others[0], "auc").to_json(),
        }
        return result | {"why": _why(best, others, tied, difference, budget)}
    return result | {"why": f"{_named(best, budget)} is the only method within {fmt.human_bytes(budget['bytes'])}"}


def best_of_each_method(rows: Sequence[Row], budget_bytes: int, num_seeds: int) -> list[Row]:
    """The row of each method that has the best validation AUC of those within a budget, best first.

    Args:
        rows: Of the leaderboard.
        budget_bytes: That every seed of a row keeps.
        num_seeds: Of the bake-off; a row that lacks one is left out.

    Returns:
        One row per method; of equals the one of fewer bytes.
    """
    within = [row for row in rows if len(row["seeds"]) == num_seeds and row["largest_bytes"] <= budget_bytes]
    best: dict[str, Row] = {}
    for row in sorted(within, key=lambda row: (-row["valid_auc"]["mean"], row["num_bytes"], row["method"])):
        best.setdefault(row["method"], row)
    return list(best.values())


def _difference(row: Row, other: Row, metric: str) -> Estimate:
    return paired(row["by_seed"][metric], other["by_seed"][metric])


def _why(best: Row, others: Sequence[Row], tied: Sequence[Row], difference: Estimate, budget: Mapping[str, Any]) -> str:
    text = (
        f"{_named(best, budget)} has the best validation AUC, {fmt.metric(best['valid_auc']['mean'])}, of "
        f"{len(others) + 1} methods within {fmt.human_bytes(budget['bytes'])}"
    )
    above = f"{fmt.signed(difference.mean)} to {_named(others[0], budget)}"
    if difference.low is None or difference.high is None:
        text += f"; {above}, and one seed tells nothing about chance: run it with more"
    else:
        interval = f"{above} ({fmt.interval(difference.low, difference.high)} over {difference.num_seeds} seeds)"
        text += f"; {interval}, {'beyond chance' if difference.excludes_zero else 'within chance'}"
        if tied:
            named = [_named(row, budget) for row in tied[:_NAMED]]
            more = [f"{len(tied) - _NAMED} more"] if len(tied) > _NAMED else []
            text += f". As good as far as these seeds can tell: {', '.join(named + more)}"
            text += _cheaper([best, *tied], budget)
    return f"{text}. Test AUC {fmt.metric(best['auc']['mean'])}"


def _cheaper(rows: Sequence[Row], budget: Mapping[str, Any]) -> str:
    """What decides between methods that are equally good."""
    smallest = min(rows, key=lambda row: float(row["num_bytes"]))
    text = f"; of these {_named(smallest, budget)} takes the fewest bytes ({fmt.human_bytes(smallest['num_bytes'])})"
    if all(row["latency_ms"] is not None for row in rows):
        fastest = min(rows, key=lambda row: float(row["latency_ms"]))
        text += f" and {_named(fastest, budget)} is looked up fastest ({fastest['latency_ms']:.2f} ms)"
    return text


def _named(row: Row, budget: Mapping[str, Any]) -> str:
    return str(row["method"]) if row["budget"] == budget["text"] else f"{row['method']} at {row['budget']}"
