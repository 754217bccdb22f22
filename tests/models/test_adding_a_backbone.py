"""docs/adding-a-backbone.md, followed literally in an empty directory: its files are written, its commands are run."""

from __future__ import annotations

import json
import sys

import pytest

from tests.pages import Follower, Page

PAGE = Page("adding-a-backbone.md")


@pytest.fixture(scope="module")
def follower(tmp_path_factory) -> Follower:
    return Follower(PAGE, tmp_path_factory.mktemp("follower"))


def test_the_page_is_the_whole_way():
    assert set(PAGE.files) == {"mec_fwfm.py", "pyproject.toml", "test_fwfm.py", "config.yaml", "registered.py"}
    assert [command.split()[0] for command in PAGE.commands] == ["pip", "mec", "mec", "mec", "python"]


def test_the_example_conforms_and_is_the_equation(follower, monkeypatch):
    monkeypatch.syspath_prepend(follower.home)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    import mec_fwfm
    import torch

    from mec.testing import check_backbone

    assert check_backbone(mec_fwfm.FwFM) == []
    model = mec_fwfm.FwFM(3, 2, mec_fwfm.FwFMSettings())
    with torch.no_grad():
        model.weight.copy_(torch.tensor([2.0, 3.0, 5.0]))  # r_01, r_02, r_12
    vectors = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]])
    assert model(vectors, torch.tensor([7.0])).tolist() == [7 + 2 * 11 + 3 * 17 + 5 * 39]


@pytest.mark.slow
def test_the_commands_lead_to_a_registered_model(follower):
    outputs = [follower.run(command) for command in PAGE.commands]
    assert outputs[1].startswith("fwfm: conforms (")
    assert outputs[2].startswith("fwfm: conforms (")
    summary = json.loads((follower.home / "out" / "summary.json").read_text(encoding="utf-8"))
    assert (summary["model"], summary["model_version"]) == ("fwfm", 1)
    assert summary["published_rows"] > 0
    assert outputs[4].startswith("fwfm version 1: AUC 0.")
    follower.run("python -m pytest -q -p no:cacheprovider test_fwfm.py")
