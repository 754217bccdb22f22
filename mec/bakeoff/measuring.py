"""Train and measure one cell: size from the budget, the method's search, one training, its export, the test rows."""

from __future__ import annotations

import inspect
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from mec.bakeoff.cells import Cell
from mec.bundle import Bundle
from mec.checkpoints import Checkpoints
from mec.config import EvaluateConfig, TrainConfig
from mec.ctr_model import CtrModel, predict_split
from mec.data.dataset import EncodedDataset
from mec.data.layout import FieldLayout
from mec.devices import find_device
from mec.embeddings.export import Export, write_export
from mec.embeddings.method import Method, MethodInputs, MethodSettings
from mec.embeddings.methods import build_method, check_method_settings, load_served, method_type
from mec.embeddings.sizing import BudgetError
from mec.errors import BundleError, ConfigError, MecError, SpaceError, TrainingError
from mec.evaluation.byte_accounting import full_bytes
from mec.evaluation.calibration import fit_calibration
from mec.evaluation.latency import full_table_lookup, lookup_latency
from mec.evaluation.metrics import auc, logloss
from mec.fold_training import FoldTables
from mec.models import build_backbone
from mec.quantize.budget import parse_budget
from mec.training import FitResult, fit

STEP = "bakeoff_cell"
_REFUSALS = (ConfigError, TrainingError, BundleError)  # of a method that is built
_PARTS = ("search", "train")  # what a killed cell can go on with


@dataclass(frozen=True)
class CellInputs:
    """What all cells of a bake-off share.

    dataset: rows; ``valid`` stops the training and calibrates, ``test`` is scored once.
    counts: vocabulary -> (V,) int64 training counts.
    pretrained: tables, for methods that compress or start from them; their D is every method's.
    train: backbone and optimizer.
    evaluate: rows per step of scoring, rows of a timed look-up.
    """

    dataset: EncodedDataset
    counts: Mapping[str, NDArray[np.int64]]
    pretrained: Bundle
    train: TrainConfig
    evaluate: EvaluateConfig

    def __post_init__(self) -> None:
        if self.dataset.layout != FieldLayout.from_json(self.pretrained.extra["layout"]):
            raise SpaceError(
                f"the dataset {self.dataset.bundle.path} was not encoded with the fields and vocabularies of "
                f"{self.pretrained.path}",
                found=dict(self.dataset.layout.vocabularies),
                fix=f"pass the dataset that {self.pretrained.path} stems from",
            )

    def of_method(self, seed: int) -> MethodInputs:
        """What a method is built from."""
        return MethodInputs(
            self.dataset.layout,
            int(self.pretrained.extra["embedding_dim"]),
            self.counts,
            load_file(self.pretrained.file("tables.safetensors")),
            seed,
            FoldTables.of(self.pretrained),
        )

    @property
    def full_bytes(self) -> int:
        """Bytes of the full tables, fp32."""
        return full_bytes(self.dataset.layout, int(self.pretrained.extra["embedding_dim"]))


def measure_cell(cell: Cell, inputs: CellInputs, checkpoints: Path | None) -> dict[str, Any]:
    """Train a cell and score it from its export alone.

    Args:
        cell: What to train.
        inputs: What all cells share.
        checkpoints: Directory for resuming a killed training; None keeps none.

    Returns:
        JSON value: ``method``, ``budget``, ``seed``, ``budget_bytes``, ``full_bytes`` and ``status``: ``measured``,
        ``over_budget``, ``not_applicable`` (the method as it comes cannot be built for these tables) or ``diverged``
        (or what was trained cannot be stored), the latter three with a ``reason``. Where measured also ``settings`` as
        trained, ``bytes`` by part, ``num_bytes``, ``ratio``, ``within_budget`` (a search may overstep it),
        ``valid_auc``, ``auc`` and ``logloss`` (calibrated on valid) of test, ``logloss_uncalibrated``,
        ``calibration``, ``epochs`` passed, ``best_epoch``, ``num_steps``, ``build_seconds`` (sizes, codes and first
        values), ``search_seconds``, ``train_seconds`` and ``seconds_per_epoch`` (null where it went on from a
        checkpoint, so that no clock saw all of it), ``latency`` (null: not asked for), ``num_test_rows``.

    Raises:
        ConfigError: Settings that the method does not have or that do not go with these tables, a budget of less than
            a byte, or a device that is not on this machine.
        DataError: A split lacks rows of a label.
    """
    try:
        return _result(cell, inputs, checkpoints)
    except MecError as error:
        raise type(error)(f"{cell.label}: {error.problem}", found=error.found, fix=error.fix) from error


def clear_checkpoints(cell: Cell, inputs: CellInputs, directory: Path | None) -> None:
    """Forget how far a cell came, once its result is kept."""
    for part in _PARTS:
        kept = _checkpoints(directory, part, cell, inputs)
        if kept is not None:
            kept.clear()


def _result(cell: Cell, inputs: CellInputs, checkpoints: Path | None) -> dict[str, Any]:
    budget_bytes = parse_budget(cell.budget).bytes(inputs.full_bytes)
    result: dict[str, Any] = {
        **cell.model_dump(include={"method", "budget", "seed"}),
        "budget_bytes": budget_bytes,
        "full_bytes": inputs.full_bytes,
    }
    torch.set_num_threads(inputs.train.threads)
    start = time.monotonic()
    try:
        method = _build(cell, inputs, budget_bytes)
    except BudgetError as error:
        return result | {"status": "over_budget", "reason": error.problem}
    except _NotApplicableError as error:
        return result | {"status": "not_applicable", "reason": str(error)}
    build_seconds = time.monotonic() - start
    try:
        model, trained = _train(cell, inputs, method, checkpoints)
        export = _export(model)
    except TrainingError as error:
        return result | {"status": "diverged", "reason": str(error)}
    num_bytes = sum(export.num_bytes().values())
    return result | {
        "status": "measured",
        "settings": export.settings,
        "bytes": export.num_bytes(),
        "num_bytes": num_bytes,
        "ratio": inputs.full_bytes / num_bytes,
        "within_budget": num_bytes <= budget_bytes,
        "build_seconds": build_seconds,
        **trained,
        **_score(export, model, inputs),
    }


class _NotApplicableError(ConfigError):
    """A method as it comes does not go with these tables."""


def _build(cell: Cell, inputs: CellInputs, budget_bytes: int) -> Method[Any]:
    """The untrained method; one that is refused with its default settings, too, does not go with these tables."""
    own, base = inputs.of_method(cell.seed), check_method_settings(cell.method, cell.settings)

    def built(settings: MethodSettings) -> Method[Any]:
        return build_method(cell.method, own, method_type(cell.method).for_budget(own, budget_bytes, settings))

    try:
        return built(base)
    except BudgetError:
        raise
    except _REFUSALS as error:
        if _is_refused(lambda: built(check_method_settings(cell.method, {}))):
            raise _NotApplicableError(error.problem, found=error.found, fix=error.fix) from error
        raise


def _is_refused(build: Callable[[], object]) -> bool:
    try:
        build()
    except _REFUSALS as error:
        return not isinstance(error, BudgetError)
    return False


def _train(
    cell: Cell, inputs: CellInputs, method: Method[Any], checkpoints: Path | None
) -> tuple[CtrModel, dict[str, Any]]:
    """Search, where the method has one, and train; the model on the CPU at its best weights, and facts."""
    data, optimizer = inputs.dataset, cell.optimizer(inputs.train)
    find_device(optimizer.device, "train.device")
    search_kept, train_kept = (_checkpoints(checkpoints, part, cell, inputs) for part in _PARTS)
    resumed = {kept for kept in (search_kept, train_kept) if kept is not None and kept.path.exists()}
    start = time.monotonic()
    torch.manual_seed(cell.seed)
    searched = method.search(ctr_model(inputs, method), data, optimizer, search_kept)
    search_seconds = 0.0 if searched is method else None if resumed else time.monotonic() - start
    torch.manual_seed(cell.seed)
    model, rows = ctr_model(inputs, searched), training_rows(inputs, searched)
    start = time.monotonic()
    fitted = fit(model, rows, optimizer, name=STEP, seed=cell.seed, checkpoints=train_kept)
    seconds = None if train_kept in resumed else time.monotonic() - start
    return model.cpu().eval(), _training_facts(fitted, search_seconds, seconds)


def _export(model: CtrModel) -> Export:
    """What a server holds of a trained model; floats that grew beyond their stored type are a training's failure."""
    assert isinstance(model.embedding, Method)
    try:
        model.embedding.finish()
        return model.embedding.export()
    except ConfigError as error:
        raise TrainingError(error.problem, found=error.found, fix=error.fix) from error


def _training_facts(fitted: FitResult, search_seconds: float | None, seconds: float | None) -> dict[str, Any]:
    epochs = fitted.history[-1].epoch
    return {
        "epochs": epochs,
        "best_epoch": fitted.best_epoch,
        "num_steps": fitted.num_steps,
        "search_seconds": search_seconds,
        "train_seconds": seconds,
        "seconds_per_epoch": None if seconds is None else seconds / epochs,
    }


def _score(export: Export, model: CtrModel, inputs: CellInputs) -> dict[str, Any]:
    """Metrics of the exported bytes, read back from disk, with the trained backbone; on the CPU, as in service."""
    data, evaluate = inputs.dataset, inputs.evaluate
    with tempfile.TemporaryDirectory(prefix="mec-") as directory:
        write_export(Path(directory, "export"), export)
        served = load_served(Path(directory, "export"))
    latency = _latency(served, inputs) if evaluate.latency_rows else None
    scorer = model.reading(served)
    valid, valid_labels = predict_split(scorer, data, "valid", evaluate.batch_size)
    test, labels = predict_split(scorer, data, "test", evaluate.batch_size)
    calibration = fit_calibration(valid_labels, valid)
    return {
        "valid_auc": auc(valid_labels, valid),
        "auc": auc(labels, test),
        "logloss": logloss(labels, calibration.apply(test)),
        "logloss_uncalibrated": logloss(labels, test),
        "calibration": calibration.to_json(),
        "num_test_rows": len(labels),
        "latency": latency,
    }


def _latency(served: torch.nn.Module, inputs: CellInputs) -> dict[str, Any]:
    data, num_rows = inputs.dataset, inputs.evaluate.latency_rows
    # one seed for all cells: they look up the same rows
    batch = next(data.batches("test", num_rows, seed=0, shuffle_rows=num_rows))
    full = full_table_lookup(data.layout, int(inputs.pretrained.extra["embedding_dim"]))
    return lookup_latency(served.eval(), full, torch.from_numpy(batch.ids))


def ctr_model(inputs: CellInputs, method: Method[Any]) -> CtrModel:
    """The method with a fresh backbone, and with scales of fields where its rows are frozen."""
    layout, train = inputs.dataset.layout, inputs.train
    backbone = build_backbone(train.model, layout.num_fields, method.embedding_dim, train.settings)
    return CtrModel(layout, method, backbone, field_scales=_has_field_scales(inputs, method))


def _has_field_scales(inputs: CellInputs, method: Method[Any]) -> bool:
    wanted = inputs.train.field_scales
    return method.frozen if wanted is None else wanted


def training_rows(inputs: CellInputs, method: Method[Any]) -> EncodedDataset:
    """The rows, with their folds where the method's ``forward`` has a parameter for them."""
    takes_folds = "fold" in inspect.signature(type(method).forward).parameters
    folds = FoldTables.of(inputs.pretrained) if takes_folds else None
    return inputs.dataset.with_folds(folds.folds) if folds else inputs.dataset


def _checkpoints(directory: Path | None, part: str, cell: Cell, inputs: CellInputs) -> Checkpoints | None:
    if directory is None:
        return None
    key = [
        {"dataset": inputs.dataset.bundle.uuid, "pretrained": inputs.pretrained.uuid},
        cell.model_dump(mode="json"),
        cell.optimizer(inputs.train).model_dump(mode="json"),
        inputs.train.model,
        inputs.train.settings,
        {"field_scales": inputs.train.field_scales},
    ]
    return Checkpoints(directory, f"bakeoff-{part}", key)
