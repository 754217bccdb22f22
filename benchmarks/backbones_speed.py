"""Training speed of every backbone against the same model in a public package.

One step is forward, binary cross-entropy, backward and Adam over the backbone; embeddings and first-order weights are
given, and the loss is differentiated by them too. Both sides run in one process on one thread and the same batch, in
turns; a ratio is the rival's time over ours in one round, and the median over rounds is reported.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from backbones_rivals import build_rivals, check_versions
from backbones_settings import CHOICES
from torch import Tensor, nn

from mec.models import build_backbone

BATCH_SIZE, NUM_FIELDS, EMBEDDING_DIM = 2048, 26, 16
LEARNING_RATE = 1e-3
BOUND = 0.8
# what the packages cannot be set to: their attention is as wide as the embeddings, and AFM's is not dropped
SAME_MODEL: dict[str, dict[str, Any]] = {
    "afm": {"attention_dropout": 0.0},
    "autoint": {"attention_dim": EMBEDDING_DIM},
    "autoint_plus": {"attention_dim": EMBEDDING_DIM},
}


def run_speed(backbones: list[str], rounds: int, steps: int) -> str:
    """Measure and return a Markdown table.

    Args:
        backbones: Names.
        rounds: Turns of each side.
        steps: Training steps in a turn.
    """
    check_versions()
    torch.set_num_threads(1)
    lines = [
        "| backbone | mec, ms a step | mec, rows/s | rival | rival, ms a step | speed, rival = 1 (quartiles) |",
        "|---|---|---|---|---|---|",
    ]
    for name in backbones:
        lines += _compare(name, rounds, steps)
        print(lines[-1], flush=True)
    return "\n".join(lines)


def _compare(name: str, rounds: int, steps: int) -> list[str]:
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(BATCH_SIZE, NUM_FIELDS, EMBEDDING_DIM, generator=generator) * 0.1
    first_order = torch.randn(BATCH_SIZE, generator=generator) * 0.1
    labels = (torch.rand(BATCH_SIZE, generator=generator) < 0.3).float()
    torch.manual_seed(0)
    backbone = build_backbone(
        name, NUM_FIELDS, EMBEDDING_DIM, CHOICES[name].settings | SAME_MODEL.get(name, {})
    ).train()
    rivals = build_rivals(name, embeddings, first_order, backbone.settings.model_dump())
    sides = {"mec": _our_step(backbone, embeddings.clone(), first_order.clone(), labels)}
    for package, rival in rivals.items():
        sides[package] = _step(lambda r=rival: r.loss(labels), rival.model, rival.leaves)  # type: ignore[misc]
    for step in sides.values():
        _seconds(step, 2)
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side, step in sides.items():
            seconds[side].append(_seconds(step, steps))
    ours = statistics.median(seconds["mec"])
    start = f"| {name} | {ours * 1e3:.2f} | {BATCH_SIZE / ours:,.0f} |"
    rows = []
    for package in rivals:
        ratios = [theirs / own for theirs, own in zip(seconds[package], seconds["mec"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        mark = "" if middle >= BOUND else f" **below {BOUND}**"
        theirs = statistics.median(seconds[package])
        rows.append(f"{start} {package} | {theirs * 1e3:.2f} | {middle:.2f} ({low:.2f} to {high:.2f}){mark} |")
    return rows or [f"{start} none found | | |"]


def _our_step(backbone: nn.Module, embeddings: Tensor, first_order: Tensor, labels: Tensor) -> Callable[[], None]:
    model = nn.Module()
    model.backbone = backbone
    model.bias = nn.Parameter(torch.zeros(()))  # as in ``mec.ctr_model.CtrModel``
    leaves = [embeddings.requires_grad_(), first_order.requires_grad_()]

    def loss() -> Tensor:
        logits = backbone(embeddings, first_order) + model.bias
        return nn.functional.binary_cross_entropy_with_logits(logits, labels)

    return _step(loss, model, leaves)


def _step(loss: Callable[[], Tensor], model: nn.Module, leaves: list[Tensor]) -> Callable[[], None]:
    """One training step of a model."""
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        for leaf in leaves:
            leaf.grad = None
        loss().backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def _seconds(step: Callable[[], None], steps: int) -> float:
    """Mean seconds of a step."""
    start = time.perf_counter()
    for _ in range(steps):
        step()
    return (time.perf_counter() - start) / steps
