"""The conformance check of methods that search: what a search may read, and what it must give back."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mec.bundle import open_bundle, write_bundle
from mec.checkpoints import Checkpoints
from mec.config import OptimizerConfig
from mec.ctr_model import CtrModel
from mec.data.dataset import Batch, EncodedDataset
from mec.data.shards import DatasetWriter
from mec.embeddings.method import Method
from mec.models import build_backbone
from mec.testing_method_data import LAYOUT, every_id, inputs, planted

if TYPE_CHECKING:
    from mec.testing_methods import Maker

NUM_ROWS = {"train": 2400, "valid": 800, "test": 100}
OPTIMIZER = OptimizerConfig(batch_size=128, learning_rate=0.02)


class TestReadError(AssertionError):
    """A search asked for test rows."""

    __test__ = False


class WithoutTest(EncodedDataset):
    """Refuses to give test rows."""

    def batches(
        self, split: str, batch_size: int, *, seed: int | None = None, epoch: int = 0, shuffle_rows: int = 2_000_000
    ) -> Iterator[Batch]:
        """See ``EncodedDataset.batches``."""
        if split == "test":
            raise TestReadError
        return super().batches(split, batch_size, seed=seed, epoch=epoch, shuffle_rows=shuffle_rows)


def planted_dataset(directory: Path) -> EncodedDataset:
    """The planted rows as a dataset bundle, whose test split cannot be read."""
    ids, label = planted(sum(NUM_ROWS.values()))
    with write_bundle(directory, "dataset") as draft:
        with DatasetWriter(draft.path, LAYOUT) as writer:
            start = 0
            for split, num_rows in NUM_ROWS.items():
                rows = slice(start, start + num_rows)
                writer.append(split, ids[rows].astype(np.uint32), label[rows].astype(np.uint8))
                start += num_rows
        draft.extra = writer.extra()
    return WithoutTest(open_bundle(directory, "dataset"))


def search_problems(make: Maker, checks: tuple[Callable[[Maker], Iterator[str]], ...]) -> Iterator[str]:
    """What is wrong with a method's search; nothing for one that has none.

    Args:
        make: Builds the method.
        checks: Other checks that what was found must pass too.
    """
    if make.cls.search is Method.search:
        return
    own = inputs()
    with tempfile.TemporaryDirectory() as root:
        dataset = planted_dataset(Path(root) / "dataset")

        def searched(checkpoints: Checkpoints | None) -> Method[Any]:
            method = make(own)
            backbone = build_backbone("fm", LAYOUT.num_fields, method.embedding_dim, {})
            found: Method[Any] = method.search(CtrModel(LAYOUT, method, backbone), dataset, OPTIMIZER, checkpoints)
            return found

        kept = Checkpoints(Path(root) / "work", "search", make.cls.name)
        with redirect_stdout(io.StringIO()):  # progress of searches that nobody waits for
            try:
                found = searched(kept)
            except TestReadError:
                yield "the search reads the test split"
                return
            again = {"repeated": searched(None), "resumed at its end": searched(kept)}
    if not isinstance(found, make.cls):
        yield f"the search gave a {type(found).__name__}"
        return
    for how, other in again.items():
        if other.settings != found.settings:
            yield f"the search found other settings when it was {how}: {found.settings} and {other.settings}"
    with torch.no_grad():
        if not torch.equal(found.eval()(every_id()), make(own, found.settings).eval()(every_id())):
            yield "the search gave a method that is not freshly initialised from its settings"
    for check in checks:
        for problem in check(type(make)(make.cls, found.settings)):
            yield f"after the search, {problem}"
