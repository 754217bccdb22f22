"""docs/adding-a-method.md, followed literally in an empty directory: its files are written, its commands are run."""

from __future__ import annotations

import re
import sys

import pytest

from tests.pages import Follower, Page

PAGE = Page("adding-a-method.md")


@pytest.fixture(scope="module")
def follower(tmp_path_factory) -> Follower:
    return Follower(PAGE, tmp_path_factory.mktemp("follower"))


def test_the_page_is_the_whole_way():
    assert set(PAGE.files) == {"mec_bloom.py", "pyproject.toml", "test_bloom.py", "served.py"}
    assert [command.split()[0] for command in PAGE.commands] == ["pip", "mec", "mec", "python"]


def test_the_example_conforms_and_is_the_equation(follower, monkeypatch):
    monkeypatch.syspath_prepend(follower.home)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    import mec_bloom
    import torch

    from mec.embeddings.hash_functions import bucket
    from mec.testing_method_data import inputs
    from mec.testing_methods import check_method

    assert check_method(mec_bloom.Bloom) == []
    method = mec_bloom.Bloom(inputs(), mec_bloom.BloomSettings(num_hashes=3)).eval()
    weight = method.tables[0].table.weight.normal_()
    places = [bucket(torch.tensor([77]), inputs().salt("hash", "user", j), 70) for j in range(3)]
    expected = weight[places[0]] + weight[places[1]] + weight[places[2]]
    ids = torch.tensor([[77, 0, 0, 0, 0]], dtype=torch.int32)
    torch.testing.assert_close(method(ids)[:, 0], expected)


@pytest.mark.slow
def test_the_commands_lead_to_served_rows(follower):
    outputs = [follower.run(command) for command in PAGE.commands]
    follower.run("python -m pytest -q -p no:cacheprovider test_bloom.py")
    assert all(output.startswith("bloom: conforms (shapes, ") for output in outputs[1:3])
    assert re.fullmatch(r"5\d\.\dx smaller: \{'codes': 0, .*\n", outputs[3])
