"""The report of a run: one self-contained HTML page, and the same facts as Markdown."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from mec.evaluation import formatting as fmt
from mec.evaluation.report_tables import tables_of
from mec.evaluation.table import Summary, Table

_CSS_PER_PIXEL = 0.7  # figures are drawn for twice a screen's resolution, nearly

_BACKBONES = {  # names as papers write them; any other is shown as registered
    **{name: name.upper() for name in ("lr", "fm", "afm", "pnn", "dcn", "afn", "sam")},
    "deepfm": "DeepFM",
    "dcnv2": "DCNv2",
    "autoint": "AutoInt",
    "autoint_plus": "AutoInt+",
    "afn_plus": "AFN+",
    "gdcn_p": "GDCN-P",
    "gdcn_s": "GDCN-S",
}
_FIGURES = {  # in order, with alternative texts
    "roc": "ROC curves",
    "bytes": "Bytes by part and vocabulary",
    "popularity": "AUC by popularity in training",
    "calibration": "Reliability diagram and histogram of predictions",
    "distortion": "Variance explained and distortion by popularity, by vocabulary",
    "budget": "Share of the byte budget and of the distortion, by vocabulary",
    "comparison": "AUC of each backbone, and its difference to the best, with intervals",
}


def render(summary: Summary, figures: Mapping[str, bytes]) -> str:
    """Write the report page; what the summary lacks is left out.

    Args:
        summary: An evaluation's numbers, and of a whole run as many as there are of ``name``, ``steps``
            (name -> ``seconds``, ``peak_rss_bytes``), ``decision`` (``promote``, ``reasons``), ``model``,
            ``model_version``, ``published_rows``, ``generation``, ``config`` (mapping), ``lineage`` (role -> uuid).
        figures: Name -> PNG.

    Returns:
        HTML without scripts or anything to load, for light and dark.
    """
    return page(
        title=" · ".join(part for part in (str(summary.get("name", "")), "mec report") if part),
        subtitle=_subtitle(summary),
        verdict=verdict(summary),
        tiles=_tiles(summary),
        decision=_decision(summary),
        figures=figures,
        tables=tables_of(summary),
        config=summary.get("config"),
    )


def page(
    *,
    title: str,
    subtitle: str,
    verdict: str,
    tiles: Sequence[Mapping[str, str]],
    figures: Mapping[str, bytes],
    tables: Sequence[Table],
    decision: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
) -> str:
    """Lay a page out.

    Args:
        title: Of the browser's window.
        subtitle: Above the heading.
        verdict: The heading, one sentence.
        tiles: ``label``, ``value`` and ``note`` of each key number.
        figures: Name -> PNG.
        tables: Below the figures, in this order.
        decision: ``headline``, ``promote`` and ``reasons`` of the registry's decision.
        config: Every setting of the run.

    Returns:
        HTML without scripts or anything to load, for light and dark.
    """
    order = {name: index for index, name in enumerate(_FIGURES)}
    return _template().render(
        title=title,
        subtitle=subtitle,
        verdict=verdict,
        tiles=tiles,
        decision=decision,
        figures=[
            {
                "alt": _FIGURES.get(name, name),
                "data": base64.b64encode(figures[name]).decode("ascii"),
                "width": round(_CSS_PER_PIXEL * _png_width(figures[name])),
            }
            for name in sorted(figures, key=lambda name: (order.get(name, len(order)), name))
        ],
        tables=tables,
        config=yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True) if config else "",
    )


def verdict(summary: Summary) -> str:
    """The finding in one sentence: what, how good, against what, how small."""
    backbone = str(summary.get("backbone", "model"))
    text = f"{backbone_name(backbone)} on {summary.get('compression', 'codes')}"
    text += f": AUC {fmt.metric(summary['auc'])}"
    change = summary.get("auc_difference")
    if change is not None:
        beyond_chance = change["low"] > 0 or change["high"] < 0
        text += f", {fmt.signed(change['value'])} against the full table"
        text += "" if beyond_chance else f" (within chance: {fmt.interval(change['low'], change['high'])})"
    if "ratio" in summary:
        text += f", at {fmt.ratio(summary['ratio'])} fewer bytes"
    return text


def backbone_name(name: str) -> str:
    """A backbone's name as papers write it."""
    return _BACKBONES.get(name, name)


def markdown_summary(evaluation: Summary) -> str:
    """The verdict and the tables of an evaluation as Markdown, names escaped."""
    return markdown_page(verdict(evaluation), tables_of(evaluation))


def markdown_page(heading: str, tables: Sequence[Table]) -> str:
    """A heading and tables as Markdown, names escaped."""
    lines = [f"# {_markdown(heading)}", ""]
    for table in tables:
        lines += [f"## {table.title}", ""]
        lines.append("| " + " | ".join(_markdown(head) for head in table.heads) + " |")
        lines.append("|" + "".join(" --- |" if i < table.text_columns else " ---: |" for i in range(len(table.heads))))
        lines += ["| " + " | ".join(_markdown(cell) for cell in row.cells) + " |" for row in table.rows]
        lines += ["", table.note, ""] if table.note else [""]
    return "\n".join(lines)


@cache
def _template() -> Template:
    loader = PackageLoader("mec.evaluation", ".")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    return environment.get_template("report.html.j2")


def _png_width(png: bytes) -> int:
    """Pixels, from the header."""
    return int.from_bytes(png[16:20], "big")


def _subtitle(summary: Summary) -> str:
    parts = [str(summary["name"])] if summary.get("name") else []
    if summary.get("model_version") is not None and summary.get("model"):
        parts.append(f"registered as {summary['model']} version {summary['model_version']}")
    parts.append(f"{fmt.count(summary['num_test_rows'])} test rows")
    if "label_mean" in summary:
        parts.append(f"{fmt.percent(summary['label_mean'])} with label 1")
    return " · ".join(parts)


def _tiles(summary: Summary) -> list[dict[str, str]]:
    tiles = []

    def add(label: str, value: str, note: str) -> None:
        tiles.append({"label": label, "value": value, "note": note})

    for key, name, alone in (("auc", "AUC", "on the test split"), ("logloss", "logloss", "calibrated, as served")):
        full = summary.get(f"full_{key}")
        add(name, fmt.metric(summary[key]), alone if full is None else f"full table {fmt.metric(full)}")
    if "ratio" in summary:
        total = fmt.human_bytes(sum(summary["bytes"].values()))
        add("fewer bytes", fmt.ratio(summary["ratio"]), "than the full tables")
        add("a server holds", total, f"not {fmt.human_bytes(summary['full_bytes'])}")
    if summary.get("latency"):
        latency = summary["latency"]
        add("look-up time", fmt.ratio(latency["ratio"]), f"of the full table's, {fmt.count(latency['rows'])} rows")
    if summary.get("published_rows"):
        generation = summary.get("generation")
        note = "to the online store" + (f", generation {generation}" if generation is not None else "")
        add("codes published", fmt.count(summary["published_rows"]), note)
    if summary.get("steps"):
        steps = summary["steps"].values()
        total = fmt.seconds(sum(step["seconds"] for step in steps))
        peaks = [step["peak_rss_bytes"] for step in steps if step.get("peak_rss_bytes")]
        add("all steps", total, f"peak memory {fmt.human_bytes(max(peaks))}" if peaks else "")
    return tiles


def _decision(summary: Summary) -> dict[str, Any] | None:
    decision = summary.get("decision")
    if not decision:
        return None
    model = f"{summary['model']} version {summary['model_version']}" if summary.get("model_version") else "this model"
    headline = f"Promoted: {model} is champion" if decision["promote"] else f"Not promoted: {model} stays challenger"
    return {"promote": bool(decision["promote"]), "headline": headline, "reasons": list(decision.get("reasons", ()))}


def _markdown(text: str) -> str:
    return html.escape(str(text), quote=False).replace("|", "\\|").replace("\n", " ")
