"""The one training loop: every model and every compression method is trained here.

Binary cross-entropy plus L2 on the batch's embeddings, row-sparse Adam, early stop on validation
AUC, a checkpoint after every validation. Progress and checkpoints cannot change the mathematics.

Processes that train together all run this loop over the same batches, each on its part of every batch: sums over
processes take the place of sums over rows, and all of them validate, stop and resume at the same step.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from mec.checkpoints import Checkpoints
from mec.config import OptimizerConfig
from mec.ctr_model import CtrModel, predict_split, squared_norm, to_device
from mec.data.dataset import Batch, EncodedDataset
from mec.devices import find_device
from mec.distributed.processes import current
from mec.embeddings.method import Method
from mec.errors import TrainingError
from mec.evaluation.metrics import auc
from mec.optimizer import CtrOptimizer
from mec.progress import Progress

LEARNED_AUC = 0.52  # a validation AUC below it is chance
_PLATEAU_VALIDATIONS, _PLATEAU_STEPS = 10, 10_000


@dataclass
class Validation:
    """One look at the validation split."""

    epoch: float
    step: int
    train_loss: float  # mean binary cross-entropy since the last validation
    valid_auc: float


@dataclass
class FitResult:
    """How a training went; the model holds its best weights."""

    best_auc: float = -math.inf
    best_epoch: float = 0.0
    num_steps: int = 0
    history: list[Validation] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def fit(
    model: CtrModel,
    dataset: EncodedDataset,
    settings: OptimizerConfig,
    *,
    name: str,
    seed: int,
    l2_at: Callable[[float], float] | None = None,
    checkpoints: Checkpoints | None = None,
    part: tuple[int, int] = (1, 1),
    start_auc: float = -math.inf,
) -> FitResult:
    """Train ``model`` in place and leave it at its best validation AUC.

    Args:
        model: Ids to logits.
        dataset: Rows; ``train`` is learned from, ``valid`` decides when to stop.
        settings: Step size, L2, batch size, patience, device.
        name: The step's name in progress lines.
        seed: Of shuffling and dropout.
        l2_at: Epochs passed -> L2 weight; default: ``settings.l2`` throughout.
        checkpoints: Where to keep and find state after every validation.
        part: Which of how many trainings of the step this is, for its progress bar.
        start_auc: Validation AUC of ``model`` as it comes: weights that do not exceed it are not kept, and where none
            do, the model stays as it came and ``best_epoch`` is 0. Default: it has learned nothing yet.

    Raises:
        ConfigError: ``settings.device`` is not on this machine.
        TrainingError: A loss term is not finite; raised before the optimizer step, weights untouched.
    """
    processes = current()
    torch.set_num_threads(settings.threads)
    torch.manual_seed(processes.seed(seed))
    wanted = processes.device(settings.device)
    device = find_device(wanted, "evaluate.full.device" if name == "reference" else f"{name}.device")
    model.to(device)
    optimizer = CtrOptimizer(model, settings.learning_rate)
    num_batches = math.ceil(dataset.num_rows("train") / settings.batch_size)
    validate_after = {
        math.ceil(num_batches * (i + 1) / settings.evaluations_per_epoch) for i in range(settings.evaluations_per_epoch)
    }
    result, best, bad, start = FitResult(best_auc=start_auc), copy.deepcopy(model.state_dict()), 0, 0
    state = checkpoints.load() if checkpoints else None
    if state is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] is not None:
            torch.cuda.set_rng_state(state["cuda_rng"].cpu(), device)
        for key, value in state["best"].items():
            best[key].copy_(value)
        bad, start = int(state["bad"]), int(state["num_steps"])
        result = FitResult(**{**state["result"], "history": [Validation(**v) for v in state["result"]["history"]]})
        del state
    longest = num_batches * settings.max_epochs
    bar, before = Progress(name, longest * part[1], shown=processes.first), longest * (part[0] - 1)
    prefix = f"training {part[0]}/{part[1]} | " if part[1] > 1 else ""
    loss_sum, loss_rows = 0.0, 0
    for epoch in range(start // num_batches, settings.max_epochs):
        if bad >= settings.patience:
            break
        batches = dataset.batches(
            "train", settings.batch_size, seed=seed, epoch=epoch, shuffle_rows=settings.shuffle_rows
        )
        model.train()
        for position, batch in enumerate(batches, 1):
            step = epoch * num_batches + position
            if step <= start:
                continue
            passed = step / num_batches
            l2 = l2_at(passed) if l2_at else settings.l2
            loss = train_batch(model, optimizer, batch, l2, device, step)
            loss_sum += loss * batch.num_rows
            loss_rows += batch.num_rows
            so_far = f"{prefix}epoch {epoch + 1}/{settings.max_epochs}"
            bar.set(before + step, f"{so_far} | best valid AUC {max(result.best_auc, 0):.4f}")
            if position not in validate_after:
                continue
            logits, labels = predict_split(model, dataset, "valid", settings.batch_size * 4)
            valid_auc = auc(labels, logits)
            result.history.append(Validation(passed, step, loss_sum / loss_rows, valid_auc))
            result.num_steps, loss_sum, loss_rows = step, 0.0, 0
            if valid_auc > result.best_auc:
                result.best_auc, result.best_epoch, bad = valid_auc, passed, 0
                for key, value in model.state_dict().items():
                    best[key].copy_(value)  # in place: a table fits in memory once less
            elif not _on_plateau(result):
                bad += 1
            if checkpoints:
                checkpoints.save(
                    {
                        "model": model.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "rng": torch.get_rng_state(),
                        "cuda_rng": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
                        "best": best,
                        "bad": bad,
                        "num_steps": step,
                        "result": result.to_json(),
                    }
                )
            if bad >= settings.patience:
                break
            model.train()
    bar.set(before + longest, f"{prefix}best valid AUC {result.best_auc:.4f} at epoch {result.best_epoch:.2f}")
    optimizer.end()
    model.load_state_dict(best)
    model.eval()
    return result


def train_batch(
    model: CtrModel, optimizer: CtrOptimizer, batch: Batch, l2: float, device: torch.device, step: int
) -> float:
    """One step on one batch; the loss is binary cross-entropy + l2 * mean over rows of |rows used|^2.

    A compression method may add a term of its own, ``Method.regulariser``; methods train in one process.

    Returns:
        The binary cross-entropy.

    Raises:
        TrainingError: A loss term is not finite (names step and term); nothing was updated.
    """
    processes, num_rows = current(), batch.num_rows
    part = processes.part_of(batch)
    ids, weights, label = to_device(part, device)
    fold = None if part.fold is None else torch.from_numpy(part.fold).to(device).long()
    logits, rows = model(ids, weights, fold)
    if processes.num == 1:
        cross_entropy = binary_cross_entropy_with_logits(logits, label)
    else:
        cross_entropy = binary_cross_entropy_with_logits(logits, label, reduction="sum") / num_rows
    terms = {"cross_entropy": cross_entropy}
    if l2 > 0:
        # an empty slot's row is id 0's, read and multiplied by 0: the batch does not use it
        used = rows if weights is None else rows * (weights != 0).unsqueeze(2)
        terms["l2"] = squared_norm(used) * (l2 / num_rows)
    method = model.embedding if isinstance(model.embedding, Method) else None
    regulariser = None if method is None else method.regulariser(rows)
    if regulariser is not None:
        terms["regulariser"] = regulariser
    values = processes.sum(torch.stack([t.detach() for t in terms.values()])).tolist()
    for term, value in zip(terms, values, strict=True):
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss term {term} is not finite at step {step}",
                found=value,
                fix="lower the learning rate, or look for extreme numbers in the data",
            )
    optimizer.zero_grad()
    torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    if method is not None:
        method.after_step(step)
    return float(values[0])


def _on_plateau(result: FitResult) -> bool:
    """Whether nothing has been learned yet: a strong L2 can hold small vectors near zero for some thousand steps.

    Only ten validations, or 10,000 steps where these are fewer, may count as that, so a hopeless run still ends.
    """
    early = len(result.history) <= _PLATEAU_VALIDATIONS or result.history[-1].step <= _PLATEAU_STEPS
    return early and result.best_auc < LEARNED_AUC
