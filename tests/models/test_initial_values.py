"""Weights start as the docstrings of the backbones say: constants, bounds of uniform, deviations of normal ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor

from mec.models import Backbone, build_backbone

Start = Callable[[Tensor], None]  # checks what weights start as

F, D = 12, 16
N = F * D
NUM_VALUES, MAX_MODELS = 1500, 25  # at least 400 values of each weight: their deviation is off by 3 % or less


def constant(value: float) -> Start:
    def check(values: Tensor) -> None:
        assert torch.equal(values, torch.full_like(values, value))

    return check


def uniform(low: float, high: float) -> Start:
    def check(values: Tensor) -> None:
        width = high - low
        assert low <= float(values.min()) < low + 0.03 * width
        assert high >= float(values.max()) > high - 0.03 * width
        assert float(values.mean()) == pytest.approx((low + high) / 2, abs=0.05 * width)
        assert float(values.std()) == pytest.approx(width / math.sqrt(12), rel=0.1)

    return check


def normal(deviation: float) -> Start:
    def check(values: Tensor) -> None:
        assert float(values.std()) == pytest.approx(deviation, rel=0.1)
        assert abs(float(values.mean())) < 5 * deviation / math.sqrt(len(values))
        within = float((values.abs() < deviation).double().mean())
        assert within == pytest.approx(0.683, abs=0.05)  # .577 of uniform ones

    return check


def xavier(fan_in: int, fan_out: int) -> Start:
    bound = math.sqrt(6 / (fan_in + fan_out))
    return uniform(-bound, bound)


def he(fan_in: int) -> Start:
    return normal(math.sqrt(2 / fan_in))


ATTENTION: dict[str, object] = {"num_layers": 2, "num_heads": 2, "attention_dim": 10}
CROSS: dict[str, object] = {"hidden_units": (20,), "batch_norm": False}
EXPERTS: dict[str, object] = {**CROSS, "low_rank": 8, "num_experts": 3}
SAM3: dict[str, object] = {"interaction_type": "SAM3A", "num_layers": 2}
glorot = normal(math.sqrt(2 / (D + 64)))

STARTS: list[tuple[str, dict[str, object], dict[str, Start]]] = [
    (
        "afm",
        {"attention_size": 64},
        {"attention.weight": glorot, "attention.bias": glorot, "score": normal(1), "projection": constant(1)},
    ),
    ("afn", {}, {"logarithmic.weight": normal(0.1)}),
    ("afn_plus", {}, {"afn.logarithmic.weight": normal(0.1), "combination": constant(0.5)}),
    (
        "autoint",
        ATTENTION,
        {f"layers.0.{part}.weight": xavier(D, 10) for part in ("query", "key", "value", "residual")}
        | {f"layers.1.{part}.weight": xavier(10, 10) for part in ("query", "key", "value", "residual")}
        | {"attention_output.weight": xavier(F * 10, 1)},
    ),
    ("autoint_plus", {"hidden_units": (20,)}, {"hidden.0.weight": xavier(N, 20), "output.weight": xavier(20, 1)}),
    (
        "dcn",
        CROSS,
        {
            "network.cross.weight": xavier(N, 1),
            "network.cross.bias": constant(0),
            "network.hidden.0.weight": xavier(N, 20),
            "network.hidden.0.bias": constant(0),
            "network.output.weight": xavier(N + 20, 1),
        },
    ),
    (
        "dcnv2",
        CROSS,
        {
            "network.cross.layers.0.weight": he(N),
            "network.cross.layers.2.bias": constant(0),
            "network.hidden.0.weight": he(N),
            "network.hidden.0.bias": constant(0),
            "network.output.weight": he(N + 20),
        },
    ),
    (
        "dcnv2",
        {**CROSS, "low_rank": 8},
        {"network.cross.layers.0.0.weight": he(N), "network.cross.layers.0.1.weight": he(8)},
    ),
    (
        "dcnv2",
        EXPERTS,
        {
            "network.cross.down.0.weight": he(N),
            "network.cross.inner.0": he(8),
            "network.cross.up.0.weight": he(8),
            "network.cross.up.0.bias": constant(0),
            "network.cross.gate.weight": he(N),
        },
    ),
    *(
        (
            name,
            {},
            {
                "network.cross.layers.0.weight": uniform(-(N**-0.5), N**-0.5),
                "network.cross.gates.0.weight": uniform(-(N**-0.5), N**-0.5),
                "network.cross.layers.0.bias": uniform(0, 1),
            },
        )
        for name in ("gdcn_p", "gdcn_s")
    ),
    ("sam", {"interaction_type": "SAM1"}, {"output.weight": xavier(N, 1)}),
    ("sam", {"interaction_type": "SAM2A"}, {"layers.0.0.values": constant(1), "output.weight": xavier(F * N, 1)}),
    (
        "sam",
        SAM3,
        {
            "layers.0.0.values": constant(1),
            "layers.1.0.values": constant(1),
            "layers.0.0.key.weight": xavier(D, D),
            "layers.1.0.residual.weight": xavier(D, D),
            "pooling": constant(1),
            "output.weight": xavier(D, 1),
        },
    ),
]
ROWS = [(row, weight) for row, (_, _, starts) in enumerate(STARTS) for weight in starts]


@cache
def model(row: int, seed: int) -> Backbone:
    name, settings, _ = STARTS[row]
    torch.manual_seed(seed)
    return build_backbone(name, F, D, settings)


@pytest.mark.parametrize(("row", "weight"), ROWS, ids=[f"{STARTS[row][0]}-{weight}" for row, weight in ROWS])
def test_weights_start_as_documented(row: int, weight: str) -> None:
    size = model(row, 0).get_parameter(weight).numel()
    seeds = range(min(math.ceil(NUM_VALUES / size), MAX_MODELS))
    values = torch.cat([model(row, seed).get_parameter(weight).detach().flatten() for seed in seeds])
    STARTS[row][2][weight](values)
