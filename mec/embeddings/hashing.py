"""Hashing, and frequency-based double hashing.

hashing (Weinberger et al., "Feature hashing for large scale multitask learning", ICML 2009): e(x) = E[h(x)], salted per
vocabulary. Bytes: R (D + 1) floats per vocabulary, R = ceil(rows_share V).

double_hashing (Zhang et al., "Model size reduction using frequency based double hashing for recommender systems",
RecSys 2020): of the R rows, ``head`` are own rows of the most frequent values; every other value has B buckets and

    num_hashes 1: E[h1(x)]                       (the paper's frequency hashing)
    num_hashes 2: E[h1(x)] + E[h2(x)]            (combine: add)
                  [E[h1(x)] left, E[h2(x)] right] (combine: concat: each hash gives one half of the D + 1 columns)

Bytes: R (D + 1) floats per vocabulary, and 4 per head row where ids are not in order of count. Row 0 is id 0's own.

Rows that no value in training reads are filled, so that a value which reads no others has the mean of all the rows of
values in training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
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
from mec.quantize.storage import Floats

_CHUNK_VALUES = 1 << 20

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

    @property
    def adds(self) -> bool:
        """Whether the rows of two hashes are added."""
        return len(self.salts) == 2 and self.combine == "add"

    def row_places(self, ids: Tensor, index: Tensor | None) -> list[Tensor]:
        """(N,) ids and the head's index -> (N,) rows of each hash function; those up to k are values' own."""
        own = torch.where(ids == 0, 0, 1 + places(ids, self.head, index))
        is_own = (own > 0) | (ids == 0)
        return [torch.where(is_own, own, 1 + self.head + bucket(ids, salt, self.buckets)) for salt in self.salts]

    def rows(self, ids: Tensor, index: Tensor | None, look_up: Callable[[Tensor], Tensor]) -> Tensor:
        """(N,) ids, the head's index, (n,) places -> (n, D + 1) rows; gives (N, D + 1)."""
        hashed = self.row_places(ids, index)
        if len(hashed) == 1:
            return look_up(hashed[0])
        left, right = look_up(torch.cat(hashed)).chunk(2)
        if self.adds:
            return torch.where((hashed[0] <= self.head).unsqueeze(1), left, left + right)
        half = _left_columns(left.shape[1])
        return torch.cat([left[:, :half], right[:, half:]], dim=1)

    def uses(self, ids: Tensor, index: Tensor | None) -> Tensor:
        """(N,) ids and the head's index -> (C, R) how many of them read each row; C = 2 where each half has a hash."""
        hashed = self.row_places(ids, index)
        if self.adds:  # an own row counts once
            hashed = [torch.cat([hashed[0], hashed[1][hashed[1] > self.head]])]
        return torch.stack([torch.bincount(place, minlength=self.num_rows) for place in hashed])


class HashedTable(Table):
    """Rows that values share by hash.

    Args:
        counts: (V,) training counts.
        width: D + 1.
        shape: Rows and hash functions.
        init_std: Of the first vectors.
        generator: Of the first vectors.
    """

    index: Tensor | None
    uses: Tensor

    def __init__(
        self, counts: NDArray[np.int64], width: int, shape: HashShape, init_std: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.shape = shape
        self.table = RowSparseTable(shape.num_rows, width)
        draw(self.table.weight, init_std, generator)
        self.register_buffer("index", head_ids(counts, shape.head) if shape.head else None, persistent=False)
        seen = torch.from_numpy(np.flatnonzero(counts))
        self.num_seen = len(seen)
        uses = torch.zeros(1 if len(shape.salts) == 1 or shape.adds else 2, shape.num_rows, dtype=torch.int64)
        for ids in torch.split(seen, _CHUNK_VALUES):
            uses += shape.uses(ids, self.index)
        self.register_buffer("uses", uses, persistent=False)

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

    @torch.no_grad()
    def finish(self, floats: Floats) -> None:
        """Fill rows that no value in training reads, half by half where each has a hash; see ``Table.finish``."""
        weight = self.table.weight
        half = _left_columns(weight.shape[1])
        parts = [weight] if len(self.uses) == 1 else [weight[:, :half], weight[:, half:]]
        for rows, uses in zip(parts, self.uses, strict=True):
            if self.num_seen:
                mean = (uses / self.num_seen) @ rows  # of values in training, (W,)
                unused = (uses == 0).nonzero()[:, 0]
                rows[unused] = torch.where((unused > self.shape.head).unsqueeze(1) & self.shape.adds, mean / 2, mean)
        super().finish(floats)

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
    size_settings = ("rows_share",)

    @classmethod
    def table_bytes(cls, vocabulary: str, inputs: MethodInputs, settings: HashingSettings) -> dict[str, int]:
        """rows: R (D + 1) floats."""
        return {"rows": _num_rows(vocabulary, inputs, settings) * inputs.width * settings.float_bytes}

    def make_table(self, vocabulary: str, inputs: MethodInputs, settings: HashingSettings) -> Table:
        """See ``TableMethod.make_table``."""
        shape = HashShape(0, _num_rows(vocabulary, inputs, settings) - 1, (inputs.salt("hash", vocabulary, 0),))
        counts, generator = inputs.counts[vocabulary], inputs.generator(vocabulary)
        return HashedTable(counts, inputs.width, shape, settings.init_std, generator)

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
    size_settings = ("rows_share",)

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
        counts, generator = inputs.counts[vocabulary], inputs.generator(vocabulary)
        return HashedTable(counts, inputs.width, shape, settings.init_std, generator)

    @classmethod
    def num_sizes(cls, inputs: MethodInputs, base: DoubleHashingSettings) -> int:
        """Values of all large vocabularies."""
        return _num_values(inputs, cls.split(inputs, base)[0])

    @classmethod
    def at_size(cls, inputs: MethodInputs, base: DoubleHashingSettings, size: int) -> DoubleHashingSettings:
        """size / values as the share of rows."""
        return with_settings(base, rows_share=size / _num_values(inputs, cls.split(inputs, base)[0]))


def _left_columns(width: int) -> int:
    return (width + 1) // 2


def _num_rows(vocabulary: str, inputs: MethodInputs, settings: HashingSettings | DoubleHashingSettings) -> int:
    return share_of(inputs.layout.size(vocabulary), settings.rows_share, 2)


def _num_head(num_rows: int, settings: DoubleHashingSettings) -> int:
    return min(int(settings.head * num_rows), num_rows - 2)


def _num_values(inputs: MethodInputs, names: list[str]) -> int:
    return max(1, sum(inputs.layout.size(name) for name in names))
