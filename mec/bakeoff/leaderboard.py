"""From cells to a leaderboard: one row per method and budget, over its seeds."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mec.bakeoff.cells import REFERENCE
from mec.bakeoff.estimates import estimate, paired
from mec.bakeoff.recommending import recommend
from mec.errors import BundleError

Result = Mapping[str, Any]  # of a cell
Board = Mapping[str, Any]

METRICS = ("valid_auc", "auc", "logloss")
_SECONDS = ("build_seconds", "search_seconds", "train_seconds", "seconds_per_epoch")


def make_leaderboard(results: Sequence[Result]) -> dict[str, Any]:
    """Put the cells of a bake-off together.

    Args:
        results: What ``measure_cell`` gave, in any order.

    Returns:
        JSON value: ``full_bytes``, ``num_test_rows`` (null where nothing was measured), ``seeds``, ``methods``,
        ``budgets`` (``text`` and ``bytes``, largest first), ``rows`` and ``recommendations`` (see ``recommend``). A
        row holds ``method``, ``budget``, ``budget_bytes``, ``status`` (that of its seeds, the worst of several) and
        ``reason``, ``seeds`` (measured ones); where there are any also the estimates ``valid_auc``, ``auc``,
        ``logloss`` (``mean``, ``low``, ``high``, ``num_seeds``), ``by_seed`` (metric -> seed -> value), means of
        ``bytes`` by part, ``num_bytes``, ``ratio``, ``epochs``, the seconds (null where no seed's is known) and of the
        look-up ``latency_ms`` and ``latency_ratio`` (null where it was not timed), ``largest_bytes`` of a seed, and
        ``within_budget``: whether all are; and ``auc_difference``, test AUC less that of the full table of most bytes,
        paired by seed, null without one. Rows go by budget, then by validation AUC.

    Raises:
        BundleError: No cells, a cell twice, or cells of different tables.
    """
    cells = _checked(results)
    sizes = {result["budget"]: int(result["budget_bytes"]) for result in cells}
    budgets = sorted(sizes, key=lambda text: (-sizes[text], text))
    seeds = sorted({int(result["seed"]) for result in cells})
    methods = sorted({str(result["method"]) for result in cells})
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in cells:
        groups.setdefault((result["budget"], result["method"]), []).append(result)
    rows = [_row(groups[budget, method]) for budget in budgets for method in methods if (budget, method) in groups]
    _compare_with_reference(rows)
    rows.sort(key=lambda row: (budgets.index(row["budget"]), "auc" not in row, -_valid(row), row["method"]))
    board = {
        "full_bytes": cells[0]["full_bytes"],
        "num_test_rows": next((result["num_test_rows"] for result in cells if "num_test_rows" in result), None),
        "seeds": seeds,
        "methods": methods,
        "budgets": [{"text": text, "bytes": sizes[text]} for text in budgets],
        "rows": rows,
    }
    return board | {"recommendations": [recommend(rows, budget, len(seeds)) for budget in board["budgets"]]}


def _checked(results: Sequence[Result]) -> Sequence[Result]:
    if not results:
        raise BundleError("a leaderboard of no cells", found="none", fix="pass the bundles of a bake-off's cells")
    times = Counter(f"{r['method']} at {r['budget']}, seed {r['seed']}" for r in results)
    twice = [label for label, number in times.items() if number > 1]
    if twice:
        raise BundleError("a cell is there twice", found="; ".join(twice), fix="pass the cells of one bake-off")
    tables = sorted({int(result["full_bytes"]) for result in results})
    if len(tables) > 1:
        raise BundleError(
            "the cells are of different tables",
            found=f"full tables of {tables} bytes",
            fix="pass the cells of one bake-off",
        )
    return results


def _row(cells: Sequence[Result]) -> dict[str, Any]:
    """One method at one budget."""
    first = cells[0]
    row: dict[str, Any] = {name: first[name] for name in ("method", "budget", "budget_bytes")}
    measured = sorted((cell for cell in cells if cell["status"] == "measured"), key=lambda cell: int(cell["seed"]))
    failed = [cell for cell in cells if cell["status"] != "measured"]
    row |= {"status": "measured", "reason": None, "seeds": [int(cell["seed"]) for cell in measured]}
    if failed:
        which = f"{len(failed)} of {len(cells)} seeds: " if measured else ""
        row |= {"status": failed[0]["status"], "reason": which + str(failed[0]["reason"])}
    if not measured:
        return row
    row |= {name: estimate([float(cell[name]) for cell in measured]).to_json() for name in METRICS}
    row["by_seed"] = {name: {str(cell["seed"]): float(cell[name]) for cell in measured} for name in METRICS}
    row["bytes"] = {part: _mean(cell["bytes"][part] for cell in measured) for part in measured[0]["bytes"]}
    row |= {name: _mean(cell[name] for cell in measured) for name in ("num_bytes", "ratio", "epochs", *_SECONDS)}
    timed = [cell["latency"] for cell in measured if cell["latency"] is not None]
    row["latency_ms"] = _mean(latency["compressed_ms"] for latency in timed)
    row["latency_ratio"] = _mean(latency["ratio"] for latency in timed)
    row["largest_bytes"] = max(int(cell["num_bytes"]) for cell in measured)
    row["within_budget"] = all(cell["within_budget"] for cell in measured)
    return row


def _compare_with_reference(rows: Sequence[dict[str, Any]]) -> None:
    measured = [row for row in rows if "auc" in row]
    full = [row for row in measured if row["method"] == REFERENCE]
    reference = max(full, key=lambda row: float(row["num_bytes"])) if full else None
    for row in measured:
        comparable = reference is not None and row is not reference and set(row["seeds"]) & set(reference["seeds"])
        row["auc_difference"] = None
        if reference is not None and comparable:
            row["auc_difference"] = paired(*(each["by_seed"]["auc"] for each in (row, reference))).to_json()


def _mean(values: Iterable[float | None]) -> float | None:
    """Of those that are known; None where none is."""
    known = [float(value) for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _valid(row: Mapping[str, Any]) -> float:
    return float(row["valid_auc"]["mean"]) if "valid_auc" in row else 0.0
