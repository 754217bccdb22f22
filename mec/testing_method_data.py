"""Inputs of the conformance checks of compression methods: small, Zipf-distributed, with planted weights."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mec.data.layout import FieldLayout, FieldSlots
from mec.embeddings.method import MethodInputs

D = 6
LARGE = {"user": 700, "item": 500}
LAYOUT = FieldLayout(  # slots of a vocabulary that are apart, a small one between large ones, a sequence
    fields=(
        FieldSlots("user", "categorical", "user", 0, 1, "none"),
        FieldSlots("item", "categorical", "item", 1, 1, "none"),
        FieldSlots("colour", "categorical", "colour", 2, 1, "none"),
        FieldSlots("last", "sequence", "item", 3, 2, "mean"),
    ),
    vocabularies=(("user", 700), ("colour", 7), ("item", 500)),
)
SLOTS = ("user", "item", "colour", "item", "item")


def inputs(*, in_order: bool = True, unknown: int = 2) -> MethodInputs:
    """Two large vocabularies and a small one; Zipf counts, some values not in training; planted pre-trained rows.

    Args:
        in_order: Whether ids are in order of count.
        unknown: Count of id 0.
    """
    counts = {}
    for name, size in LAYOUT.vocabularies:
        falling = (2000 / np.arange(1, size)).astype(np.int64) - 3
        rest = falling.clip(0) if in_order else np.random.default_rng(size).permutation(falling.clip(0))
        counts[name] = np.concatenate([[unknown], rest])
    pretrained = {}
    for name, size in LAYOUT.vocabularies:
        vectors = 0.1 * torch.randn(size, D, generator=torch.Generator().manual_seed(size))
        pretrained[name] = torch.cat([2 * torch.from_numpy(hidden(name))[:, None], vectors], dim=1)
    return MethodInputs(LAYOUT, D, counts, pretrained, seed=0)


def every_id() -> Tensor:
    """(700, S) int32, in which each slot has every id of its vocabulary."""
    columns = [torch.arange(700) % LAYOUT.size(name) for name in SLOTS]
    return torch.stack(columns, dim=1).int()


def planted(num_rows: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """(N, S) ids, Zipf-distributed, and (N,) labels whose log-odds are 3 times the hidden signs of user and item."""
    rng, counts = np.random.default_rng(3), inputs().counts
    ids = np.stack([rng.choice(len(counts[n]), num_rows, p=counts[n] / counts[n].sum()) for n in SLOTS], axis=1)
    odds = 3 * (hidden("user")[ids[:, 0]] + hidden("item")[ids[:, 1]])
    label = rng.random(num_rows) < 1 / (1 + np.exp(-odds))
    return ids.astype(np.int32), label.astype(np.float32)


def hidden(vocabulary: str) -> NDArray[np.float32]:
    """(V,) hidden weights of a vocabulary's values: signs for a large one, 0 for a small one."""
    signs = np.random.default_rng(len(vocabulary)).integers(0, 2, LAYOUT.size(vocabulary))
    return (2.0 * signs - 1).astype(np.float32) * np.float32(vocabulary in LARGE)
