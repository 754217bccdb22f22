"""Codes of out-of-fold rows: what a backbone is trained on in place of the codes that are served.

They live in memory only, and only while a backbone is trained: a server never holds them, so they count no bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mec.fold_training import FoldTables
from mec.progress import Progress
from mec.quantize.codes import Codes
from mec.quantize.coding import shared_row
from mec.quantize.packing import pack
from mec.quantize.storage import stored
from mec.quantize.weights import Weighting, popularity_weights

_CHUNK_ROWS = 65_536


@dataclass(frozen=True)
class FoldCodes:
    """One generation of codes for each fold, fold after fold.

    Attributes:
        num: Folds.
        packed: Vocabulary -> uint8 bit stream of ``num`` times the values that are served with a code of their own.
        head: Vocabulary -> (num * H, D + 1) exact rows of ids 1 to H; where H is above 0.
        exact: Vocabulary -> (num * V, D + 1) rows of vocabularies without codes.
    """

    num: int
    packed: Mapping[str, NDArray[np.uint8]]
    head: Mapping[str, Tensor]
    exact: Mapping[str, Tensor]


def code_folds(folds: FoldTables, codes: Codes, weighting: Weighting) -> FoldCodes:
    """Code out-of-fold rows by the codebooks, heads and tails that are served.

    Args:
        folds: Out-of-fold tables of the space.
        codes: The codes that are served.
        weighting: Of the mean that a shared tail is coded by.

    Raises:
        BundleError: A fold has no table of a vocabulary, or one of another size.
        ConfigError: A head or exact row that cannot be stored as the codebook stores floats.
    """
    books, num = codes.codebooks, folds.folds.num
    progress = Progress("train", num * books.layout.num_values)
    packed: dict[str, NDArray[np.uint8]] = {}
    head: dict[str, Tensor] = {}
    exact: dict[str, Tensor] = {}
    for name, size in books.layout.vocabularies:
        tables, what = (folds.rows(fold, name) for fold in range(num)), f"an out-of-fold row of vocabulary {name!r}"
        if name in books.exact:
            exact[name] = torch.cat([stored(rows, books.floats, what) for rows in tables])
            progress.update(num * size, f"{name}: out-of-fold rows")
            continue
        plan = codes.plan(name)
        coded = plan.coded(size)
        streams = np.empty((num, coded, plan.num_codes), dtype=np.uint16)
        heads = []
        for fold, rows in enumerate(tables):
            weights = torch.from_numpy(popularity_weights(folds.counts(fold, name), weighting))
            end = plan.head + coded
            shared = shared_row(rows[:1], weights[:1], rows[end:], weights[end:])[0]
            heads.append(stored(rows[1 : 1 + plan.head].clone(), books.floats, what))
            rows[plan.head] = shared
            for start in range(0, coded, _CHUNK_ROWS):
                stop = min(start + _CHUNK_ROWS, coded)
                streams[fold, start:stop] = books.encode(name, rows[plan.head + start : plan.head + stop]).numpy()
            progress.update(size, f"{name}: out-of-fold codes")
        packed[name] = pack(streams.reshape(num * coded, plan.num_codes), plan.bits)
        if plan.head:
            head[name] = torch.cat(heads)
    return FoldCodes(num, packed, head, exact)
