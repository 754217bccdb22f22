"""Speed of FM pre-training: rows per second, and that a step's time does not grow with the vocabulary.

    python benchmarks/training_speed.py

8 fields, D 16, batch 8,192, Zipf(1.05) values, one thread. All trials are timed in turns in one run, so that
ratios hold when the machine's speed drifts. Targets: at least 300,000 rows/s with 50,000 values, and a step with
5,000,000 values at most 1.3 times as long. A Zipf batch of the larger vocabulary touches about twice as many
different rows; "scattered" has the small trial's batches spread over the large table, so only its size differs.

Result (2026-11-21, two EPYC cores, load 1):

    small                50,000 values:  13.3 ms a step, 616,056 rows/s, 15,373 table rows a batch, 1.00
    large             5,000,000 values:  18.4 ms a step, 446,037 rows/s, 29,440 table rows a batch, 1.38 (1.25 to 2.10)
    large, scattered  5,000,000 values:  15.7 ms a step, 523,444 rows/s, 15,373 table rows a batch, 1.17 (1.06 to 1.29)

The size of the table alone costs 1.17. The rest of the 1.38 is the longer tail: twice the rows are gathered, updated
and scattered, each a cache miss.
"""

from __future__ import annotations

import statistics
import time

import numpy as np
import torch

from mec.ctr_model import CtrModel
from mec.data.dataset import Batch
from mec.data.layout import FieldLayout, FieldSlots
from mec.embeddings.full import FullEmbedding
from mec.models import build_backbone
from mec.optimizer import CtrOptimizer
from mec.training import train_batch

NUM_FIELDS, EMBEDDING_DIM, BATCH_SIZE, ZIPF = 8, 16, 8192, 1.05
SMALL, LARGE = 50_000, 5_000_000
WARMUP_STEPS, ROUNDS, STEPS_PER_ROUND = 20, 12, 10


class Trial:
    """One FM of a given vocabulary size, and batches to train it on."""

    def __init__(self, num_values: int, *, scatter_to: int | None = None) -> None:
        rng = np.random.default_rng(0)
        size = num_values // NUM_FIELDS
        popularity = np.cumsum(np.arange(1, size + 1.0) ** -ZIPF)
        draws = rng.random((STEPS_PER_ROUND, BATCH_SIZE, NUM_FIELDS)) * popularity[-1]
        ids = np.searchsorted(popularity, draws).astype(np.int32)
        if scatter_to is not None:
            size = scatter_to // NUM_FIELDS
            ids = rng.permutation(size).astype(np.int32)[ids]
        fields = tuple(FieldSlots(f"f{i}", "categorical", f"f{i}", i, 1, "none") for i in range(NUM_FIELDS))
        layout = FieldLayout(fields, tuple((f.name, size) for f in fields))
        self.num_rows_touched = statistics.mean(sum(len(np.unique(b[:, f])) for f in range(NUM_FIELDS)) for b in ids)
        labels = (rng.random((STEPS_PER_ROUND, BATCH_SIZE)) < 0.3).astype(np.float32)
        self.batches = [Batch(i, None, y) for i, y in zip(ids, labels, strict=True)]
        self.num_values = layout.num_values
        embedding = FullEmbedding(layout, EMBEDDING_DIM)
        embedding.initialise(torch.Generator().manual_seed(0), 0.01)
        self.model = CtrModel(layout, embedding, build_backbone("fm", NUM_FIELDS, EMBEDDING_DIM, {}))
        self.optimizer = CtrOptimizer(self.model, 2e-3)
        self.model.train()
        self.step = 0

    def run(self, num_steps: int) -> list[float]:
        """Seconds of each step."""
        seconds = []
        for _ in range(num_steps):
            self.step += 1
            batch = self.batches[self.step % STEPS_PER_ROUND]
            start = time.perf_counter()
            train_batch(self.model, self.optimizer, batch, 0.02, torch.device("cpu"), self.step)
            seconds.append(time.perf_counter() - start)
        return seconds


def main() -> None:
    torch.set_num_threads(1)
    trials = {"small": Trial(SMALL), "large": Trial(LARGE), "large, scattered": Trial(SMALL, scatter_to=LARGE)}
    for trial in trials.values():
        trial.run(WARMUP_STEPS)
    seconds: dict[str, list[float]] = {name: [] for name in trials}
    for _ in range(ROUNDS):
        for name, trial in trials.items():
            seconds[name].append(statistics.median(trial.run(STEPS_PER_ROUND)))
    for name, trial in trials.items():
        median = statistics.median(seconds[name])
        ratios = sorted(a / b for a, b in zip(seconds[name], seconds["small"], strict=True))
        print(
            f"{name:17} {trial.num_values:>9,} values: {1e3 * median:5.1f} ms a step, "
            f"{BATCH_SIZE / median:7,.0f} rows/s, "
            f"{trial.num_rows_touched:6,.0f} table rows a batch, {statistics.median(ratios):.2f} times the small "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f})"
        )


if __name__ == "__main__":
    main()
