"""Two gloo processes give what one gives: losses, tables, dense weights, scores; each holds half the rows."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mec.data.dataset import Batch, EncodedDataset
from mec.distributed.processes import Processes, current, joined
from mec.errors import ConfigError
from mec.models import BACKBONES as BACKBONE_REGISTRY
from mec.models import build_backbone
from tests.distributed.cases import BACKBONES, FEW_ROWS, run_cases
from tests.servers import free_port
from tests.tiny import SIZES, make_tiny

_WAIT_S = 300
_STEPS = 10


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("tiny"), num_rows=1282).dataset  # 1,025 of training: 4 batches and 1 row


@pytest.fixture(scope="module")
def alone(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mec.embeddings.full.CHUNK_ROWS", FEW_ROWS)
        return run_cases(EncodedDataset.open(dataset), tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module")
def together(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    out = tmp_path_factory.mktemp("together")
    shared = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    command = [sys.executable, "-m", "tests.distributed.cases", str(dataset), str(out)]
    both = [subprocess.Popen(command, env=shared | {"RANK": str(rank)}) for rank in range(2)]
    try:
        assert [process.wait(_WAIT_S) for process in both] == [0, 0]
    finally:
        for process in both:
            process.kill()
            process.wait()
    return [torch.load(out / f"results-{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_same_steps(alone: dict[str, Any], together: list[dict[str, Any]], backbone: str) -> None:
    one, (first, second) = alone[backbone], [results[backbone] for results in together]
    torch.testing.assert_close(first["start"]["table"], one["start"]["table"], rtol=0, atol=0)
    assert len(one["losses"]) == _STEPS
    assert first["losses"] == second["losses"]
    torch.testing.assert_close(torch.tensor(first["losses"]), torch.tensor(one["losses"]), rtol=0, atol=1e-5)
    assert not torch.allclose(one["end"]["table"], one["start"]["table"], atol=1e-2), "training moved the rows"
    torch.testing.assert_close(first["end"]["table"], one["end"]["table"], rtol=0, atol=1e-4)
    assert second["end"]["table"] is None
    for result in (first, second):
        for name, expected in one["end"]["dense"].items():
            torch.testing.assert_close(result["end"]["dense"][name], expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(result["end"]["logits"], one["end"]["logits"], rtol=0, atol=1e-3)
        assert torch.equal(result["end"]["labels"], one["end"]["labels"])


def test_each_process_holds_its_share_of_rows_and_moments(together: list[dict[str, Any]]) -> None:
    held = [results["fm"]["end"]["held_rows"] for results in together]
    num_rows = sum(SIZES.values())
    assert held == [(math.ceil(num_rows / 2),) * 3, (num_rows // 2,) * 3]


def test_a_training_that_was_killed_ends_as_if_it_had_not_been(together: list[dict[str, Any]]) -> None:
    for results in together:
        case = results["fit"]
        assert case["history"][0] == case["history"][1]
        for name, expected in case["whole"].items():
            torch.testing.assert_close(case["resumed"][name], expected, rtol=0, atol=0)
        assert case["unlike"] is None, "checkpoints of different steps are not gone on from"
    assert together[0]["fit"]["history"] == together[1]["fit"]["history"]


def test_one_process_goes_on_from_any_checkpoint(alone: dict[str, Any]) -> None:
    assert alone["fit"]["unlike"] == {"num_steps": 7}


def test_a_term_that_is_not_finite_in_one_process_stops_both(together: list[dict[str, Any]]) -> None:
    assert [r["not finite"] for r in together] == [together[0]["not finite"]] * 2
    assert "loss term cross_entropy is not finite at step 7" in together[0]["not finite"]


def test_processes_draw_numbers_of_their_own(alone: dict[str, Any], together: list[dict[str, Any]]) -> None:
    assert torch.equal(together[0]["draws"], alone["draws"])
    assert not torch.equal(together[1]["draws"], alone["draws"])


def test_a_gpu_that_is_not_here_is_named_before_the_others_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WORLD_SIZE", "2"), ("LOCAL_RANK", "99")):
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(ConfigError, match=r"train\.device=cuda:99: there is no such device"),
        joined("cuda", "train.device"),
    ):
        pass
    assert current().num == 1


@pytest.mark.parametrize("name", BACKBONE_REGISTRY.names())
def test_every_backbone_takes_the_empty_part_of_a_short_batch(name: str) -> None:
    backbone = build_backbone(name, 4, 6, {}).train()
    logits = backbone(torch.zeros(0, 4, 6, requires_grad=True), torch.zeros(0, requires_grad=True))
    logits.sum().backward()
    assert logits.shape == (0,)


@pytest.mark.parametrize("num_rows", [0, 1, 2, 3, 7])
@pytest.mark.parametrize("num", [1, 2, 3, 8])
def test_parts_hold_every_row_once(num: int, num_rows: int) -> None:
    parts = [list(range(num_rows))[Processes(rank, num).part(num_rows)] for rank in range(num)]
    assert [row for part in parts for row in part] == list(range(num_rows))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_part_of_a_batch_has_all_its_arrays() -> None:
    rows = torch.arange(5)
    batch = Batch(rows[:, None].int().numpy(), rows[:, None].float().numpy(), rows.float().numpy(), rows.byte().numpy())
    part = Processes(1, 2).part_of(batch)
    assert [a.ravel().tolist() for a in (part.ids, part.weights, part.label, part.fold)] == [[2, 3, 4]] * 4
    assert current().part_of(batch) is batch
