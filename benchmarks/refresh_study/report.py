"""Writes ``report.md``, ``summary.json`` and the figure of a study from the cells that are there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from figures import save

from mec.bakeoff.estimates import Estimate
from mec.bundle import write_json
from mec.evaluation import formatting as fmt
from refresh_study.plots import draw_series, draw_variants
from refresh_study.sources import Study
from refresh_study.summary import Line, slope, summarise

_VARIANTS = (
    "variant", "seeds", "test AUC", "over stale", "way closed", "logloss, calibration in service",
    "logloss, refitted", "behind the retrain", "rows rewritten", "seconds",
)  # fmt: skip
_SERIES = (
    "refresh", "new rows", "never refreshed", "before", "refreshed", "full retrain", "gap", "way closed",
    "below training", "decision",
)  # fmt: skip


def write_report(study: Study, root: Path, seeds: Sequence[int]) -> str:
    """Write all of a study's reports into its directory.

    Args:
        study: The study.
        root: Its directory.
        seeds: Whose cells count.

    Returns:
        The Markdown page.
    """
    lines = summarise(study, root, seeds)
    title = f"# Refresh, {study.kind}: {study.config.name}"
    if not lines:
        return f"{title}: nothing measured\n"
    page = [title, "", "Mean ± half the 95 % t-interval over seeds; differences are paired.", ""]
    figure = (
        draw_variants(study.config.name, lines) if study.kind == "variants" else draw_series(study.config.name, lines)
    )
    page += _variants(lines) if study.kind == "variants" else _series(study, root, seeds, lines)
    save(figure, root / study.kind)
    text = "\n".join([*page, "", f"![{study.kind}]({study.kind}.png)", ""])
    slopes = {line.variant: slope(study, root, seeds, line.variant) for line in lines}
    write_json(
        root / "summary.json",
        {
            "data": study.config.name,
            "lines": [line.to_json() for line in lines],
            "gap_per_refresh": {name: s and [s.mean, s.half] for name, s in slopes.items()},
        },
    )
    (root / "report.md").write_text(text, encoding="utf-8")
    return text


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table whose first column is text and whose others are numbers."""
    return ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * (len(heads) - 1)] + [
        "| " + " | ".join(row) + " |" for row in rows
    ]


def plain(value: Estimate, digits: int = 4) -> str:
    """A mean and its interval."""
    return f"{value.mean:.{digits}f}" + ("" if value.half is None else f" ± {value.half:.{digits}f}")


def signed(value: Estimate) -> str:
    """A mean difference and its interval."""
    return fmt.signed(value.mean) + ("" if value.half is None else f" ± {value.half:.4f}")


def _variants(lines: Sequence[Line]) -> list[str]:
    most = max(lines, key=lambda line: line.num_seeds)
    losses = [plain(most.stale_logloss), plain(most.stale_logloss_refitted)]
    rows = [
        ["stale codes", str(most.num_seeds), plain(most.stale), "", "", *losses, "", "", ""],
    ]
    for line in lines:
        row = [line.variant, str(line.num_seeds), plain(line.refreshed), signed(line.gain), _share(line.closed)]
        row += [plain(line.logloss), plain(line.logloss_refitted), signed(line.logloss_behind)]
        rows.append([*row, fmt.percent(line.rewritten_share), f"{line.seconds:.1f}"])
    row = ["full retrain", str(most.num_seeds), plain(most.retrain), "", "", "", plain(most.retrain_logloss)]
    rows.append([*row, "", "", f"{most.retrain_seconds:.1f}"])
    return [
        f"One refresh with {fmt.count(most.new_rows)} new training rows. Way closed: from stale codes to the full",
        "retrain, per seed. Behind: refitted logloss minus that of the retrain, which is calibrated on its own",
        "validation rows. Seconds: of one processor, from pre-training to evaluation.",
        "",
        *markdown_table(_VARIANTS, rows),
    ]


def _series(study: Study, root: Path, seeds: Sequence[int], lines: Sequence[Line]) -> list[str]:
    allowed = study.config.refresh.bounds.max_auc_decline
    page = [
        "Never refreshed: codes of the base run. Before: codes of the refresh before. Gap: retrain on all rows so far",
        "minus refreshed. Below training: AUC of the backbone on the base run's test rows minus refreshed, which the",
        f"decision allows to be {allowed:g}. All refreshes continue the one before, whatever its decision.",
    ]
    for variant in dict.fromkeys(line.variant for line in lines):
        own = [line for line in lines if line.variant == variant]
        rows = []
        for line in own:
            row = [str(line.period), fmt.count(line.new_rows), plain(line.never), plain(line.stale)]
            row += [plain(line.refreshed), plain(line.retrain), signed(line.gap), _share(line.closed)]
            rows.append([*row, fmt.signed(line.at_training.mean - line.refreshed.mean), _decisions(line)])
        page += ["", f"## {variant}, {max(line.num_seeds for line in own)} seeds", ""]
        page += [*markdown_table(_SERIES, rows), "", _when(own, slope(study, root, seeds, variant), allowed)]
    return page


def _when(lines: Sequence[Line], growth: Estimate | None, allowed: float) -> str:
    """When a full retrain pays, by what was measured, beside what the decision says."""
    paying = [line.period for line in lines if line.gap.half is not None and line.gap.low > allowed]
    shown = [line.period for line in lines if line.gap.half is not None and line.gap.low > 0]
    escalating = [line.period for line in lines if line.decisions.get("escalate", 0) * 2 > line.num_seeds]
    return (
        ("" if growth is None else f"The gap grows by {signed(growth)} AUC per refresh. ")
        + f"A retrain is shown to be better at refresh {_numbers(shown)}, and by more than {allowed:g} AUC at "
        + f"{_numbers(paying)}; the decision of most seeds is to escalate at {_numbers(escalating)}."
    )


def _numbers(periods: Sequence[int]) -> str:
    return ", ".join(map(str, periods)) or "none"


def _decisions(line: Line) -> str:
    return ", ".join(f"{action} {num}" for action, num in line.decisions.items())


def _share(value: Estimate | None) -> str:
    if value is None:
        return "no way to go"
    text = f"{100 * value.mean:.0f} %".replace("-", fmt.MINUS)
    return text + ("" if value.half is None else f" ± {100 * value.half:.0f}")
