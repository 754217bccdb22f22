"""The report of a refresh: what changed, how good it is, and what moved, as one HTML page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mec.evaluation import formatting as fmt
from mec.evaluation.report import backbone_name, page
from mec.evaluation.table import ABSENT, Row, Table

_MOVED_NOTE = (
    "Movement is sum n |new - old|^2 / sum n |old|^2 over decoded vectors, n the counts before the refresh: 0 where "
    "nothing moved. Unseen holds id 0, rare and unknown values."
)


def page_of(facts: Mapping[str, Any]) -> str:
    """The page of a refresh's ``evaluation.json``; HTML without scripts or anything to load."""
    return page(
        title="mec refresh report",
        subtitle=f"generation {facts['generation']} of codebook {facts['codebook']}, after generation "
        f"{facts['parent_generation']} · {fmt.count(facts['num_test_rows'])} new test rows",
        verdict=verdict(facts),
        tiles=_tiles(facts),
        figures={},
        tables=tables_of(facts),
    )


def verdict(facts: Mapping[str, Any]) -> str:
    """The finding in one sentence."""
    change = facts["auc_difference"]
    return (
        f"{backbone_name(facts['backbone'])}, untouched: AUC {fmt.metric(facts['auc_refreshed']['value'])} on new "
        f"codes, {fmt.signed(change['value'])} against stale ones ({fmt.interval(change['low'], change['high'])})"
    )


def tables_of(facts: Mapping[str, Any]) -> list[Table]:
    """Metrics, slices, new values and drift."""
    return [_metrics(facts), _slices(facts), _new_values(facts), _drift(facts)]


def _tiles(facts: Mapping[str, Any]) -> list[dict[str, str]]:
    served, stale = sum(facts["bytes"].values()), sum(facts["stale_bytes"].values())
    tiles = [
        ("AUC", fmt.metric(facts["auc_refreshed"]["value"]), f"stale codes {fmt.metric(facts['auc_stale']['value'])}"),
        ("logloss", fmt.metric(facts["logloss_refreshed"]), f"as served now {fmt.metric(facts['logloss_stale'])}"),
        ("rows rewritten", fmt.count(facts["rows_rewritten"]), f"and {fmt.count(facts['rows_added'])} added"),
        ("a server holds", fmt.human_bytes(served), f"before {fmt.human_bytes(stale)}"),
    ]
    return [{"label": label, "value": value, "note": note} for label, value, note in tiles]


def _metrics(facts: Mapping[str, Any]) -> Table:
    def interval(key: str) -> list[str]:
        entry = facts[key]
        return [fmt.metric(entry["value"]), f"{fmt.metric(entry['low'])} to {fmt.metric(entry['high'])}"]

    rows = [
        Row([name, *interval(key)])
        for name, key in (
            ("AUC, stale codes", "auc_stale"),
            ("AUC, new codes", "auc_refreshed"),
            ("AUC at training, on the test rows of then", "auc_at_training"),
        )
    ]
    for codes, losses in facts["loglosses"].items():
        for calibration, value in losses.items():
            name = f"logloss, {'new' if codes == 'refreshed' else 'stale'} codes, {calibration} calibration"
            rows.append(Row([name, fmt.metric(value), ABSENT]))
    for name, key in (
        ("stale codes as served", "calibration_error_stale"),
        ("new codes as served", "calibration_error"),
    ):
        rows.append(Row([f"calibration error, {name}", fmt.percent(facts[key]), ABSENT]))
    note = f"AUC intervals are DeLong's, 95 %. Calibration: {facts['recalibration']['reason']}."
    return Table("Held-out new rows, the backbone untouched", ["", "value", "95 % interval"], rows, note)


def _slices(facts: Mapping[str, Any]) -> Table:
    rows = []
    for line in facts["slices"]:
        aucs = [ABSENT if line.get(key) is None else fmt.metric(line[key]) for key in ("stale_auc", "auc")]
        losses = [fmt.metric(line[key]) for key in ("stale_logloss", "logloss")]
        rows.append(Row([line["by"], line["name"], fmt.count(line["rows"]), *aucs, *losses]))
    heads = ["by", "popularity before the refresh", "rows", "AUC, stale", "AUC, new", "logloss, stale", "logloss, new"]
    note = "A row belongs to the slice of its rarest value; unseen values are new, or too rare to have an id."
    return Table("By popularity", heads, rows, note, text_columns=2)


def _new_values(facts: Mapping[str, Any]) -> Table:
    rows = [
        Row(
            [
                name,
                fmt.count(drift["num_values"]),
                fmt.count(drift["new_values"]),
                fmt.percent(drift["new_share"]),
                fmt.percent(drift["new_impressions"]),
                fmt.percent(drift["unknown_impressions"]),
            ]
        )
        for name, drift in facts["drift"].items()
    ]
    heads = ["vocabulary", "values", "new", "share of values", "share of impressions", "still unknown, of impressions"]
    return Table("New values", heads, rows, "Impressions are those of the new training rows.")


def _drift(facts: Mapping[str, Any]) -> Table:
    rows = [
        Row(
            [
                name,
                popularity,
                fmt.count(moved["num_values"]),
                fmt.percent(moved["values_moved"]),
                fmt.percent(moved["impressions_moved"]),
                fmt.percent(moved["relative"]),
            ]
        )
        for name, drift in facts["drift"].items()
        for popularity, moved in drift["by_popularity"].items()
    ]
    heads = ["vocabulary", "popularity", "values", "values moved", "impressions moved", "movement"]
    return Table("Drift of decoded vectors", heads, rows, _MOVED_NOTE, text_columns=2)
