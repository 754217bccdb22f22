"""The quantize step's device: what is computed there, and how much of a table is moved there at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mec.bundle import open_bundle
from mec.config import QuantizeConfig
from mec.errors import ConfigError
from mec.quantize.codebook import Codebooks
from mec.quantize.codes import Codes
from mec.quantize.quantizing import quantize_step
from tests.quantize.tables import Made, clustered, make_bundles

SIZE, WIDTH = 1100, 5
BUDGET = {"budget": "20%", "iterations": 3}
MEC = {"objective": "mec", "mec": {"epochs": 1, "encoder": "mlp"}}
SHAPES: list[dict[str, Any]] = [
    {"num_codes": 2},
    {"structure": "product", "num_codes": 2, "head": 20, "tail_count": 60},
    BUDGET,
    MEC,
]


def run(made: Made, out: Path, **changes: Any) -> tuple[Codebooks, Codes]:
    by_hand = {} if "budget" in changes else {"num_codewords": 16, "min_values": 100}
    quantize_step(
        quantize=QuantizeConfig.model_validate({**by_hand, **changes}),
        pretrained=made.pretrained,
        vocabulary=made.vocabulary,
        seed=0,
        out_codebook=out / "codebook",
        out_codes=out / "codes",
    )
    books = Codebooks.open(out / "codebook")
    return books, Codes.open(out / "codes", books)


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return make_bundles(tmp_path, {"user": clustered(SIZE, WIDTH)})


def lost(books: Codebooks, codes: Codes, made: Made) -> float:
    """Weighted squared error of the values behind the head, as a part of their weighted variance."""
    behind = slice(1 + codes.plan("user").head, SIZE)
    rows, weights = made.tables["user"][behind].astype(float), np.sqrt(made.counts["user"][behind])
    read = books.decode("user", torch.from_numpy(codes.unpacked("user")))[behind].double().numpy()
    variance = weights @ np.square(rows - np.average(rows, axis=0, weights=weights)).sum(1)
    return float(weights @ np.square(rows - read).sum(1) / variance)


@pytest.mark.parametrize("changes", SHAPES, ids=["residual", "product", "budget", "mec"])
def test_any_device_is_as_good_as_the_cpu(tmp_path: Path, made: Made, device: str, changes: dict[str, Any]) -> None:
    books, codes = run(made, tmp_path / "there", device=device, **changes)
    quality = open_bundle(tmp_path / "there" / "codebook").extra["diagnostics"]["user"]
    rows = torch.from_numpy(made.tables["user"])
    own = slice(1 + codes.plan("user").head, codes.plan("user").tail_start or SIZE)
    nearest = books.encode("user", rows[own])
    assert (torch.from_numpy(codes.unpacked("user")[own]) == nearest).float().mean() > 0.999
    on_cpu = run(made, tmp_path / "here", **changes)
    assert lost(books, codes, made) == pytest.approx(lost(*on_cpu, made), rel=0 if device == "cpu" else 0.05)
    on_cpu_quality = open_bundle(tmp_path / "here" / "codebook").extra["diagnostics"]["user"]
    assert quality["explained_variance"] == pytest.approx(on_cpu_quality["explained_variance"], abs=0.02)


@pytest.mark.parametrize("changes", [{}, BUDGET, MEC], ids=["kmeans", "budget", "mec"])
def test_a_device_that_is_not_there(tmp_path: Path, made: Made, changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"quantize\.device=cuda:99: there is no such device here"):
        run(made, tmp_path, device="cuda:99", **changes)
    assert not (tmp_path / "codebook").exists()


@pytest.mark.parametrize("changes", [{}, BUDGET], ids=["kmeans", "budget"])
def test_samples_and_tiles_are_moved_but_no_table(
    tmp_path: Path, made: Made, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: list[tuple[int, ...]] = []
    move = Tensor.to

    def watched(tensor: Tensor, *args: Any, **options: Any) -> Tensor:
        if isinstance(args[0], torch.device):
            moved.append(tuple(tensor.shape))
        return move(tensor, *args, **options)

    monkeypatch.setattr(Tensor, "to", watched)
    _, codes = run(made, tmp_path, max_points=512, chunk_rows=256, **changes)
    plan = codes.plan("user")
    coded = plan.coded(SIZE)
    tiles = [(min(256, coded - start), WIDTH) for start in range(0, coded, 256)]
    assert moved[-len(tiles) :] == tiles
    assert 256 < max(shape[0] for shape in moved) <= 512  # the sample of the fit, or one of a budget's
