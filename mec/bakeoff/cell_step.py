"""The bakeoff_cell step: one method at one budget with one seed, as a bundle that another run of it need not make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mec.bakeoff.cells import Cell
from mec.bakeoff.measuring import STEP, CellInputs, clear_checkpoints, measure_cell
from mec.bundle import Bundle, open_bundle, write_bundle, write_json
from mec.config import EvaluateConfig, TrainConfig
from mec.data.dataset import EncodedDataset
from mec.data.vocabulary import Vocabularies
from mec.evaluation import formatting as fmt
from mec.steps import step

CELL_FILE = "cell.json"
KIND = "bakeoff_cell"


def bakeoff_cell_step(
    *,
    cell: Cell,
    train: TrainConfig,
    evaluate: EvaluateConfig,
    dataset: Path,
    vocabulary: Path,
    pretrained: Path,
    checkpoints: Path | None,
    out: Path,
) -> None:
    """Train and measure one cell and write its bundle: ``cell.json``, see ``mec.bakeoff.measuring.measure_cell``.

    A budget that the method cannot reach, tables that it cannot be built for and a training that diverges are results:
    the bundle says so. Checkpoints are kept until it is written.

    Args:
        cell: Method, budget, seed and settings.
        train: Backbone and optimizer.
        evaluate: Rows per step of scoring, rows of a timed look-up.
        dataset: Dataset bundle.
        vocabulary: Vocabulary bundle, for the values' training counts.
        pretrained: Pre-trained bundle.
        checkpoints: Directory for resuming a killed training; None keeps none.
        out: Directory of the bundle.

    Raises:
        ConfigError: An unknown method, settings that it does not have or that do not go with these tables, a budget of
            less than a byte, or a device that is not on this machine.
        SpaceError: Dataset and pre-trained tables are of different vocabularies.
        DataError: A split lacks rows of a label.
    """
    with step(STEP, out) as record:
        data, vocabularies = EncodedDataset.open(dataset), Vocabularies.open(vocabulary)
        counts = {name: vocabularies.counts(name) for name, _ in data.layout.vocabularies}
        inputs = CellInputs(data, counts, open_bundle(pretrained, "pretrained"), train, evaluate)
        result = measure_cell(cell, inputs, checkpoints)
        parents: dict[str, Bundle] = {
            "dataset": data.bundle,
            "vocabulary": vocabularies.bundle,
            "pretrained": inputs.pretrained,
        }
        shared = {"train": train.model_dump(mode="json"), "evaluate": evaluate.model_dump(mode="json")}
        with write_bundle(out, KIND, parents=parents, config={"cell": cell.model_dump(mode="json"), **shared}) as draft:
            write_json(draft.path / CELL_FILE, result)
            draft.extra = {**cell.model_dump(include={"method", "budget", "seed"}), "backbone": train.model}
        clear_checkpoints(cell, inputs, checkpoints)
        record.summary = f"{cell.label}: {outcome(result)}"


def read_cell(bundle: Bundle) -> dict[str, Any]:
    """What ``measure_cell`` gave."""
    return bundle.json(CELL_FILE)


def outcome(result: dict[str, Any]) -> str:
    """One cell's result in a few words."""
    if result["status"] != "measured":
        return f"{result['status'].replace('_', ' ')}: {result['reason']}"
    return (
        f"test AUC {fmt.metric(result['auc'])} in {fmt.human_bytes(result['num_bytes'])} "
        f"({fmt.ratio(result['ratio'])} fewer)"
    )
