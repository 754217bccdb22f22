"""How encoded rows map to fields: slots, vocabularies and pooling.

Shape legend of the project: B batch, F fields, S slots, D dimension, M codes per value,
K codewords per codebook, V values in a vocabulary (id 0, out of vocabulary, included).

A categorical or numeric field fills one slot; a sequence field fills ``max_length`` slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

OOV_ID = 0
PAD_ID = 0xFFFFFFFF  # an empty slot of a sequence field, uint32


@dataclass(frozen=True)
class FieldSlots:
    """One field: where its ids stand and which table they index."""

    name: str
    kind: Literal["categorical", "bucketed", "linear", "sequence"]
    vocabulary: str
    first_slot: int
    num_slots: int
    pooling: Literal["none", "mean", "sum"]


@dataclass(frozen=True)
class FieldLayout:
    """Fields in order, and the vocabularies that they index."""

    fields: tuple[FieldSlots, ...]
    vocabularies: tuple[tuple[str, int], ...]  # (name, V), id 0 included; order fixes table offsets

    @property
    def num_fields(self) -> int:
        return len(self.fields)

    @property
    def num_slots(self) -> int:
        return sum(f.num_slots for f in self.fields)

    @property
    def num_values(self) -> int:
        """Rows of all tables together."""
        return sum(size for _, size in self.vocabularies)

    @property
    def is_plain(self) -> bool:
        """Whether every field is one slot of weight 1, so slots are fields."""
        return all(f.kind in ("categorical", "bucketed") for f in self.fields)

    @property
    def linear_fields(self) -> tuple[FieldSlots, ...]:
        """Fields that carry a float beside their id, in the order of the ``numerics`` columns."""
        return tuple(f for f in self.fields if f.kind == "linear")

    def size(self, vocabulary: str) -> int:
        """V of one vocabulary."""
        return dict(self.vocabularies)[vocabulary]

    def offsets(self) -> dict[str, int]:
        """First row of each vocabulary in one table that stacks them all, in order."""
        result, offset = {}, 0
        for name, size in self.vocabularies:
            result[name] = offset
            offset += size
        return result

    def slot_offsets(self) -> NDArray[np.int64]:
        """(S,) offset to add to each slot's id to index the stacked table."""
        offsets = self.offsets()
        return np.array([offsets[f.vocabulary] for f in self.fields for _ in range(f.num_slots)], dtype=np.int64)

    def slot_weights(self, filled: NDArray[np.bool_], numerics: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """What slots' rows are multiplied by before pooling, in training and in serving.

        Args:
            filled: (B, S) whether a slot holds a value.
            numerics: (B,) standardised numbers of each linear field, in the order of ``linear_fields``.

        Returns:
            (B, S): 0 in empty slots, 1 over the list's length under mean pooling, a linear field's number, else 1.
        """
        weights = filled.astype(np.float32)
        for field in self.fields:
            if field.pooling == "mean":
                slots = slice(field.first_slot, field.first_slot + field.num_slots)
                weights[:, slots] /= np.maximum(filled[:, slots].sum(axis=1, keepdims=True), 1)
        for field, numbers in zip(self.linear_fields, numerics, strict=True):
            weights[:, field.first_slot] = numbers
        return weights

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> FieldLayout:
        return cls(
            fields=tuple(FieldSlots(**f) for f in value["fields"]),
            vocabularies=tuple((str(n), int(v)) for n, v in value["vocabularies"]),
        )
