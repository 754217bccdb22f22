"""The files of the study: what cells share is made once, a cell is one JSON file, and nothing is there by half.

    WORK/data/TABLE-HASH/                   counts, vocabulary, dataset
    WORK/spaces/TABLE-SEED-HASH/            pretrained: the FM's tables, its out-of-fold tables among them
    WORK/cells/TABLE-METHOD-BUDGET-SEED-HASH.json

A hash is of all the settings behind what it names, and of nothing else: after a change of mec's code take a new WORK.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refresh_study.files import complete

from mec.bakeoff.cells import Cell
from mec.bundle import json_hash, read_json
from mec.config import RunConfig

if TYPE_CHECKING:
    from mec.bakeoff.measuring import CellInputs

Result = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One cell on one table, and where it and what it reads lie.

    Attributes:
        config: Of the table, with the backbone and optimizer of the cell; its ``seed`` splits the rows.
        cell: What is trained; its seed is the FM's too.
        work: The study's directory.
    """

    config: RunConfig
    cell: Cell
    work: Path

    @property
    def data(self) -> Path:
        """Directory of the encoded rows."""
        return self.work / "data" / f"{self.config.name}-{_short(self._data())}"

    @property
    def space(self) -> Path:
        """Directory of the FM's tables."""
        return self.work / "spaces" / f"{self.config.name}-{self.cell.seed}-{_short(self._space())}"

    @property
    def file(self) -> Path:
        """Where the result is kept."""
        cell = self.cell
        read = [self.config.train.model_dump(mode="json"), self.config.evaluate.model_dump(mode="json")]
        settings = [self._space(), cell.model_dump(mode="json"), *read]
        name = f"{self.config.name}-{cell.method}-{cell.budget.replace('%', 'pc')}-{cell.seed}"
        return self.work / "cells" / f"{name}-{_short(settings)}.json"

    def result(self) -> Result | None:
        """What ``mec.bakeoff.measuring.measure_cell`` gave; None before the cell was run."""
        return read_json(self.file) if self.file.exists() else None

    def inputs(self) -> CellInputs:
        """What all cells of the seed share; data and FM must be there."""
        from mec.bakeoff.measuring import CellInputs
        from mec.bundle import open_bundle
        from mec.data.dataset import EncodedDataset
        from mec.data.vocabulary import Vocabularies

        dataset = EncodedDataset.open(self.data / "dataset")
        vocabularies = Vocabularies.open(self.data / "vocabulary")
        counts = {name: vocabularies.counts(name) for name, _ in dataset.layout.vocabularies}
        pretrained = open_bundle(self.space / "pretrained", "pretrained")
        (train,) = self.config.train.each()
        return CellInputs(dataset, counts, pretrained, train, self.config.evaluate)

    def _data(self) -> list[Any]:
        parts = (self.config.data, self.config.count)
        return [*(part.model_dump(mode="json") for part in parts), self.config.seed]

    def _space(self) -> list[Any]:
        return [*self._data(), self.config.pretrain.model_dump(mode="json"), self.cell.seed]


def make_data(job: Job) -> str:
    """Count, make the vocabulary and encode, unless it was done."""
    from mec.data.counting import count_step
    from mec.data.encoding import encode_step
    from mec.data.vocabulary import vocabulary_step

    def make(out: Path) -> None:
        config = job.config
        count_step(data=config.data, count=config.count, seed=config.seed, out=out / "counts")
        vocabulary_step(counts=out / "counts", count=config.count, out=out / "vocabulary")
        encode_step(data=config.data, vocabulary=out / "vocabulary", seed=config.seed, out=out / "dataset")

    complete(job.data, make)
    return f"data of {job.config.name}"


def make_space(job: Job) -> str:
    """Pre-train the FM of a seed, unless it was done."""
    from mec.pretraining import pretrain_step

    def make(out: Path) -> None:
        pretrain_step(
            pretrain=job.config.pretrain,
            dataset=job.data / "dataset",
            vocabulary=job.data / "vocabulary",
            seed=job.cell.seed,
            checkpoints=None,
            out=out / "pretrained",
        )

    complete(job.space, make)
    return f"FM of {job.config.name}, seed {job.cell.seed}"


def make_cell(job: Job) -> str:
    """Train and measure a cell, unless it was done; the backbone's weights are not kept."""
    from mec.bakeoff.cell_step import outcome
    from mec.bakeoff.measuring import measure_cell

    if (result := job.result()) is None:
        result = measure_cell(job.cell, job.inputs(), None)
        write_whole(job.file, json.dumps(result, indent=1))
    return f"{job.config.name}, {job.cell.label}: {outcome(result)}"


def write_whole(file: Path, text: str) -> None:
    """Write a file aside and rename it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f"{file.name}.{os.getpid()}.part")
    draft.write_text(text, encoding="utf-8")
    draft.replace(file)


def _short(settings: Any) -> str:
    return json_hash(settings)[:12]
