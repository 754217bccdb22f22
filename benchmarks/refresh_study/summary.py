"""From cells to numbers: per variant and refresh, means and Student's t intervals over seeds, 95 %."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mec.bakeoff.estimates import Estimate, estimate
from refresh_study.chain import NEVER, RETRAIN, Chain
from refresh_study.files import read_cell
from refresh_study.sources import Study
from refresh_study.variants import VARIANTS

Facts = Mapping[str, Any]


@dataclass(frozen=True)
class Line:
    """One refresh of one variant, over the seeds whose retrain is there too.

    Attributes:
        variant: Its name.
        period: Which refresh, from 1.
        new_rows: Training rows of the period.
        never: AUC of the base run's codes.
        stale: AUC of the codes in service before the refresh.
        refreshed: AUC of its codes.
        retrain: AUC of a train run on all rows so far.
        gain: Refreshed minus stale, paired.
        gap: Retrain minus refreshed, paired.
        closed: Share of the way from never refreshed to retrain, per seed; None where a retrain of some seed is no
            better than never refreshed.
        at_training: AUC of the backbone on the base run's test rows: what the decision compares with.
        logloss: With the calibration in service.
        logloss_refitted: With bias and scale refitted on the new validation rows.
        logloss_behind: Refitted minus the retrain's, paired.
        stale_logloss: Of the stale codes with the calibration in service.
        stale_logloss_refitted: The same, refitted.
        retrain_logloss: Of the retrain.
        rewritten_share: Of the known values, online rows that change.
        seconds: Of one processor: pre-training, coding, evaluation and decision.
        retrain_seconds: Of one processor, all of the retrain from pre-training to evaluation.
        decisions: Action -> seeds.
    """

    variant: str
    period: int
    new_rows: int
    never: Estimate
    stale: Estimate
    refreshed: Estimate
    retrain: Estimate
    gain: Estimate
    gap: Estimate
    closed: Estimate | None
    at_training: Estimate
    logloss: Estimate
    logloss_refitted: Estimate
    logloss_behind: Estimate
    stale_logloss: Estimate
    stale_logloss_refitted: Estimate
    retrain_logloss: Estimate
    rewritten_share: float
    seconds: float
    retrain_seconds: float
    decisions: Mapping[str, int]

    @property
    def num_seeds(self) -> int:
        return self.refreshed.num_seeds

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def summarise(study: Study, root: Path, seeds: Sequence[int]) -> list[Line]:
    """A line for every refresh of every variant that has cells."""
    lines = []
    for variant in VARIANTS:
        for period in range(1, study.num_refreshes + 1):
            chains = [Chain(study, root, seed) for seed in seeds]
            found = [tuple(read_cell(c.cell(name, period)) for name in (variant, RETRAIN, NEVER)) for c in chains]
            measured = [cells for cells in found if None not in cells]
            if measured:
                lines.append(_line(variant, period, measured))
    return lines


def slope(study: Study, root: Path, seeds: Sequence[int], variant: str) -> Estimate | None:
    """By how much the gap to the retrain grows per refresh, in AUC: a least-squares line for each seed.

    Only seeds with all refreshes count; None without any, or where there is one refresh only.
    """
    slopes = []
    periods = range(1, study.num_refreshes + 1)
    for seed in seeds:
        chain = Chain(study, root, seed)
        cells = [(read_cell(chain.cell(variant, p)), read_cell(chain.cell(RETRAIN, p))) for p in periods]
        gaps = [float(r["auc"]) - float(c["auc"]) for c, r in cells if c is not None and r is not None]
        if len(gaps) == len(periods) > 1:
            slopes.append(float(np.polyfit(list(periods), gaps, 1)[0]))
    return estimate(slopes) if slopes else None


def _line(variant: str, period: int, measured: Sequence[tuple[Any, ...]]) -> Line:
    def over_seeds(value: Callable[[Facts, Facts, Facts], float]) -> Estimate:
        return estimate([float(value(cell, retrain, never)) for cell, retrain, never in measured])

    def loss(codes: str, calibration: str) -> Estimate:
        return over_seeds(lambda c, r, n: c["loglosses"][codes][calibration])

    ways = [(c["auc"] - n["auc"], r["auc"] - n["auc"]) for c, r, n in measured]
    retrain_gains = all(way > 0 for _, way in ways)
    return Line(
        variant=variant,
        period=period,
        new_rows=int(measured[0][2]["num_new_rows"]),
        never=over_seeds(lambda c, r, n: n["auc"]),
        stale=over_seeds(lambda c, r, n: c["auc_stale"]),
        refreshed=over_seeds(lambda c, r, n: c["auc"]),
        retrain=over_seeds(lambda c, r, n: r["auc"]),
        gain=over_seeds(lambda c, r, n: c["auc"] - c["auc_stale"]),
        gap=over_seeds(lambda c, r, n: r["auc"] - c["auc"]),
        closed=estimate([gone / way for gone, way in ways]) if retrain_gains else None,
        at_training=over_seeds(lambda c, r, n: c["auc_at_training"]),
        logloss=loss("refreshed", "current"),
        logloss_refitted=loss("refreshed", "refitted"),
        logloss_behind=over_seeds(lambda c, r, n: c["loglosses"]["refreshed"]["refitted"] - r["logloss"]),
        stale_logloss=loss("stale", "current"),
        stale_logloss_refitted=loss("stale", "refitted"),
        retrain_logloss=over_seeds(lambda c, r, n: r["logloss"]),
        rewritten_share=over_seeds(lambda c, r, n: c["rewritten_share"]).mean,
        seconds=over_seeds(lambda c, r, n: c["processor_s"]).mean,
        retrain_seconds=over_seeds(lambda c, r, n: r["processor_s"]).mean,
        decisions=dict(sorted(Counter(str(c["decision"]) for c, _, _ in measured).items())),
    )
