"""Bytes a server must hold: of the compressed tables by part and by vocabulary, and of the full ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from mec.data.layout import FieldLayout

if TYPE_CHECKING:
    from mec.quantize.plan import VocabularyPlan

FLOAT_BYTES = 4
ID_BYTES = 4
PART_NAMES = {"codes": "codes", "codebooks": "codebooks", "rows": "exact rows", "index": "index", "other": "other"}
PARTS = tuple(PART_NAMES)


class Column(Protocol):
    """An Arrow array, as far as its bytes go."""

    @property
    def nbytes(self) -> int: ...

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class VocabularyBytes:
    """Bytes of one vocabulary's table, first-order weights included."""

    vocabulary: str
    size: int  # V
    full: int
    codes: int
    codebooks: int
    rows: int  # exact vectors: all, or the head's
    shape: str = ""  # of the codes, such as "residual 1x64"; empty where all rows are exact
    head: int = 0  # values with exact vectors beside coded ones
    tail: int = 0  # values that share the code of rare ones

    def to_json(self) -> dict[str, Any]:
        return dict(self.__dict__)


def full_bytes(layout: FieldLayout, embedding_dim: int) -> int:
    """Bytes of all full tables: V vectors of D floats and a first-order weight, fp32, per vocabulary."""
    return layout.num_values * (embedding_dim + 1) * FLOAT_BYTES


def vocabulary_bytes(
    layout: FieldLayout, embedding_dim: int, plans: Mapping[str, VocabularyPlan], float_bytes: int
) -> list[VocabularyBytes]:
    """Where the bytes go, largest full table first.

    Args:
        layout: Vocabularies and their sizes.
        embedding_dim: D.
        plans: How vocabularies are coded; others are exact.
        float_bytes: Bytes per stored float of codewords and exact rows.
    """
    result = []
    width = embedding_dim + 1
    for name, size in layout.vocabularies:
        full, plan = size * width * FLOAT_BYTES, plans.get(name)
        if plan is None:
            result.append(VocabularyBytes(name, size, full, 0, 0, size * width * float_bytes))
            continue
        shape = f"{plan.structure} {plan.num_codes}x{plan.num_codewords}"
        tail = size - plan.head - plan.coded(size)
        parts = plan.serving_bytes(size, width, float_bytes)
        result.append(VocabularyBytes(name, size, full, **parts, shape=shape, head=plan.head, tail=tail))
    return sorted(result, key=lambda v: (-v.full, v.vocabulary))


def value_map_bytes(values: Mapping[str, Column]) -> int:
    """Estimate of the value -> id maps: Arrow bytes of every vocabulary's values and 4 per id.

    A full table needs the same maps, so they stand beside the ratio and not in it. A hash map in a
    server takes more, by its load factor and pointers.

    Args:
        values: Vocabulary -> its values, an Arrow array (V,).
    """
    return sum(column.nbytes + ID_BYTES * len(column) for column in values.values())
