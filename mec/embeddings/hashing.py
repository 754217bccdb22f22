"""Hashing, and frequency-based double hashing.

hashing (Weinberger et al., "Feature hashing for large scale multitask learning", ICML 2009): e(x) = E[h(x)], salted per
vocabulary. Bytes: R (D + 1) floats per vocabulary, R = ceil(rows_share V).

double_hashing (Zhang et al., "Model size reduction using frequency based double hashing for recommender systems",
RecSys 2020): of the R rows, ``head`` are own rows of the most frequent values; every other value has B buckets and

    num_hashes 1: E[h1(x)]                       (the paper's frequency hashing)
    num_hashes 2: E[h1(x)] + E[h2(x)]            (combine: add)
                  [E[h1(x)] left, E[h2(x)] right] (combine: concat: each hash gives one half of the D + 1 columns)

Bytes: R (D + 1) floats per vocabulary, and 4 per head row where ids are not in order of count. Row 0 is id 0's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from mec.embeddings.exact_rows import draw
from mec.embeddings.export import Array
from mec.embeddings.full import RowSparseTable
from mec.embeddings.hash_functions import bucket
from mec.embeddings.head import head_ids, index_bytes, places
from mec.embeddings.method import METHODS, MethodInputs, with_settings
from mec.embeddings.sizing import share_of
from mec.embeddings.table_method import Table, TableMethod, TableSettings

Combine = Literal["add", "concat"]


class HashingSettings(TableSettings):
    """Settings of hashing."""

    rows_share: float = Field(0.1, gt=0, le=1, description="rows as a share of the vocabulary's values, two at least")


class DoubleHashingSettings(TableSettings):
    """Settings of double hashing."""

    rows_share: float = Field(0.1, gt=0, le=1, description="rows as a share of the vocabulary's values, two at least")
    head: float = Field(
        0.5, ge=0, lt=1, description="share of these rows that the most frequent values have for themselves"
    )
    num_hashes: Literal[1, 2] = Field(2, description="hash functions of all other values; 1 is frequency hashing")
    combine: Combine = Field("add", description="rows of two hashes: added, or half the columns of each")

    @model_validator(mode="after")
    def _combine_needs_two(self) -> Self:
        if self.num_hashes == 1:
            self.refuse_without_effect(["combine"], "with num_hashes=1")
        return self


@dataclass(frozen=True)
class HashShape:
    """Rows of one hashed table: id 0's, k of the head, B buckets.

    Attributes:
        head: k.
        buckets: B.
        salts: One per hash function.
        combine: How two rows become one.
    """

    head: int
    buckets: int
    salts: tuple[int, ...]
    combine: Combine = "add"

    @property
    def num_rows(self) -> int:
        """R = 1 + k + B."""
        return 1 + self.head + self.buckets

    def rows(self, ids: Tensor, index: Tensor | None, look_up: Callable[[Tensor], Tensor]) -> Tensor:
        """(N,) ids, the head's index, (n,) places -> (n, D + 1) rows; gives (N, D + 1)."""
        own = torch.where(ids == 0, 0, 1 + places(ids, self.head, index))
        is_own = (own > 0) | (ids == 0)
        hashed = [torch.where(is_own, own, 1 + self.head + bucket(ids, salt, self.buckets)) for salt in self.salts]
        if len(hashed) == 1:
            return look_up(hashed[0])
        left, right = look_up(torch.cat(hashed)).chunk(2)
        if self.combine == "add":
            return torch.where(is_own.unsqueeze(1), left, left + right)
        half = (left.shape[1] + 1) // 2
        return torch.cat([left[:, :half], right[:, half:]], dim=1)


class HashedTable(Table):
    """Rows that values share by hash.

    Args:
        width: D + 1.
        shape: Rows and hash functions.
        index: (k,) int32 ids of the head; None where they are 1 to k.
        init_std: Of the first vectors.
        generator: Of the first vectors.
    """

    index: Tensor | None

    def __init__(
        self, width: int, shape: HashShape, index: Tensor | None, init_std: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.shape = shape
        self.table = RowSparseTable(shape.num_rows, width)
        draw(self.table.weight, init_std, generator)
        self.register_buffer("index", index, persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """(N,) -> (N, D + 1)."""
        return self.shape.rows(ids, self.index, self.table)

    def arrays(self) -> dict[str, Array]:
        """``rows`` (R, D + 1), and ``index`` (k,) where ids are in no order."""
        index = {} if self.index is None else {"index": Array("index", self.index)}
        return {"rows": Array("rows", self.table.weight), **index}

    def facts(self) -> dict[str, Any]:
        """The shape."""
        return asdict(self.shape)

    @staticmethod
    def served_rows(arrays: Mapping[str, Tensor], facts: Mapping[str, Any], ids: Tensor) -> Tensor:
        """See ``Table.served_rows``."""
        shape = HashShape(facts["head"], facts["buckets"], tuple(facts["salts"]), facts["combine"])
        return shape.rows(ids, arrays.get("index"), lambda place: functional.embedding(place, arrays["rows"]).float())


@METHODS.register("hashing")
class Hashing(TableMethod[HashingSettings]):
    """One hash, no head; a size is a number of rows per all large vocabularies' values."""

    name = "hashing"
    Settings = HashingSettings
    table_type = HashedTable

    @classmethod
    def table_bytes(cls, vocabulary: str, inputs: MethodInputs, settings: HashingSettings) -> dict[str, int]:
        """rows: R (D + 1) floats."""
        return {"rows": _num_rows(vocabulary, inputs, settings) * inputs.width * settings.float_bytes}

    def make_table(self, vocabulary: str, inputs: MethodInputs, settings: HashingSettings) -> Table:
        """See ``TableMethod.make_table``."""
        shape = HashShape(0, _num_rows(vocabulary, inputs, settings) - 1, (inputs.salt("hash", vocabulary, 0),))
        return HashedTable(inputs.width, shape, None, settings.init_std, inputs.generator(vocabulary))

    @classmethod
    def num_sizes(cls, inputs: MethodInputs, base: HashingSettings) -> int:
        """Values of all large vocabularies."""
        return _num_values(inputs, cls.split(inputs, base)[0])

    @classmethod
    def at_size(cls, inputs: MethodInputs, base: HashingSettings, size: int) -> HashingSettings:
        """size / values as the share of rows."""
        return with_settings(base, rows_share=size / _num_values(inputs, cls.split(inputs, base)[0]))


@METHODS.register("double_hashing")
class DoubleHashing(TableMethod[DoubleHashingSettings]):
    """Own rows for the head, two hashes for the rest; sizes as of ``Hashing``."""

    name = "double_hashing"
    Settings = DoubleHashingSettings
    table_type = HashedTable

    @classmethod
    def table_bytes(cls, vocabulary: str, inputs: MethodInputs, settings: DoubleHashingSettings) -> dict[str, int]:
        """rows: R (D + 1) floats; index: 4 k where ids are in no order."""
        num_rows = _num_rows(vocabulary, inputs, settings)
        index = index_bytes(inputs.counts[vocabulary], _num_head(num_rows, settings))
        return {"rows": num_rows * inputs.width * settings.float_bytes, "index": index}

    def make_table(self, vocabulary: str, inputs: MethodInputs, settings: DoubleHashingSettings) -> Table:
        """See ``TableMethod.make_table``."""
        num_rows = _num_rows(vocabulary, inputs, settings)
        head = _num_head(num_rows, settings)
        salts = tuple(inputs.salt("hash", vocabulary, i) for i in range(settings.num_hashes))
        shape = HashShape(head, num_rows - 1 - head, salts, settings.combine)
        index = head_ids(inputs.counts[vocabulary], head)
        return HashedTable(inputs.width, shape, index, settings.init_std, inputs.generator(vocabulary))

    @classmethod
    def num_sizes(cls, inputs: MethodInputs, base: DoubleHashingSettings) -> int:
        """Values of all large vocabularies."""
        return _num_values(inputs, cls.split(inputs, base)[0])

    @classmethod
    def at_size(cls, inputs: MethodInputs, base: DoubleHashingSettings, size: int) -> DoubleHashingSettings:
        """size / values as the share of rows."""
        return with_settings(base, rows_share=size / _num_values(inputs, cls.split(inputs, base)[0]))


def _num_rows(vocabulary: str, inputs: MethodInputs, settings: HashingSettings | DoubleHashingSettings) -> int:
    return share_of(inputs.layout.size(vocabulary), settings.rows_share, 2)


def _num_head(num_rows: int, settings: DoubleHashingSettings) -> int:
    return min(int(settings.head * num_rows), num_rows - 2)


def _num_values(inputs: MethodInputs, names: list[str]) -> int:
    return max(1, sum(inputs.layout.size(name) for name in names))
