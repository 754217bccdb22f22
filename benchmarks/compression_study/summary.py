"""From cells to numbers: means and intervals over seeds, paired differences to the reference, crossover ratios."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from compression_study.plan import Workspace
from compression_study.variants import Point, Variant
from mec.bakeoff.estimates import Estimate, estimate

Cells = dict[int, dict[str, Any]]  # seed -> cell


@dataclass(frozen=True)
class Row:
    """One variant over its seeds; differences are to the reference of the same seed, which has the same FM."""

    variant: Variant
    floats: str  # "as stored", or "fp16" where full tables were rounded to it
    point: Point
    ratio: float  # full bytes / bytes, mean over seeds
    num_bytes: float
    valid_auc: Estimate
    auc: Estimate
    logloss: Estimate
    logloss_uncalibrated: Estimate
    auc_difference: Estimate | None
    logloss_difference: Estimate | None
    slices: dict[str, Estimate]  # AUC difference on rows by their rarest value
    cells: Cells

    @property
    def label(self) -> str:
        return self.variant.label + (", fp16" if self.floats == "fp16" else "")

    def to_json(self) -> dict[str, Any]:
        fields = ("valid_auc", "auc", "logloss", "logloss_uncalibrated", "auc_difference", "logloss_difference")
        estimates = {name: getattr(self, name) for name in fields}
        return {
            "variant": self.variant.label,
            "method": self.variant.method,
            "floats": self.floats,
            "point": asdict(self.point),
            "ratio": self.ratio,
            "bytes": self.num_bytes,
            "seeds": sorted(self.cells),
            **{name: None if value is None else asdict(value) for name, value in estimates.items()},
            "slices_auc_difference": {name: asdict(value) for name, value in self.slices.items()},
        }


def ends(value: Estimate) -> tuple[float, float]:
    """Ends of the interval, both the mean where there is none."""
    half = value.half or 0.0
    return value.mean - half, value.mean + half


def summarise(workspace: Workspace, variants: Sequence[Variant], seeds: Sequence[int]) -> list[Row]:
    """A row for every variant that has cells."""
    found: dict[str, Cells] = {}
    for variant in variants:
        measured = {seed: workspace.cell(variant, seed) for seed in seeds}
        found[variant.label] = {seed: cell for seed, cell in measured.items() if cell is not None}
    reference = found.get("reference", {})
    rows = []
    for variant in variants:
        point = workspace.chosen(variant)
        cells = found[variant.label]
        if point is not None and cells:
            rows.append(_row(variant, "as stored", point, cells, reference))
            rounded = {seed: {**cell, **cell["float16"]} for seed, cell in cells.items() if "float16" in cell}
            if rounded:
                rows.append(_row(variant, "fp16", point, rounded, reference))
    return rows


def crossover(rows: Sequence[Row]) -> tuple[float | None, str]:
    """The byte ratio beyond which a method's mean paired AUC difference is negative.

    Linear between neighbours in log ratio. Where the difference changes its sign more than once, the last change.

    Args:
        rows: Of one method.

    Returns:
        The ratio, None where nothing that was measured brackets it, and the same in words.
    """
    points = sorted((row.ratio, row.auc_difference.mean) for row in rows if row.auc_difference is not None)
    if not points:
        return None, "nothing to compare"
    if points[-1][1] >= 0:
        return None, f"beyond {points[-1][0]:.3g}x, the most that was measured"
    for (low, before), (high, after) in reversed(list(pairwise(points))):
        if before >= 0 > after:
            share = before / (before - after)
            ratio = math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
            return ratio, f"{ratio:.3g}x"
    return None, f"below {points[0][0]:.3g}x, the least that was measured"


def _row(variant: Variant, floats: str, point: Point, cells: Cells, reference: Cells) -> Row:
    def over_seeds(key: str) -> Estimate:
        return estimate([float(cell[key]) for cell in cells.values()])

    def paired(key: str) -> Estimate | None:
        both = [float(cell[key]) - float(reference[seed][key]) for seed, cell in cells.items() if seed in reference]
        return estimate(both) if both and not is_reference else None

    is_reference = variant.method == "reference" and floats == "as stored"
    sizes = [float(sum(cell["bytes"].values())) for cell in cells.values()]
    return Row(
        variant=variant,
        floats=floats,
        point=point,
        ratio=statistics.mean(float(cell["ratio"]) for cell in cells.values()),
        num_bytes=statistics.mean(sizes),
        valid_auc=over_seeds("valid_auc"),
        auc=over_seeds("auc"),
        logloss=over_seeds("logloss"),
        logloss_uncalibrated=over_seeds("logloss_uncalibrated"),
        auc_difference=paired("auc"),
        logloss_difference=paired("logloss"),
        slices={} if is_reference else _slices(cells, reference),
        cells=cells,
    )


def _slices(cells: Cells, reference: Cells) -> dict[str, Estimate]:
    """Paired AUC differences of the first cut's slices: by the rarest of a row's large-vocabulary values."""
    differences: dict[str, list[float]] = {}
    for seed, cell in cells.items():
        if seed in reference:
            ours, theirs = _slice_aucs(cell), _slice_aucs(reference[seed])
            for name in ours.keys() & theirs.keys():
                differences.setdefault(name, []).append(ours[name] - theirs[name])
    return {name: estimate(values) for name, values in sorted(differences.items())}


def _slice_aucs(cell: Mapping[str, Any]) -> dict[str, float]:
    first = cell["slices"][0]["by"]
    return {str(s["name"]): float(s["auc"]) for s in cell["slices"] if s["by"] == first and s["auc"] is not None}
