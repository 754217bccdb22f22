"""What a refresh moved: new values, and how far known values' decoded vectors went, per vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mec.data.layout import OOV_ID
from mec.data.vocabulary import Vocabularies
from mec.embeddings.coded import CodedEmbedding
from mec.refresh.drift import ReadVectors, decoded_drift
from mec.refresh.vocabulary import new_counts


def drift_facts(
    old: CodedEmbedding,
    new: CodedEmbedding,
    vocabularies: Vocabularies,
    old_counts: Mapping[str, NDArray[np.int64]],
) -> dict[str, dict[str, Any]]:
    """Compare two generations, vocabulary by vocabulary.

    Args:
        old: Decoder of the generation in service.
        new: Of the next one.
        vocabularies: Extended.
        old_counts: Vocabulary -> (V,) counts of the rows before the new ones; they slice and weight the known values.

    Returns:
        Vocabulary -> ``num_values``, ``new_values``, ``new_share`` of the values, ``new_impressions`` as share of
        those of the new training rows, ``unknown_impressions``, the share of id 0, and ``by_popularity``, see
        ``mec.refresh.drift``.
    """
    facts = {}
    for name, _ in new.layout.vocabularies:
        size, before = new.size(name), old.size(name)
        counts = new_counts(vocabularies, name)
        impressions = max(int(counts.sum()), 1)
        drift = decoded_drift(_reader(old, name), _reader(new, name), old_counts[name][:before])
        facts[name] = {
            "num_values": size,
            "new_values": size - before,
            "new_share": (size - before) / size,
            "new_impressions": int(counts[before:].sum()) / impressions,
            "unknown_impressions": int(counts[OOV_ID]) / impressions,
            "by_popularity": {slice_name: moved.to_json() for slice_name, moved in drift.items()},
        }
    return facts


def _reader(embedding: CodedEmbedding, name: str) -> ReadVectors:
    @torch.no_grad()
    def read(start: int, stop: int) -> Tensor:
        return embedding.rows(name, torch.arange(start, stop, dtype=torch.int32))

    return read
