"""Ours against every other method that takes as many bytes, and every ablation against plain weighted k-means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from compression_study.plots import CURVES, on_curve
from compression_study.summary import Row
from mec.bakeoff.estimates import Estimate, estimate

_BYTES_SLACK = 1.05  # a rival may take up to 5 % fewer bytes, as a budget may


@dataclass(frozen=True)
class Duel:
    """One variant against another, paired by seed; seeds share the FM."""

    row: Row
    rival: Row
    auc: Estimate
    logloss: Estimate


def duels(rows: Sequence[Row]) -> list[Duel]:
    """Ours at each ratio against each method's smallest variant that takes as many bytes, and the ablations.

    Args:
        rows: Of one study.

    Returns:
        Those pairs that have a seed in common.
    """
    pairs = []
    for row in (row for row in rows if on_curve(row, "ours")):
        for method in CURVES:
            larger = [r for r in rows if on_curve(r, method) and r.ratio <= row.ratio * _BYTES_SLACK]
            if method != "ours" and larger:
                pairs.append((row, max(larger, key=lambda r: r.ratio)))
    ablations = [row for row in rows if row.variant.method == "ablation"]
    for base in (row for row in ablations if row.variant.size.endswith("-frequency-pq")):
        pairs += [(row, base) for row in ablations if row is not base]
    return [duel for row, rival in pairs if (duel := _duel(row, rival)) is not None]


def _duel(row: Row, rival: Row) -> Duel | None:
    seeds = sorted(row.cells.keys() & rival.cells.keys())
    if not seeds:
        return None

    def paired(key: str) -> Estimate:
        return estimate([float(row.cells[seed][key]) - float(rival.cells[seed][key]) for seed in seeds])

    return Duel(row, rival, paired("auc"), paired("logloss"))
