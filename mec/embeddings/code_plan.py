"""How the values of one vocabulary are held as codes: a head and the rest, each with M and K of its own, or exact rows.

    bytes = sum over groups ceil(V_g M_g b_g / 8) + sum over codebooks K (D + 1) floats
            + k (D + 1) floats of an exact head + 4 k of its index where ids are not in order of count

b = ceil(log2 K) bits per code. A group may use the first K' codewords of another one's codebook; then b is that of K'.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from mec.embeddings.head import index_bytes, places
from mec.quantize.packing import MAX_BITS, bits_per_code, gather_codes, packed_bytes
from mec.quantize.product import join_parts

NumCodes = Annotated[int, Field(ge=1, le=64)]  # M
NumCodewords = Annotated[int, Field(ge=2, le=1 << MAX_BITS)]  # K


@dataclass(frozen=True)
class Coding:
    """How one group of values is coded.

    Attributes:
        num_codes: M.
        num_codewords: K, the first so many of its codebook.
        book: Which codebook.
    """

    num_codes: int
    num_codewords: int
    book: int = 0

    @property
    def bits(self) -> int:
        """b, per code."""
        return bits_per_code(self.num_codewords)


@dataclass(frozen=True)
class CodePlan:
    """The groups of one vocabulary.

    Attributes:
        head: k, the most frequent values, a group of their own; 0 for none.
        head_coding: Of the head; None: exact rows.
        rest_coding: Of all other values, id 0 among them.
    """

    head: int
    head_coding: Coding | None
    rest_coding: Coding

    @property
    def codings(self) -> dict[str, Coding]:
        """Group -> coding, of those that are coded and have values."""
        head = {"head": self.head_coding} if self.head and self.head_coding is not None else {}
        return head | {"rest": self.rest_coding}

    @property
    def books(self) -> dict[int, int]:
        """Codebook -> K, its codewords."""
        result: dict[int, int] = {}
        for coding in self.codings.values():
            result[coding.book] = max(result.get(coding.book, 0), coding.num_codewords)
        return result

    def num_bytes(self, counts: NDArray[np.int64], width: int, float_bytes: int) -> dict[str, int]:
        """Bytes by part.

        Args:
            counts: (V,) by id.
            width: D + 1.
            float_bytes: Per stored float.
        """
        values = {"head": self.head, "rest": len(counts) - self.head}
        codes = sum(packed_bytes(values[name], c.num_codes, c.bits) for name, c in self.codings.items())
        rows = self.head if self.head_coding is None else 0
        return {
            "codes": codes,
            "codebooks": sum(self.books.values()) * width * float_bytes,
            "rows": rows * width * float_bytes,
            "index": index_bytes(counts, self.head),
        }

    def rest_places(self, ids: Tensor, index: Tensor | None) -> Tensor:
        """Where values of the rest stand among the rest.

        Args:
            ids: (N,) int64.
            index: (k,) int32 ids of the head, rising; None where they are 1 to k.

        Returns:
            (N,) int64: the id less the number of head ids below it; undefined for values of the head.
        """
        if not self.head:
            return ids
        below = (ids - 1).clamp(0, self.head) if index is None else torch.searchsorted(index, ids.to(index.dtype))
        return ids - below

    def rows(self, arrays: Mapping[str, Tensor], ids: Tensor) -> Tensor:
        """Decode.

        Args:
            arrays: ``codes_head`` and ``codes_rest`` as packed, ``codewords_N`` (K, D + 1), ``rows`` (k, D + 1) of an
                exact head, ``index`` (k,) of the head; those that the plan has.
            ids: (N,) int64.

        Returns:
            (N, D + 1) float32.
        """
        if not self.head:
            return self._decode("rest", self.rest_coding, arrays, ids)
        place = places(ids, self.head, arrays.get("index"))
        in_head, rest = (place >= 0).nonzero()[:, 0], (place < 0).nonzero()[:, 0]
        rest_rows = self._decode("rest", self.rest_coding, arrays, self.rest_places(ids[rest], arrays.get("index")))
        if self.head_coding is None:
            head_rows = functional.embedding(place[in_head], arrays["rows"]).float()
        else:
            head_rows = self._decode("head", self.head_coding, arrays, place[in_head])
        result = rest_rows.new_empty(len(ids), rest_rows.shape[1])
        return result.index_copy_(0, rest, rest_rows).index_copy_(0, in_head, head_rows)

    @staticmethod
    def _decode(group: str, coding: Coding, arrays: Mapping[str, Tensor], place: Tensor) -> Tensor:
        codes = gather_codes(arrays[f"codes_{group}"], place, coding.num_codes, coding.bits)
        return join_parts(arrays[f"codewords_{coding.book}"], codes).float()

    def to_json(self) -> dict[str, Any]:
        """A fact of an export."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> CodePlan:
        """What ``to_json`` gave."""
        head = value["head_coding"]
        return cls(value["head"], None if head is None else Coding(**head), Coding(**value["rest_coding"]))


def num_code_sizes(num_codewords: int, embedding_dim: int) -> int:
    """How many sizes ``codes_of_size`` knows: bits of K, then D more codes."""
    return bits_per_code(num_codewords) + embedding_dim


def codes_of_size(size: int, num_codewords: int) -> tuple[int, int]:
    """M and K of the size'th size, from 1: one code of ``size`` bits, or of all K codewords and then more codes."""
    more = size - bits_per_code(num_codewords)
    return (1, 1 << size) if more < 0 else (1 + more, num_codewords)
