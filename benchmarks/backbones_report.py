"""Markdown tables of the cells of ``backbones.py``; intervals are Student's t over seeds, 95 %."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from backbones_cells import Cell, Facts

from mec.bakeoff.estimates import estimate
from mec.bundle import read_json

Group = dict[int, Facts]  # seed -> facts

PUBLISHED = {"ml1m": "Published at D 16 (AutoDPQ's best): DeepFM .8147, PNN .8144, DCN .8140."}


def load(cells: Sequence[Cell], work: Path) -> dict[tuple[str, str, str, str], Group]:
    """Facts of the cells that have been run.

    Returns:
        (data set, pre-trained model, backbone, embedding) -> seed -> facts.
    """
    groups: dict[tuple[str, str, str, str], Group] = defaultdict(dict)
    for cell in cells:
        if cell.file(work).exists():
            key = (cell.config.name, cell.config.pretrain.model, cell.backbone, cell.embedding)
            groups[key][cell.seed] = read_json(cell.file(work))
    return groups


def table_report(cells: Sequence[Cell], work: Path) -> str:
    """One table per data set: every backbone on full tables and on codes."""
    groups, parts = load(cells, work), []
    for dataset in dict.fromkeys(c.config.name for c in cells):
        lines = [
            "| backbone | seeds | full AUC | codes AUC | codes - full | full logloss | codes logloss | codes valid AUC "
            "| bytes | backbone parameters | full rows/s | codes rows/s |",
            "|---|---|---|---|---|---|---|---|---|---|---|---|",
        ]
        for backbone in dict.fromkeys(c.backbone for c in cells):
            full, codes = (groups.get((dataset, "fm", backbone, e), {}) for e in ("full", "codes"))
            any_facts = next(iter([*codes.values(), *full.values()]), None)
            if any_facts is None:
                continue
            both = sorted(full.keys() & codes.keys())
            paired = [codes[s]["auc"] - full[s]["auc"] for s in both]
            seeds = str(len(both)) if len(both) == len(full) == len(codes) else f"{len(full)} and {len(codes)}"
            columns = [
                backbone,
                seeds,
                _of(full, "auc"),
                _of(codes, "auc"),
                interval(paired, signed=True),
                _of(full, "logloss"),
                _of(codes, "logloss"),
                _of(codes, "valid_auc"),
                f"{_mean(codes, 'ratio'):.1f}x fewer" if codes else "",
                f"{any_facts['parameters']:,}",
                f"{_mean(full, 'train_rows_per_s'):,.0f}" if full else "",
                f"{_mean(codes, 'train_rows_per_s'):,.0f}" if codes else "",
            ]
            lines.append("| " + " | ".join(columns) + " |")
        parts.append("\n".join([f"### {dataset}", "", *lines, "", PUBLISHED.get(dataset, "")]).rstrip())
    return "\n\n".join(parts)


def transfer_report(cells: Sequence[Cell], work: Path) -> str:
    """One table per data set: the same downstream backbone on the codes of every pre-trained model."""
    groups, parts = load(cells, work), []
    for dataset in dict.fromkeys(c.config.name for c in cells):
        lines = [
            "| pre-trained by | seeds | AUC | minus FM, paired | logloss | valid AUC | bytes |",
            "|---|---|---|---|---|---|---|",
        ]
        names = list(dict.fromkeys(c.config.pretrain.model for c in cells))
        by_name = {n: groups.get((dataset, n, c.backbone, c.embedding), {}) for n in names for c in cells[:1]}
        for name, group in by_name.items():
            if not group:
                continue
            base = by_name["fm"]
            paired = [group[s]["auc"] - base[s]["auc"] for s in sorted(group.keys() & base.keys())]
            difference = "" if name == "fm" else interval(paired, signed=True)
            ratio = f"{_mean(group, 'ratio'):.1f}x fewer"
            columns = [
                name,
                str(len(group)),
                _of(group, "auc"),
                difference,
                _of(group, "logloss"),
                _of(group, "valid_auc"),
                ratio,
            ]
            lines.append("| " + " | ".join(columns) + " |")
        common = set.intersection(*(set(g) for g in by_name.values()))
        spread = [
            max(g[s]["auc"] for g in by_name.values()) - min(g[s]["auc"] for g in by_name.values())
            for s in sorted(common)
        ]
        lines += ["", f"Spread (best minus worst AUC of a seed): {interval(spread)}"] if spread else []
        parts.append("\n".join([f"### {dataset}, downstream {cells[0].backbone}", "", *lines]))
    return "\n\n".join(parts)


def interval(values: Sequence[float], *, signed: bool = False) -> str:
    """Mean and 95 % t-interval; the mean alone of one value, nothing of none."""
    if not values:
        return ""
    found = estimate(values)
    mean = f"{found.mean:{'+' if signed else ''}.4f}"
    return mean if found.half is None else f"{mean} ± {found.half:.4f}"


def _of(group: Group, key: str) -> str:
    return interval([float(facts[key]) for facts in group.values()])


def _mean(group: Group, key: str) -> float:
    return statistics.mean(float(facts[key]) for facts in group.values())
