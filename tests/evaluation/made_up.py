"""A made-up evaluation, with and without a reference."""

from __future__ import annotations

from typing import Any

import numpy as np

from mec.data.layout import FieldLayout, FieldSlots
from mec.evaluation.byte_accounting import PARTS, full_bytes, vocabulary_bytes
from mec.evaluation.measuring import Logits, evaluate_predictions
from mec.evaluation.metrics import sigmoid
from mec.evaluation.slices import RAREST_CODED, Slicing
from mec.quantize.plan import VocabularyPlan


def _predictions(num_rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    truth = rng.normal(-1, 1.5, num_rows)
    labels = (rng.random(num_rows) < sigmoid(truth)).astype(np.uint8)
    noisy = [(1.4 * truth + rng.normal(0, s, num_rows) + 0.5).astype(np.float32) for s in (0.8, 1.2)]
    return labels, noisy[0], noisy[1]


def make_evaluation(
    *, reference: bool = True, one_class: bool = False, names: tuple[str, ...] = ("item", "user")
) -> dict[str, Any]:
    """What ``evaluation.json`` holds; ``one_class`` leaves the unseen slice without positives."""
    num_rows = 3000
    labels, logits, full = _predictions(2 * num_rows)
    cut = np.random.default_rng(1).choice(4, num_rows, p=[0.05, 0.25, 0.4, 0.3]).astype(np.uint8)
    valid, test = labels[:num_rows], labels[num_rows:]
    if one_class:
        test = np.where(cut == 0, 0, test).astype(np.uint8)
    evaluation = evaluate_predictions(
        valid_labels=valid,
        test_labels=test,
        compressed=Logits(logits[:num_rows], logits[num_rows:]),
        full=Logits(full[:num_rows], full[num_rows:]) if reference else None,
        slicings=[Slicing(RAREST_CODED, names, cut), Slicing(names[0], names[:1], np.maximum(cut, 1))],
    )
    sizes = [(name, 20_000 // (index + 1) ** 3 + 2) for index, name in enumerate(names)]
    fields = tuple(FieldSlots(name, "categorical", name, slot, 1, "none") for slot, name in enumerate(names))
    layout = FieldLayout(fields, tuple(sizes))
    plans = {name: VocabularyPlan("residual", 1, 64) for name, size in sizes if size > 1000}
    vocabularies = vocabulary_bytes(layout, 16, plans, 4)
    parts = {part: sum(v.to_json().get(part, 0) for v in vocabularies) for part in PARTS}
    full_size = full_bytes(layout, 16)
    side = {"compressed_ms": 4.1234, "compressed_ms_low": 4.0, "compressed_ms_high": 4.5}
    return evaluation | {
        "backbone": "deepfm",
        "compression": "residual 1x64 codes",
        "embedding_dim": 16,
        "full_bytes": full_size,
        "bytes": parts,
        "ratio": full_size / sum(parts.values()),
        "value_map_bytes": 123_456,
        "bytes_by_vocabulary": [v.to_json() for v in vocabularies],
        "latency": {"rows": 10_000, "slots": 2, "repeats": 21, "threads": 1, "ratio": 1.3177}
        | side
        | {key.replace("compressed", "full"): value - 1 for key, value in side.items()},
    }
