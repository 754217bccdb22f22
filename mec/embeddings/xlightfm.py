"""xLightFM: Jiang et al., "xLightFM: extremely memory-efficient factorization machine", SIGIR 2021.

A trained table is product-quantized, and its codewords are trained on with the codes as they are. The number of
codewords K is searched per vocabulary: candidates, each k-means codewords of its own for the same rows, are mixed,

    e(x) = sum_K w_K q_K(x),  w = softmax((log p + Gumbel noise) / temperature)

Codewords and the backbone learn from training batches, p from validation batches. Then training starts again from the
k-means codewords of the K that was chosen. Exact rows of small vocabularies start from the trained table's. All
candidates stand for the same rows, so they need no normalisation.

Bytes per vocabulary: ceil(V M ceil(log2 K) / 8) of codes and K (D + 1) floats.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from mec.embeddings.code_plan import CodePlan, Coding, NumCodes, NumCodewords, codes_of_size, num_code_sizes
from mec.embeddings.export import Array
from mec.embeddings.method import METHODS, MethodInputs, with_settings
from mec.embeddings.searched import Choice, GumbelSupernet, SearchedMethod, SearchSettings, Supernet
from mec.embeddings.table_method import Table
from mec.errors import ConfigError
from mec.quantize.packing import MAX_BITS, pack, unpack
from mec.quantize.product import ProductCodebook, join_parts
from mec.quantize.sampling import sample_points

_MAX_POINTS = 1 << 16
_ITERATIONS = 25
_CHUNK_ROWS = 1 << 16


class XLightFMSettings(SearchSettings):
    """Settings of xLightFM."""

    num_codes: NumCodes = Field(4, description="M, codes per value, at most D + 1")
    num_codewords: NumCodewords = Field(64, description="K before the search")
    candidates: tuple[NumCodewords, ...] | None = Field(
        None, min_length=1, description="K to choose from; null: a quarter of that before the search, that, and 4 times"
    )

    @model_validator(mode="after")
    def _starts(self) -> Self:
        self.refuse_without_effect(["init_std"], "on rows that start from pre-trained ones")
        return self


class FixedCodesTable(Table):
    """Codes that stay and codewords that are trained; one vocabulary.

    Args:
        pretrained: (V, D + 1) rows that are coded.
        seen: (V,) bool, values that are in training: codewords are fitted to those.
        coding: M and K.
        seed: Of k-means.
    """

    codes: Tensor

    def __init__(self, pretrained: Tensor, seen: Tensor, coding: Coding, seed: int) -> None:
        super().__init__()
        self.plan = CodePlan(0, None, coding)
        weights = seen.float() if bool(seen.any()) else torch.ones(len(seen))
        generator = torch.Generator().manual_seed(seed)
        index, weights = sample_points(pretrained, weights, _MAX_POINTS, generator)
        book = ProductCodebook.fit(
            pretrained[index],
            weights,
            num_codes=coding.num_codes,
            num_codewords=coding.num_codewords,
            iterations=_ITERATIONS,
            seed=seed,
        )
        codes = [book.encode(part).numpy() for part in torch.split(pretrained, _CHUNK_ROWS)]
        self.register_buffer("codes", torch.from_numpy(pack(np.concatenate(codes), coding.bits)))
        self.codewords = nn.Parameter(book.codewords.clone())

    def forward(self, ids: Tensor) -> Tensor:
        """(N,) -> (N, D + 1)."""
        return self.plan.rows({"codes_rest": self.codes, "codewords_0": self.codewords}, ids)

    def arrays(self) -> dict[str, Array]:
        """``codes_rest`` as packed, ``codewords_0`` (K, D + 1)."""
        return {"codes_rest": Array("codes", self.codes), "codewords_0": Array("codebooks", self.codewords)}

    def facts(self) -> dict[str, Any]:
        """The plan."""
        return self.plan.to_json()

    @staticmethod
    def served_rows(arrays: Mapping[str, Tensor], facts: Mapping[str, Any], ids: Tensor) -> Tensor:
        """See ``Table.served_rows``."""
        return CodePlan.from_json(facts).rows(arrays, ids)


class CodewordsSupernet(GumbelSupernet):
    """Product codes of the same rows with several K.

    Codes are held unpacked, V M small integers for each candidate: unpacking them would take longer than all else here.
    Checkpoints hold them too, for codewords mean nothing with other codes.

    Args:
        tables: One per candidate, all of one M.
        num_values: V.
    """

    def __init__(self, tables: list[FixedCodesTable], num_values: int) -> None:
        super().__init__(len(tables))
        self.codewords = nn.ParameterList(table.codewords for table in tables)
        for i, table in enumerate(tables):
            coding = table.plan.rest_coding
            codes = torch.from_numpy(unpack(table.codes.numpy(), num_values, coding.num_codes, coding.bits))
            self.register_buffer(f"codes_{i}", codes.to(torch.int16 if coding.bits < 16 else torch.int32))

    def forward(self, ids: Tensor) -> Tensor:
        """(N,) -> (N, D + 1)."""
        result = torch.zeros((), device=ids.device)
        for i, weight in enumerate(self.weights()):
            codes = self.get_buffer(f"codes_{i}").index_select(0, ids)  # (N, M)
            result = result + weight * join_parts(self.codewords[i], codes)
        return result


@METHODS.register("xlightfm")
class XLightFM(SearchedMethod[XLightFMSettings]):
    """Product codes of a trained table, K searched per vocabulary; a size is as of DPQ.

    Raises:
        ConfigError: There are no pre-trained tables, or more codes than a row has floats.
    """

    name = "xlightfm"
    Settings = XLightFMSettings
    table_type = FixedCodesTable
    size_settings = ("num_codes",)
    needs_pretrained = True

    @classmethod
    def candidates(cls, vocabulary: str, inputs: MethodInputs, settings: XLightFMSettings) -> list[Choice]:
        """K."""
        start = settings.num_codewords
        most = min(1 << MAX_BITS, inputs.layout.size(vocabulary))
        around = [k for k in (start // 4, start, 4 * start) if k == start or 2 <= k <= most]
        return [(num_codewords,) for num_codewords in sorted(set(settings.candidates or around))]

    @classmethod
    def first_rows(cls, inputs: MethodInputs, settings: XLightFMSettings) -> Mapping[str, Tensor] | None:
        """See ``TableMethod.first_rows``."""
        return inputs.pretrained

    @classmethod
    def unsearched(cls, vocabulary: str, inputs: MethodInputs, settings: XLightFMSettings) -> Choice:
        """The setting."""
        return (settings.num_codewords,)

    def make_table(self, vocabulary: str, inputs: MethodInputs, settings: XLightFMSettings) -> Table:
        """See ``TableMethod.make_table``."""
        return _table(vocabulary, inputs, settings, self.choices(vocabulary, inputs, settings)[0])

    def make_supernet(self, vocabulary: str, inputs: MethodInputs, settings: XLightFMSettings) -> Supernet:
        """See ``SearchedMethod.make_supernet``."""
        candidates = self.candidates(vocabulary, inputs, settings)
        tables = [_table(vocabulary, inputs, settings, choice) for choice in candidates]
        return CodewordsSupernet(tables, inputs.layout.size(vocabulary))

    @classmethod
    def num_sizes(cls, inputs: MethodInputs, base: XLightFMSettings) -> int:
        """Bits of K, then D more codes."""
        return num_code_sizes(base.num_codewords, inputs.embedding_dim)

    @classmethod
    def at_size(cls, inputs: MethodInputs, base: XLightFMSettings, size: int) -> XLightFMSettings:
        """One code of ``size`` bits, or of all K codewords and then more codes; what was found is dropped."""
        num_codes, num_codewords = codes_of_size(size, base.num_codewords)
        return with_settings(base, num_codes=num_codes, num_codewords=num_codewords, found=None)

    @classmethod
    def choice_bytes(
        cls, vocabulary: str, inputs: MethodInputs, settings: XLightFMSettings, choice: Choice
    ) -> dict[str, int]:
        """See ``CodePlan``."""
        if settings.num_codes > inputs.width:
            raise ConfigError(
                f"xlightfm codes {inputs.width} floats, and every code needs one at least",
                found=f"num_codes={settings.num_codes}",
                fix=f"set num_codes to {inputs.width} or less",
            )
        plan = CodePlan(0, None, Coding(settings.num_codes, choice[0]))
        return plan.num_bytes(inputs.counts[vocabulary], inputs.width, settings.float_bytes)


def _table(vocabulary: str, inputs: MethodInputs, settings: XLightFMSettings, choice: Choice) -> FixedCodesTable:
    assert inputs.pretrained is not None
    seen = torch.from_numpy(inputs.counts[vocabulary] > 0)
    seed = inputs.salt("k-means", vocabulary) % (1 << 31)
    return FixedCodesTable(inputs.pretrained[vocabulary], seen, Coding(settings.num_codes, choice[0]), seed)
