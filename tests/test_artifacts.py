"""What is put into the metadata of Kubeflow's artifacts."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from mec.artifacts import label, paths, show
from mec.bundle import open_bundle, write_bundle
from mec.errors import BundleError

COMPONENTS = sorted((Path(__file__).parents[1] / "components").glob("*/component.py"))


def test_a_bundle_tells_where_it_comes_from(tmp_path):
    with write_bundle(tmp_path / "counts", "row_hashes", data_version="v7") as draft:
        (draft.path / "a").write_text("a")
    parent = open_bundle(tmp_path / "counts")
    with write_bundle(tmp_path / "vocabulary", "vocabulary", parents={"counts": parent}) as draft:
        (draft.path / "b").write_text("b")
    child = open_bundle(tmp_path / "vocabulary")
    first, second = (SimpleNamespace(path=str(bundle.path), metadata={"kept": 1}) for bundle in (parent, child))
    label(first, second)
    assert second.metadata == {
        "kept": 1,
        "display_name": "Vocabulary",
        "uuid": child.uuid,
        "parent_counts": parent.uuid,
        "data_version": "v7",
        "mec_version": child.manifest.mec_version,
        "code_hash": child.manifest.code_hash,
        "config_hash": child.manifest.config_hash,
    }
    assert (first.metadata["display_name"], first.metadata["uuid"]) == ("Row hashes", parent.uuid)


def test_what_is_no_bundle_is_refused(tmp_path):
    with pytest.raises(BundleError, match="manifest"):
        label(SimpleNamespace(path=str(tmp_path), metadata={}))


def test_views_are_named_and_written(tmp_path):
    view = SimpleNamespace(path=str(tmp_path / "report"), metadata={})
    show(Report=(view, "<p>"))
    assert (view.metadata, (tmp_path / "report").read_text()) == ({"display_name": "Report"}, "<p>")
    assert paths(out=view) == {"out": tmp_path / "report"}


@pytest.mark.parametrize("file", COMPONENTS, ids=lambda file: file.parent.name)
def test_every_output_of_every_step_is_labelled(file):
    source = file.read_text(encoding="utf-8")
    outputs = dict(re.findall(r"(\w+): dsl\.Output\[dsl\.(\w+)\]", source))
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    named: dict[str, set[str]] = {"label": set(), "show": set()}
    for call in calls:
        name = ast.unparse(call.func).split(".")[-1]
        if name == "label":
            named[name] |= {ast.unparse(argument) for argument in call.args}
        if name == "show":
            named[name] |= {ast.unparse(keyword.value.elts[0]) for keyword in call.keywords}
    views = {"HTML", "Markdown", "Metrics", "ClassificationMetrics"}
    assert named["label"] == {output for output, kind in outputs.items() if kind not in views}
    assert named["show"] == {output for output, kind in outputs.items() if kind in views}
