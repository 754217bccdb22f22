"""Speed of FM pre-training: rows per second, and that a step's time does not grow with the vocabulary.

    python benchmarks/training_speed.py

8 fields, D 16, batch 8,192, Zipf(1.05) values, one thread. Both sizes are timed in turns in one run, so
that the ratio holds when the machine's speed drifts. Targets: at least 300,000 rows/s with 50,000 values,
and a step with 5,000,000 values at most 1.3 times as long.

Result: RESULT_PENDING
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
SIZES = (50_000, 5_000_000)
WARMUP_STEPS, ROUNDS, STEPS_PER_ROUND = 20, 12, 10


class Trial:
    """One FM of a given vocabulary size, and batches to train it on."""

    def __init__(self, num_values: int) -> None:
        rng = np.random.default_rng(0)
        size = num_values // NUM_FIELDS
        fields = tuple(FieldSlots(f"f{i}", "categorical", f"f{i}", i, 1, "none") for i in range(NUM_FIELDS))
        layout = FieldLayout(fields, tuple((f.name, size) for f in fields))
        popularity = np.cumsum(np.arange(1, size + 1.0) ** -ZIPF)
        draws = rng.random((STEPS_PER_ROUND, BATCH_SIZE, NUM_FIELDS)) * popularity[-1]
        ids = np.searchsorted(popularity, draws).astype(np.int32)
        self.num_rows_touched = statistics.mean(sum(len(np.unique(b[:, f])) for f in range(NUM_FIELDS)) for b in ids)
        labels = (rng.random((STEPS_PER_ROUND, BATCH_SIZE)) < 0.3).astype(np.float32)
        self.batches = [Batch(i, None, y) for i, y in zip(ids, labels, strict=True)]
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
    trials = {size: Trial(size) for size in SIZES}
    for trial in trials.values():
        trial.run(WARMUP_STEPS)
    seconds: dict[int, list[float]] = {size: [] for size in SIZES}
    for _ in range(ROUNDS):
        for size, trial in trials.items():
            seconds[size].append(statistics.median(trial.run(STEPS_PER_ROUND)))
    for size in SIZES:
        median = statistics.median(seconds[size])
        rows = trials[size].num_rows_touched
        print(
            f"{size:>9,} values: {1e3 * median:.1f} ms a step, {BATCH_SIZE / median:,.0f} rows/s, "
            f"{rows:,.0f} table rows a batch"
        )
    ratios = sorted(large / small for small, large in zip(*seconds.values(), strict=True))
    print(
        f"ratio of step times, round by round: median {statistics.median(ratios):.2f}, "
        f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
    )


if __name__ == "__main__":
    main()
