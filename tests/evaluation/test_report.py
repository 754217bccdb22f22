"""The page holds every number once asked for, loads nothing, and escapes what users name."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from mec.evaluation import formatting as fmt
from mec.evaluation.figures import draw_figures
from mec.evaluation.report import markdown_summary, render, verdict
from tests.evaluation.made_up import make_evaluation

RUN = {
    "name": "yelp_next",
    "model": "yelp_next",
    "model_version": 3,
    "published_rows": 73_345,
    "generation": 0,
    "steps": {
        "count": {"seconds": 3.21, "peak_rss_bytes": 300 * 2**20},
        "train": {"seconds": 130.4, "peak_rss_bytes": 2**30, "summary": "5 epochs"},
    },
    "decision": {"promote": False, "reasons": ["AUC 0.7 is below the champion's 0.8"]},
    "lineage": {"codebook": "0f8fad5b-d9cb-469f-a165-70867728950e"},
    "config": {"quantize": {"num_codewords": 64}},
}


class _Page(HTMLParser):
    VOID = frozenset({"meta", "img", "br", "link", "input"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(page)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_page_holds_every_number() -> None:
    evaluation = make_evaluation()
    text = _Page(render(evaluation | RUN, {})).text
    for key in ("auc", "logloss", "logloss_uncalibrated"):
        for prefix in ("", "full_"):
            assert fmt.metric(evaluation[prefix + key]) in text, prefix + key
    for key in ("calibration_error", "calibration_error_uncalibrated", "prediction_mean", "label_mean"):
        assert fmt.percent(evaluation[key]) in text, key
    for part in evaluation["calibration"].values():
        assert fmt.metric(part) in text
    for size in (*evaluation["bytes"].values(), evaluation["full_bytes"], evaluation["value_map_bytes"]):
        assert fmt.count(size) in text
    for row in evaluation["slices"]:
        for key in ("auc", "full_auc", "logloss", "full_logloss"):
            assert fmt.metric(row[key]) in text
        assert fmt.count(row["rows"]) in text
        assert fmt.signed(row["auc_difference"]) in text
    for row in evaluation["bytes_by_vocabulary"]:
        assert fmt.human_bytes(row["full"]) in text
    expected = [
        *("4.12 ms", "3.12 ms", fmt.ratio(1.3177), "73,345", "3.2 s", "2 min 10 s", "300 MiB", "1.00 GiB", "5 epochs"),
        *("version 3", "below the champion's 0.8", "0f8fad5b-d9cb-469f-a165-70867728950e", "num_codewords: 64"),
        fmt.ratio(evaluation["ratio"]),
    ]
    for number in expected:
        assert number in text, number


def test_page_loads_nothing_and_inlines_its_figures() -> None:
    evaluation = make_evaluation()
    drawn = draw_figures(evaluation)
    html = render(evaluation | RUN, drawn)
    page = _Page(html)
    assert page.tags.count("img") == len(drawn)
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    assert "script" not in page.tags
    assert not re.search(r"https?://|@import|url\(", html)
    assert "prefers-color-scheme: dark" in html


def test_names_are_escaped() -> None:
    evil = '<script>alert("x")</script>'
    evaluation = make_evaluation(names=(evil, "b|c"))
    run = {
        "name": evil, "model": evil, "model_version": evil, "backbone": evil, "compression": evil,
        "config": {evil: evil}, "lineage": {evil: evil}, "decision": {"promote": True, "reasons": [evil]},
        "steps": {evil: {"seconds": 1.0, "summary": evil}},
    }  # fmt: skip
    html = render(evaluation | run, {evil: b"\x89PNG" + bytes(20)})
    assert "<script" not in html
    assert evil in _Page(html).text
    markdown = markdown_summary(evaluation | run)
    assert "<script" not in markdown
    assert "b\\|c" in markdown


def test_missing_parts_are_left_out() -> None:
    evaluation = make_evaluation(reference=False)
    text = _Page(render(evaluation, {})).text
    for absent in ("full AUC", "difference", "Steps", "Registry decision", "Configuration", "Lineage", "Figures"):
        assert absent not in text, absent
    least = {key: evaluation[key] for key in ("auc", "logloss", "num_test_rows")}
    text = _Page(render(least, {})).text
    assert fmt.metric(evaluation["auc"]) in text
    assert "Bytes" not in text


def test_one_class_slice_says_why() -> None:
    assert "all rows have label 0" in render(make_evaluation(one_class=True), {})


@pytest.mark.parametrize(
    ("low", "doubt"),
    [(0.0004, ""), (-0.0004, " (within chance: \N{MINUS SIGN}0.0004 to +0.0030)")],
)
def test_verdict(low: float, doubt: str) -> None:
    difference = {"value": 0.0017, "low": low, "high": 0.003}
    summary = {"backbone": "deepfm", "compression": "residual 1x64 codes", "auc": 0.9013, "auc_difference": difference}
    expected = f"DeepFM on residual 1x64 codes: AUC 0.9013, +0.0017 against the full table{doubt}, at "
    assert verdict(summary | {"ratio": 70.2}) == f"{expected}{fmt.ratio(70.2)} fewer bytes"


def test_markdown_tables_are_whole() -> None:
    lines = markdown_summary(make_evaluation()).splitlines()
    assert lines[0].startswith("# DeepFM on residual")
    tables: list[set[int]] = [set()]
    for line in lines:
        if line.startswith("|"):
            tables[-1].add(line.count("|"))
        elif tables[-1]:
            tables.append(set())
    assert len(tables) == 6  # five, and the empty one after the last
    assert all(len(widths) == 1 for widths in tables[:-1])
