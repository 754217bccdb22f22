"""Alternating search: weights learn from training batches, the architecture from validation batches.

The first-order form of Liu, Simonyan and Yang, "DARTS: differentiable architecture search", ICLR 2019 (xi = 0), for
AutoDim, AutoEmb, AutoDPQ and xLightFM. What is searched is a few numbers per vocabulary; a step costs the batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from mec.checkpoints import Checkpoints
from mec.config import OptimizerConfig
from mec.ctr_model import CtrModel, to_device
from mec.data.dataset import Batch, EncodedDataset
from mec.devices import find_device
from mec.errors import DataError, TrainingError
from mec.optimizer import CtrOptimizer
from mec.progress import Progress
from mec.training import train_batch

_SAVE_STEPS = 500


def alternate(
    model: CtrModel,
    architecture: Sequence[nn.Parameter],
    dataset: EncodedDataset,
    settings: OptimizerConfig,
    *,
    epochs: float,
    learning_rate: float,
    seed: int,
    checkpoints: Checkpoints | None,
) -> Iterator[float]:
    """Yield the share of steps that are done, in [0, 1), before each pair of steps.

    A pair is a step of all other weights on the next training batch, as ``mec.training`` takes it, and one of the
    architecture on the next validation batch. What the caller sets before a pair, such as a temperature, must follow
    from the share alone: then a search that is resumed gives the same bits.

    Args:
        model: Trained in place; left in training mode.
        architecture: Parameters of the model that learn from validation batches.
        dataset: ``train`` and ``valid`` are read, shuffled.
        settings: Batch size, step size, L2, device and threads of the weights.
        epochs: Passes over ``train``, rounded up to whole steps.
        learning_rate: Adam step size of the architecture.
        seed: Of shuffling, dropout and noise.
        checkpoints: Where state is kept, and found again, every 500 pairs and at the end; the search's own.

    Raises:
        ConfigError: ``settings.device`` is not on this machine.
        DataError: There are no validation rows.
        TrainingError: A loss is not finite.
    """
    if not dataset.num_rows("valid"):
        raise DataError("a search learns from validation rows", found="none", fix="give the validation split some rows")
    torch.set_num_threads(settings.threads)
    torch.manual_seed(seed)
    device = find_device(settings.device, "search.device")
    model.to(device)
    _require(architecture, False)
    weights = CtrOptimizer(model, settings.learning_rate)
    shape = torch.optim.Adam(architecture, lr=learning_rate)
    total = math.ceil(epochs * math.ceil(dataset.num_rows("train") / settings.batch_size))
    start = _resume(checkpoints, model, weights, shape, device)
    train, valid = (_forever(dataset, split, settings, seed, start) for split in ("train", "valid"))
    bar = Progress("search", total)
    for step in range(start + 1, total + 1):
        yield (step - 1) / total
        model.train()
        train_batch(model, weights, next(train), settings.l2, device, step)
        loss = _step(model, architecture, shape, next(valid), device, step)
        bar.set(step, f"valid logloss of the batch {loss:.4f}")
        if checkpoints and (step % _SAVE_STEPS == 0 or step == total):
            checkpoints.save(
                {
                    "model": model.state_dict(),
                    "weights": weights.state_dict(),
                    "shape": shape.state_dict(),
                    "rng": torch.get_rng_state(),
                    "cuda_rng": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
                    "num_steps": step,
                }
            )


def _step(
    model: CtrModel,
    architecture: Sequence[nn.Parameter],
    shape: torch.optim.Adam,
    batch: Batch,
    device: torch.device,
    step: int,
) -> float:
    """One step of the architecture alone; the binary cross-entropy."""
    ids, weights, label = to_device(batch, device)
    _require(architecture, True)
    loss = binary_cross_entropy_with_logits(model.logits(ids, weights), label)
    value = float(loss.detach())
    if not math.isfinite(value):
        raise TrainingError(
            f"the validation loss of the search is not finite at step {step}",
            found=value,
            fix="lower the learning rate, or look for extreme numbers in the data",
        )
    for parameter, gradient in zip(architecture, torch.autograd.grad(loss, architecture), strict=True):
        parameter.grad = gradient
    shape.step()
    shape.zero_grad()
    _require(architecture, False)
    return value


def _require(architecture: Sequence[nn.Parameter], gradient: bool) -> None:
    for parameter in architecture:
        parameter.requires_grad_(gradient)


def _resume(
    checkpoints: Checkpoints | None,
    model: CtrModel,
    weights: CtrOptimizer,
    shape: torch.optim.Adam,
    device: torch.device,
) -> int:
    """Restore the kept state; how many pairs it has behind it."""
    state: dict[str, Any] | None = checkpoints.load() if checkpoints else None
    if state is None:
        return 0
    model.load_state_dict(state["model"])
    weights.load_state_dict(state["weights"])
    shape.load_state_dict(state["shape"])
    torch.set_rng_state(state["rng"])
    if state["cuda_rng"] is not None:
        torch.cuda.set_rng_state(state["cuda_rng"].cpu(), device)
    return int(state["num_steps"])


def _forever(dataset: EncodedDataset, split: str, settings: OptimizerConfig, seed: int, skip: int) -> Iterator[Batch]:
    """Pass after pass over a split, without the first ``skip`` batches."""
    num_batches = math.ceil(dataset.num_rows(split) / settings.batch_size)
    epoch, skip = divmod(skip, num_batches)
    while True:
        batches = dataset.batches(
            split, settings.batch_size, seed=seed, epoch=epoch, shuffle_rows=settings.shuffle_rows
        )
        for position, batch in enumerate(batches):
            if position >= skip:
                yield batch
        epoch, skip = epoch + 1, 0
