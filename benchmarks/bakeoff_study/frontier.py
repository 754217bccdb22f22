"""Where one method stands on the frontier of all others: at equal bytes, by test AUC, paired by seed.

Each method takes part with the row that its own validation AUC chooses among those within the budget, as a
recommendation does. The verdict at a budget:

    above   no other method has the same mean test AUC or more, and the best by validation AUC is below beyond chance
    on      no other method is above beyond chance
    below   those that are named are above beyond chance

Beyond chance: the 95 % t-interval of the paired difference excludes zero. It holds for one pair; of some twenty rivals
one may be there by luck, and with three seeds intervals are wide (t = 4.3 standard errors).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mec.bakeoff.estimates import Estimate, paired
from mec.bakeoff.recommending import best_of_each_method
from mec.evaluation import formatting as fmt

OURS = "mec"
Verdict = Literal["above", "on", "below", "not measured"]


@dataclass(frozen=True)
class Standing:
    """One budget.

    Attributes:
        budget: As it was asked for.
        verdict: See above.
        auc: Mean test AUC of ours; None where it was not measured.
        rival: The best other method by validation AUC; None without one.
        difference: Test AUC, ours less the rival's.
        above: Methods of a higher mean test AUC -> difference, ours less theirs; the highest first.
    """

    budget: str
    verdict: Verdict
    auc: float | None
    rival: str | None
    difference: Estimate | None
    above: dict[str, Estimate]


def stand(board: Mapping[str, Any], budget: Mapping[str, Any], ours: str = OURS) -> Standing:
    """Compare one method with all others at one budget.

    Args:
        board: From ``mec.bakeoff.leaderboard.make_leaderboard``.
        budget: One of its ``budgets``.
        ours: The method.
    """
    rows = {r["method"]: r for r in best_of_each_method(board["rows"], int(budget["bytes"]), len(board["seeds"]))}
    own = rows.pop(ours, None)
    if own is None:
        return Standing(budget["text"], "not measured", None, None, None, {})
    differences = {name: paired(own["by_seed"]["auc"], row["by_seed"]["auc"]) for name, row in rows.items()}
    not_below = sorted((name for name in rows if differences[name].mean <= 0), key=lambda name: differences[name].mean)
    above = {name: differences[name] for name in not_below}
    rival = next(iter(rows), None)
    verdict: Verdict = "on"
    if any(difference.excludes_zero for difference in above.values()):
        verdict = "below"
    elif rival is not None and not above and differences[rival].excludes_zero:
        verdict = "above"
    mean = float(own["auc"]["mean"])
    return Standing(budget["text"], verdict, mean, rival, differences[rival] if rival else None, above)


def frontier_table(board: Mapping[str, Any], ours: str = OURS) -> list[str]:
    """Markdown lines: one row per budget that makes tables smaller."""
    lines = [f"| budget | {ours} is | test AUC | to the best other by validation | mean test AUC above {ours} |"]
    lines += ["|---|---|---|---|---|"]
    for budget in board["budgets"]:
        if budget["bytes"] >= board["full_bytes"]:
            continue
        found = stand(board, budget, ours)
        if found.auc is None:
            lines.append(f"| {found.budget} | {found.verdict} | | | |")
            continue
        to_rival = "" if found.difference is None else f"{_difference(found.difference)} to {found.rival}"
        named = "; ".join(f"{name} {_difference(difference)}" for name, difference in found.above.items()) or "none"
        lines.append(f"| {found.budget} | {found.verdict} | {fmt.metric(found.auc)} | {to_rival} | {named} |")
    return lines


def _difference(difference: Estimate) -> str:
    text = fmt.signed(difference.mean)
    if difference.low is None or difference.high is None:
        return f"{text} (one seed)"
    mark = ", beyond chance" if difference.excludes_zero else ""
    return f"{text} ({fmt.interval(difference.low, difference.high)}{mark})"
