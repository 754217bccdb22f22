"""Methods that learn codes end to end: a full-dimension table in training, packed codes and codewords in serving.

The table is training's alone: ``finish`` gives rows that training never touched the mean of the others, rounds the
codewords, chooses every value's codes for them as they are stored, and lets the table go.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from mec.embeddings.code_plan import CodePlan, Coding, NumCodes, NumCodewords, codes_of_size, num_code_sizes
from mec.embeddings.exact_rows import draw, fill_unseen, round_floats
from mec.embeddings.export import Array
from mec.embeddings.full import RowSparseTable
from mec.embeddings.head import head_ids, places
from mec.embeddings.method import MethodInputs, with_settings
from mec.embeddings.quantizers import Quantizer, VectorQuantizer
from mec.embeddings.table_method import Table, TableMethod, TableSettings
from mec.embeddings.two_forms import TwoFormTable
from mec.errors import ConfigError
from mec.lookup import rows_at
from mec.quantize.packing import pack
from mec.quantize.product import join_parts
from mec.quantize.storage import Floats

_CHUNK_ROWS = 1 << 16


class CodedSettings(TableSettings):
    """Settings of methods that learn codes; vocabularies whose exact rows take no more bytes keep those."""

    num_codes: NumCodes = Field(4, description="M, codes per value, at most D + 1")
    num_codewords: NumCodewords = Field(256, description="K, codewords per codebook")
    batch_norm: bool = Field(True, description="normalise each codeword's responses over the batch")


class VectorSettings(CodedSettings):
    """Settings of methods with a ``VectorQuantizer``."""

    batch_norm: bool = Field(
        False, description="normalise each codeword's responses over the batch; then codes are not the nearest ones"
    )
    codebook: float = Field(1.0, gt=0, description="weight of |codeword - sg(row)|^2, which moves codewords only")
    commitment: float = Field(0.0, ge=0, description="weight of |sg(codeword) - row|^2, which moves rows only")


SettingsT = TypeVar("SettingsT", bound=CodedSettings)


class CodedTable(TwoFormTable):
    """A training table and its quantizers; one vocabulary.

    Args:
        plan: Groups of values and their codes.
        quantizers: One per codebook of the plan.
        counts: (V,) training counts.
        width: D + 1.
        init_std: Of the first vectors.
        generator: Of the first vectors.
    """

    seen: Tensor
    index: Tensor | None

    def __init__(
        self,
        plan: CodePlan,
        quantizers: Mapping[int, Quantizer],
        counts: NDArray[np.int64],
        width: int,
        init_std: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.plan = plan
        self.quantizers = nn.ModuleList(quantizers[book] for book in sorted(quantizers))
        self.table = RowSparseTable(len(counts), width)
        draw(self.table.weight, init_std, generator)
        self.register_buffer("seen", torch.from_numpy(counts > 0), persistent=False)
        self.register_buffer("index", head_ids(counts, plan.head), persistent=False)
        self.term: Tensor | None = None

    def trained_rows(self, ids: Tensor) -> Tensor:
        """(N,) -> (N, D + 1)."""
        self.term = None
        if not self.training:
            return self._coded_rows(ids, None)
        # what is coded is a value, however often it is in the batch
        distinct, inverse, times = torch.unique(ids, return_inverse=True, return_counts=True)
        return rows_at(self._coded_rows(distinct, times), inverse)

    def _coded_rows(self, ids: Tensor, times: Tensor | None) -> Tensor:
        """(N,) ids, how often each is in the batch -> (N, D + 1)."""
        rows: Tensor = self.table(ids)
        plan = self.plan
        if not plan.head:
            return self._coded(plan.rest_coding, rows, None, times)
        in_head = places(ids, plan.head, self.index) >= 0
        if plan.head_coding is not None and plan.head_coding.book == plan.rest_coding.book:
            first = torch.where(in_head, plan.head_coding.num_codewords, plan.rest_coding.num_codewords)
            return self._coded(plan.head_coding, rows, first, times)
        for coding, of_group in ((plan.head_coding, in_head), (plan.rest_coding, ~in_head)):
            chosen = of_group.nonzero()[:, 0]
            if coding is not None and len(chosen):
                own_times = None if times is None else times[chosen]
                rows = rows.index_copy(0, chosen, self._coded(coding, rows[chosen], None, own_times))
        return rows

    def _coded(self, coding: Coding, rows: Tensor, num_codewords: Tensor | None, times: Tensor | None) -> Tensor:
        quantizer = self._quantizer(coding)
        if not self.training:
            return join_parts(quantizer.codewords, quantizer.codes(rows, num_codewords))
        rows, term = quantizer(rows, num_codewords, times)
        if term is not None:
            self.term = term if self.term is None else self.term + term
        return rows

    def settle(self, floats: Floats) -> None:
        """Fill rows that training never touched, and round codewords: codes are chosen for those that are stored."""
        fill_unseen(self.table.weight, self.seen)
        round_floats(self._codewords(), floats)

    def build(self) -> dict[str, Array]:
        """Codes, codewords, an exact head's rows and the head's index, as ``CodePlan.rows`` reads them."""
        rows, result = self.table.weight, self._codewords()
        in_head = places(torch.arange(len(rows), device=rows.device), self.plan.head, self.index) >= 0
        groups = {"head": in_head.nonzero()[:, 0], "rest": (~in_head).nonzero()[:, 0]}
        for group, coding in self.plan.codings.items():
            result[f"codes_{group}"] = Array("codes", self._packed(coding, groups[group]))
        if self.plan.head and self.plan.head_coding is None:
            result["rows"] = Array("rows", rows[groups["head"]])
        if self.index is not None:
            result["index"] = Array("index", self.index)
        return result

    def release(self) -> None:
        """The table and the quantizers."""
        del self.table, self.quantizers

    def facts(self) -> dict[str, Any]:
        """The plan."""
        return self.plan.to_json()

    def _codewords(self) -> dict[str, Array]:
        books = zip(sorted(self.plan.books), self.quantizers, strict=True)
        return {f"codewords_{book}": Array("codebooks", q.get_parameter("codewords")) for book, q in books}

    def _packed(self, coding: Coding, ids: Tensor) -> Tensor:
        """The codes of (n,) ids, as they are stored."""
        quantizer, codes = self._quantizer(coding), []
        was_training = quantizer.training
        quantizer.eval()
        for part in torch.split(ids, _CHUNK_ROWS):
            first = torch.full_like(part, coding.num_codewords)
            codes.append(quantizer.codes(self.table.weight[part], first).cpu().numpy())
        quantizer.train(was_training)
        return torch.from_numpy(pack(np.concatenate(codes), coding.bits)).to(ids.device)

    def _quantizer(self, coding: Coding) -> Quantizer:
        quantizer = self.quantizers[sorted(self.plan.books).index(coding.book)]
        assert isinstance(quantizer, Quantizer)
        return quantizer

    @staticmethod
    def served_rows(arrays: Mapping[str, Tensor], facts: Mapping[str, Any], ids: Tensor) -> Tensor:
        """See ``Table.served_rows``."""
        return CodePlan.from_json(facts).rows(arrays, ids)


class CodedMethod(TableMethod[SettingsT]):
    """Base of methods with coded tables; a size is a number of bits: more codewords for one code, then more codes."""

    table_type = CodedTable
    size_settings = ("num_codes",)

    @classmethod
    def plan(cls, vocabulary: str, inputs: MethodInputs, settings: SettingsT) -> CodePlan:
        """How the values of one vocabulary are held."""
        return CodePlan(0, None, Coding(settings.num_codes, settings.num_codewords))

    def make_quantizer(
        self, coding: Coding, inputs: MethodInputs, settings: SettingsT, generator: torch.Generator
    ) -> Quantizer:
        """An untrained quantizer with ``coding.num_codewords`` codewords."""
        raise TypeError(f"{type(self).__name__} defines no make_quantizer")

    @classmethod
    def split(cls, inputs: MethodInputs, settings: SettingsT) -> tuple[list[str], list[str]]:
        """See ``TableMethod.split``; where codes save nothing, rows are exact too."""
        large, _ = super().split(inputs, settings)
        row_bytes = inputs.width * settings.float_bytes
        large = [
            name
            for name in large
            if sum(cls.table_bytes(name, inputs, settings).values()) < len(inputs.counts[name]) * row_bytes
        ]
        return large, [name for name, _ in inputs.layout.vocabularies if name not in large]

    @classmethod
    def table_bytes(cls, vocabulary: str, inputs: MethodInputs, settings: SettingsT) -> dict[str, int]:
        """See ``CodePlan``."""
        if settings.num_codes > inputs.width:
            raise ConfigError(
                f"{cls.name} codes {inputs.width} floats, and every code needs one at least",
                found=f"num_codes={settings.num_codes}",
                fix=f"set num_codes to {inputs.width} or less",
            )
        plan = cls.plan(vocabulary, inputs, settings)
        return plan.num_bytes(inputs.counts[vocabulary], inputs.width, settings.float_bytes)

    def make_table(self, vocabulary: str, inputs: MethodInputs, settings: SettingsT) -> Table:
        """See ``TableMethod.make_table``."""
        plan = self.plan(vocabulary, inputs, settings)
        quantizers = {}
        for coding in plan.codings.values():
            whole = Coding(coding.num_codes, plan.books[coding.book], coding.book)
            if coding.book not in quantizers:
                generator = inputs.generator(vocabulary, "codewords", coding.book)
                quantizers[coding.book] = self.make_quantizer(whole, inputs, settings, generator)
        counts, generator = inputs.counts[vocabulary], inputs.generator(vocabulary)
        return CodedTable(plan, quantizers, counts, inputs.width, settings.init_std, generator)

    def regulariser(self, rows: Tensor) -> Tensor | None:
        """The quantizers' terms, summed over vocabularies."""
        return quantizer_terms(self.tables)

    @classmethod
    def num_sizes(cls, inputs: MethodInputs, base: SettingsT) -> int:
        """Bits of K, then D more codes."""
        return num_code_sizes(base.num_codewords, inputs.embedding_dim)

    @classmethod
    def at_size(cls, inputs: MethodInputs, base: SettingsT, size: int) -> SettingsT:
        """One code of ``size`` bits, or of all K codewords and then more codes."""
        num_codes, num_codewords = codes_of_size(size, base.num_codewords)
        return with_settings(base, num_codes=num_codes, num_codewords=num_codewords)


def quantizer_terms(tables: Iterable[nn.Module]) -> Tensor | None:
    """The loss terms of the last forward, summed over tables; None where there are none."""
    terms = [table.term for table in tables if isinstance(table, CodedTable) and table.term is not None]
    return torch.stack(terms).sum() if terms else None


def vector_quantizer(
    coding: Coding, inputs: MethodInputs, settings: VectorSettings, generator: torch.Generator
) -> VectorQuantizer:
    """An untrained ``VectorQuantizer``."""
    return VectorQuantizer(
        inputs.width,
        coding.num_codes,
        coding.num_codewords,
        settings.init_std,
        settings.batch_norm,
        generator,
        codebook=settings.codebook,
        commitment=settings.commitment,
    )
