"""Writes ``report.md``, ``summary.json`` and ``search.json`` from the cells that are there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from compression_study.plan import Workspace
from compression_study.plots import CURVES, draw_plots, on_curve
from compression_study.rivals import duels
from compression_study.summary import Row, crossover, summarise
from compression_study.variants import Variant
from mec.bakeoff.estimates import Estimate
from mec.bundle import write_json
from mec.evaluation import formatting as fmt

_SLICES = ("head", "torso", "tail", "unseen")


def write_report(workspace: Workspace, variants: Sequence[Variant], seeds: Sequence[int]) -> str:
    """Write all reports and plots into the workspace.

    Args:
        workspace: The study.
        variants: All of it, whether measured or not.
        seeds: Whose cells count.

    Returns:
        The Markdown report.
    """
    rows = summarise(workspace, variants, seeds)
    root, study = workspace.root, workspace.study
    by_method = {method: [row for row in rows if on_curve(row, method)] for method in CURVES}
    crossovers = {method: crossover(measured) for method, measured in by_method.items() if measured}
    write_json(root / "search.json", _searches(workspace, variants))
    write_json(
        root / "summary.json",
        {
            "table": study.name,
            "dataset": workspace.data_uuid,
            "seeds": list(seeds),
            "rows": [row.to_json() for row in rows],
            "crossover_ratio": {method: {"ratio": r, "text": text} for method, (r, text) in crossovers.items()},
        },
    )
    names = draw_plots(root, study.name, rows) if rows else []
    text = "\n".join(_page(workspace, variants, seeds, rows, crossovers, names))
    (root / "report.md").write_text(text, encoding="utf-8")
    return text


def _page(
    workspace: Workspace,
    variants: Sequence[Variant],
    seeds: Sequence[int],
    rows: Sequence[Row],
    crossovers: dict[str, tuple[float | None, str]],
    plots: Sequence[str],
) -> list[str]:
    num_cells = sum(len(row.cells) for row in rows if row.floats == "as stored")
    wanted = len(variants) * len(seeds)
    lines = [f"# {workspace.study.name}: {num_cells} of {wanted} cells measured", ""]
    lines += [
        "Mean ± half the 95 % t-interval over seeds. Differences are to the tuned full tables of the same seed,",
        "which start from the same FM. Logloss is after Platt scaling on validation rows. Ratios count all bytes of",
        "the tables, against fp32 full tables.",
        "",
        "| variant | ratio | bytes | seeds | chosen by validation | test AUC | difference | logloss | difference |",
        "|---|---:|---:|---:|---|---:|---:|---:|---:|",
    ]
    lines += [_line(row) for row in rows]
    if crossovers:
        lines += ["", "| method | its mean AUC difference turns negative at |", "|---|---|"]
        lines += [f"| {CURVES[method].label} | {text} |" for method, (_, text) in crossovers.items()]
    found = duels(rows)
    if found:
        lines += ["", "Paired differences, each to the smallest variant of a method that takes as many bytes:", ""]
        lines += ["| variant | against | its ratio | seeds | AUC | logloss |", "|---|---|---:|---:|---:|---:|"]
        lines += [
            f"| {d.row.label} | {d.rival.label} | {d.rival.ratio:.1f} | {d.auc.num_seeds} | {_signed(d.auc)} "
            f"| {_signed(d.logloss)} |"
            for d in found
        ]
    sliced = [row for row in rows if row.slices and row.floats == "as stored"]
    if sliced:
        lines += ["", "AUC difference by the popularity of the rarest value of a row:", ""]
        lines += ["| variant | " + " | ".join(_SLICES) + " |", "|---|" + "---:|" * len(_SLICES)]
        for row in sliced:
            lines.append(f"| {row.label} | " + " | ".join(_signed(row.slices.get(n)) for n in _SLICES) + " |")
    hashes = ("code_hash", "pretrained_code_hash")
    versions = {cell[key] for row in rows for cell in row.cells.values() for key in hashes}
    if len(versions) > 1:
        lines += ["", f"Cells and FMs stem from {len(versions)} versions of mec's code; see code_hash in each."]
    lines += ["", *(f"![{name}]({name}.png)" for name in plots), ""]
    return lines


def _line(row: Row) -> str:
    size = fmt.human_bytes(row.num_bytes)
    cells = [row.label, f"{row.ratio:.1f}", size, str(len(row.cells)), str(row.point), _plain(row.auc)]
    cells += [_signed(row.auc_difference), _plain(row.logloss), _signed(row.logloss_difference)]
    return "| " + " | ".join(cells) + " |"


def _plain(value: Estimate) -> str:
    return fmt.metric(value.mean) + ("" if value.half is None else f" ± {value.half:.4f}")


def _signed(value: Estimate | None) -> str:
    if value is None:
        return ""
    return fmt.signed(value.mean) + ("" if value.half is None else f" ± {value.half:.4f}")


def _searches(workspace: Workspace, variants: Sequence[Variant]) -> dict[str, Any]:
    """All points of all searches; validation AUC is all that a search knows."""
    result = {}
    for variant in variants:
        tried = workspace.searched(variant)
        if tried:
            chosen = workspace.chosen(variant)
            points = [{**asdict(point), "valid_auc": facts["valid_auc"]} for point, facts in tried]
            result[variant.label] = {
                "points": points,
                "of": len(variant.grid),
                "chosen": None if chosen is None else asdict(chosen),
            }
    return result
