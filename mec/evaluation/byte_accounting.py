"""Bytes a server must hold: of the compressed tables by part and by vocabulary, and of the full ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from mec.data.layout import FieldLayout

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
    rows: int  # exact vectors

    def to_json(self) -> dict[str, Any]:
        return dict(self.__dict__)


def full_bytes(layout: FieldLayout, embedding_dim: int) -> int:
    """Bytes of all full tables: V vectors of D floats and a first-order weight, fp32, per vocabulary."""
    return layout.num_values * (embedding_dim + 1) * FLOAT_BYTES


def vocabulary_bytes(
    layout: FieldLayout, embedding_dim: int, structure: str, coded: Mapping[str, Mapping[str, Any]]
) -> list[VocabularyBytes]:
    """Where the bytes go, largest full table first.

    Args:
        layout: Vocabularies and their sizes.
        embedding_dim: D.
        structure: ``residual`` (M codebooks of width D + 1) or ``product`` (M that share the width).
        coded: Vocabulary -> its ``num_codes``, ``num_codewords`` and ``bits_per_code``; others are exact.
    """
    result = []
    row_bytes = (embedding_dim + 1) * FLOAT_BYTES
    for name, size in layout.vocabularies:
        facts = coded.get(name)
        if facts is None:
            result.append(VocabularyBytes(name, size, size * row_bytes, 0, 0, size * row_bytes))
            continue
        num_codes, num_codewords = int(facts["num_codes"]), int(facts["num_codewords"])
        code_bytes = (size * num_codes * int(facts["bits_per_code"]) + 7) // 8
        codebook_bytes = num_codewords * row_bytes * (num_codes if structure == "residual" else 1)
        result.append(VocabularyBytes(name, size, size * row_bytes, code_bytes, codebook_bytes, 0))
    return sorted(result, key=lambda v: (-v.full, v.vocabulary))


def value_map_bytes(values: Mapping[str, Column]) -> int:
    """Estimate of the value -> id maps: Arrow bytes of every vocabulary's values and 4 per id.

    A full table needs the same maps, so they stand beside the ratio and not in it. A hash map in a
    server takes more, by its load factor and pointers.

    Args:
        values: Vocabulary -> its values, an Arrow array (V,).
    """
    return sum(column.nbytes + ID_BYTES * len(column) for column in values.values())
