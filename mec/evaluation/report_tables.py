"""The report's tables: which rows and columns an evaluation has, every cell as text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mec.evaluation import compression_tables as compression
from mec.evaluation import formatting as fmt
from mec.evaluation.byte_accounting import PART_NAMES, PARTS
from mec.evaluation.table import ABSENT, Row, Summary, Table

_SLICES_NOTE = (
    "A value is head if more frequent values make up less than 50 % of its vocabulary's training impressions, "
    "torso if less than 90 %, else tail; unseen is out of vocabulary. A row belongs to the slice "
    "of its rarest value."
)
_PAIRED_NOTE = " AUC differences are paired, with DeLong's 95 % interval."


def tables_of(summary: Summary) -> list[Table]:
    """Every table that the summary has the numbers for, in the report's order."""
    tables = [_metrics_table, _slices_table, _bytes_table, _vocabularies_table]
    tables += [compression.budget_table, compression.reliability_table]
    tables += [compression.coverage_table, compression.distortion_table]
    tables += [compression.codewords_table, compression.overlap_table, compression.neighbours_table]
    tables += [compression.folds_table, _latency_table, steps_table, _lineage_table]
    return [table for make in tables if (table := make(summary)) is not None]


def _metrics_table(summary: Summary) -> Table:
    names = {
        "auc": ("AUC", fmt.metric),
        "logloss": ("logloss, calibrated (as served)", fmt.metric),
        "logloss_uncalibrated": ("logloss, uncalibrated", fmt.metric),
        "calibration_error": ("calibration error", fmt.percent),
        "calibration_error_uncalibrated": ("calibration error, uncalibrated", fmt.percent),
        "prediction_mean": ("mean prediction", fmt.percent),
    }
    rows = [_metric_row(summary, key, name, write) for key, (name, write) in names.items() if key in summary]
    if "calibration" in summary:
        for key, name in (("scale", "calibration scale"), ("bias", "calibration bias")):
            row = [name, fmt.metric(summary["calibration"][key])]
            if "full_calibration" in summary:
                row.append(fmt.metric(summary["full_calibration"][key]))
            rows.append(row)
    heads = ["test split", "compressed"]
    if "full_auc" in summary:
        heads += ["full table", "difference", "95 % interval"]
    elif "auc_low" in summary:
        heads.append("95 % interval")
    note = "Scale and bias are fitted on the validation split (Platt)."
    if "p_value" in (summary.get("auc_difference") or {}):
        p_value = summary["auc_difference"]["p_value"]
        shown = "below 0.0001" if p_value < 1e-4 else fmt.metric(p_value)
        note += f" AUC difference by DeLong's paired test, p {shown}."
    padded = [Row([*cells, *[ABSENT] * (len(heads) - len(cells))]) for cells in rows]
    return Table("Metrics", heads, padded, note)


def _metric_row(summary: Summary, key: str, name: str, write: Callable[[float], str]) -> list[str]:
    cells = [name, write(summary[key])]
    if f"full_{key}" in summary:
        full = summary[f"full_{key}"]
        cells += [write(full), _change(summary, key, full)]
        change = summary.get(f"{key}_difference")
        if change is not None:
            cells.append(fmt.interval(change["low"], change["high"]))
    elif f"{key}_low" in summary:
        cells.append(f"{fmt.metric(summary[f'{key}_low'])} to {fmt.metric(summary[f'{key}_high'])}")
    return cells


def _change(summary: Summary, key: str, full: float) -> str:
    change = summary[key] - full
    return f"{fmt.signed(100 * change, 2)} pp" if "error" in key or "mean" in key else fmt.signed(change)


def _slices_table(summary: Summary) -> Table | None:
    slices = summary.get("slices")
    if not slices:
        return None
    paired = any("full_logloss" in row for row in slices)
    rows, before = [], None
    for row in slices:
        cells = [str(row["by"]) if row["by"] != before else "", row["name"], fmt.count(row["rows"])]
        cells += [fmt.percent(row["share"]), fmt.percent(row["label_mean"]), _auc_cell(row, "auc")]
        if paired:
            cells += [_auc_cell(row, "full_auc"), _difference_cell(row)]
        cells.append(fmt.metric(row["logloss"]))
        if paired:
            cells.append(fmt.metric(row["full_logloss"]))
        rows.append(Row(cells, "first" if row["by"] != before else ""))
        before = row["by"]
    heads = ["by", "slice", "rows", "share", "label 1", "AUC"]
    heads += ["full AUC", "AUC difference", "logloss", "full logloss"] if paired else ["logloss"]
    return Table("Popularity slices", heads, rows, _SLICES_NOTE + (_PAIRED_NOTE if paired else ""), text_columns=2)


def _auc_cell(row: Mapping[str, Any], key: str) -> str:
    if row[key] is not None:
        return fmt.metric(row[key])
    return str(row.get("auc_reason", ABSENT)) if key == "auc" else ABSENT


def _difference_cell(row: Mapping[str, Any]) -> str:
    if row["auc_difference"] is None:
        return ABSENT
    text = fmt.signed(row["auc_difference"])
    if row["auc_difference_low"] is None:
        return text
    return f"{text} ({fmt.interval(row['auc_difference_low'], row['auc_difference_high'])})"


def _bytes_table(summary: Summary) -> Table | None:
    if "bytes" not in summary:
        return None
    parts = summary["bytes"]
    total = sum(parts.values())
    rows = [
        Row([PART_NAMES[part], fmt.count(parts[part]), fmt.human_bytes(parts[part]), fmt.percent(parts[part] / total)])
        for part in PARTS
        if part in parts
    ]
    rows.append(Row(["compressed", fmt.count(total), fmt.human_bytes(total), fmt.percent(1.0)], "total"))
    full = summary["full_bytes"]
    rows.append(Row(["full tables", fmt.count(full), fmt.human_bytes(full), f"{fmt.ratio(summary['ratio'])} as many"]))
    if summary.get("value_map_bytes") is not None:
        size = summary["value_map_bytes"]
        rows.append(Row(["beside both: value → id map", fmt.count(size), fmt.human_bytes(size), ABSENT]))
    note = (
        "What a server must hold for the embeddings, first-order weights included; full tables in fp32, "
        "codewords and exact rows as they are stored. The backbone "
        "is the same in both and not counted. The value → id map is an estimate (Arrow bytes of the values and 4 per "
        "id); the full table needs it too, so it is not in the ratio."
    )
    return Table("Bytes by part", ["part", "bytes", "size", "share"], rows, note)


def _vocabularies_table(summary: Summary) -> Table | None:
    vocabularies = summary.get("bytes_by_vocabulary")
    if not vocabularies:
        return None
    rows = []
    for row in vocabularies:
        size = sum(int(row.get(part, 0)) for part in PARTS)
        cells = [str(row["vocabulary"]), _stored(row), fmt.count(row["size"]), fmt.human_bytes(row["full"])]
        cells += [fmt.human_bytes(row[part]) if row.get(part) else ABSENT for part in ("codes", "codebooks", "rows")]
        rows.append(Row([*cells, fmt.human_bytes(size), fmt.ratio(row["full"] / size)]))
    heads = ["vocabulary", "stored as", "values", "full table"]
    heads += ["codes", "codebooks", "exact rows", "compressed", "ratio"]
    return Table("Bytes by vocabulary", heads, rows, text_columns=2)


def _stored(row: Mapping[str, Any]) -> str:
    if not row.get("codes"):
        return "exact rows"
    parts = [f"{row['shape']} codes" if row.get("shape") else "codes"]
    parts += [f"{fmt.count(row['head'])} values exact"] if row.get("head") else []
    parts += [f"{fmt.count(row['tail'])} share one code"] if row.get("tail") else []
    return ", ".join(parts)


def _latency_table(summary: Summary) -> Table | None:
    latency = summary.get("latency")
    if not latency:
        return None
    rows = []
    for name, key in (("compressed", "compressed_ms"), ("full table", "full_ms")):
        each = 1000 * latency[key] / latency["rows"]
        spread = f"{latency[key + '_low']:.2f} to {latency[key + '_high']:.2f} ms"
        rows.append(Row([name, f"{latency[key]:.2f} ms", spread, f"{each:.2f} µs"]))
    note = (
        f"One look-up of {fmt.count(latency['rows'])} rows of {fmt.count(latency['slots'])} values on "
        f"{latency['threads']} thread, median and quartiles of {latency['repeats']} repeats in turn; "
        f"compressed takes {fmt.ratio(latency['ratio'])} the full table's time."
    )
    return Table("Look-up latency", ["", "median", "middle half", "per row"], rows, note)


def steps_table(summary: Summary) -> Table | None:
    """Time and peak memory of every step, if the summary knows them."""
    steps = summary.get("steps")
    if not steps:
        return None
    rows = []
    for name, step in steps.items():
        peak = step.get("peak_rss_bytes")
        notes = [str(step["summary"])] if step.get("summary") else []
        notes += ["reused from an earlier run"] if step.get("reused") else []
        cells = [str(name), "; ".join(notes), fmt.seconds(step["seconds"])]
        rows.append(Row([*cells, fmt.human_bytes(peak) if peak else ABSENT]))
    total = sum(step["seconds"] for step in steps.values())
    peaks = [step["peak_rss_bytes"] for step in steps.values() if step.get("peak_rss_bytes")]
    rows.append(Row(["all", "", fmt.seconds(total), fmt.human_bytes(max(peaks)) if peaks else ABSENT], "total"))
    return Table("Steps", ["step", "", "time", "peak memory"], rows, text_columns=2)


def _lineage_table(summary: Summary) -> Table | None:
    lineage = summary.get("lineage")
    if not lineage:
        return None
    rows = [Row([str(role), str(uuid)]) for role, uuid in lineage.items()]
    return Table("Lineage", ["bundle", "uuid"], rows, text_columns=2)
