"""AutoDPQ: Gan et al., "AutoDPQ: automated differentiable product quantization for embedding compression", SIGIR 2023.

Only values of low frequency are coded, those in fewer than ``min_count`` training rows; the others keep exact rows. How
finely is searched per vocabulary: candidates (K, M) of codewords and codes are mixed,

    e(x) = sum_c w_c BN(DPQ-VQ_c(E[x])),  w = softmax((log p + Gumbel noise) / temperature)

E, codewords and the backbone learn from training batches, p from validation batches. Then the codes are trained anew
with the one that was chosen. (The paper's D' is the number of codes, M here.)

Bytes per vocabulary: those of ``mec.embeddings.code_plan``, with an exact head.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from mec.embeddings.code_plan import CodePlan, Coding, NumCodes, NumCodewords, codes_of_size, num_code_sizes
from mec.embeddings.coded_table import CodedTable, VectorSettings, quantizer_terms, vector_quantizer
from mec.embeddings.codes_mixture import CodesMixture
from mec.embeddings.exact_rows import draw
from mec.embeddings.full import RowSparseTable
from mec.embeddings.head import head_ids, places
from mec.embeddings.method import METHODS, MethodInputs, with_settings
from mec.embeddings.searched import FIRST_SCALE, Choice, GumbelSupernet, SearchedMethod, SearchSettings, Supernet
from mec.embeddings.table_method import Table
from mec.errors import ConfigError
from mec.lookup import rows_at


class AutoDPQSettings(SearchSettings, VectorSettings):
    """Settings of AutoDPQ."""

    min_count: int = Field(40, ge=1, description="training rows that a value must be in to keep an exact row")
    num_codes: NumCodes = Field(2, description="M before the search, at most D + 1")
    num_codewords: NumCodewords = Field(64, description="K before the search")
    candidates: tuple[tuple[NumCodewords, NumCodes], ...] = Field(
        ((16, 1), (16, 2), (16, 4), (64, 1), (64, 2), (64, 4), (256, 1), (256, 2), (256, 4)),
        min_length=1,
        description="pairs of K and M to choose from",
    )


class CodesSupernet(GumbelSupernet):
    """One table, and quantizers of the rest of its rows, mixed; the head reads the table itself.

    Means and variances are over the batch, whichever split it is of: a search looks up nothing but batches. Where a
    batch has one value of the rest, its row is the shift.

    Args:
        counts: (V,) training counts.
        head: k, values with exact rows.
        mixture: Of the candidates.
        width: D + 1.
        init_std: Of the first vectors.
        generator: Of the first vectors.
    """

    index: Tensor | None

    def __init__(
        self,
        counts: NDArray[np.int64],
        head: int,
        mixture: CodesMixture,
        width: int,
        init_std: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__(len(mixture.codings))
        self.head = head
        self.mixture = mixture
        self.table = RowSparseTable(len(counts), width)
        draw(self.table.weight, init_std, generator)
        self.register_buffer("index", head_ids(counts, head), persistent=False)
        self.scale = nn.Parameter(torch.full((width,), FIRST_SCALE))
        self.shift = nn.Parameter(torch.zeros(width))

    def forward(self, ids: Tensor) -> Tensor:
        """(N,) -> (N, D + 1), in training; leaves the quantizers' terms in ``term``."""
        distinct, rows, inverse = self.table.distinct(ids)
        rest = (places(distinct, self.head, self.index) < 0).nonzero()[:, 0]
        # without a row of the rest the weights would have no gradient, which the search asks for
        self.term = 0.0 * self.logits.sum()
        if not len(rest):
            return rows_at(rows, inverse) + self.term
        times = torch.bincount(inverse, minlength=len(distinct))[rest].to(rows.dtype)
        mixed, self.term = self.mixture(rows_at(rows, rest), times / times.sum(), self.weights())
        return rows_at(rows.index_copy(0, rest, mixed * self.scale + self.shift), inverse)


@METHODS.register("autodpq")
class AutoDPQ(SearchedMethod[AutoDPQSettings]):
    """Exact rows for frequent values, searched codes for the others; a size is as of DPQ.

    Raises:
        ConfigError: A candidate has more codes than a row has floats.
    """

    name = "autodpq"
    Settings = AutoDPQSettings
    table_type = CodedTable
    size_settings = ("num_codes",)

    @classmethod
    def candidates(cls, vocabulary: str, inputs: MethodInputs, settings: AutoDPQSettings) -> list[Choice]:
        """Pairs of K and M."""
        return list(settings.candidates)

    @classmethod
    def unsearched(cls, vocabulary: str, inputs: MethodInputs, settings: AutoDPQSettings) -> Choice:
        """The settings."""
        return settings.num_codewords, settings.num_codes

    @classmethod
    def split(cls, inputs: MethodInputs, settings: AutoDPQSettings) -> tuple[list[str], list[str]]:
        """See ``TableMethod.split``; vocabularies without a value of low frequency but id 0 are exact too."""
        large, _ = super().split(inputs, settings)
        large = [name for name in large if _num_head(name, inputs, settings) < inputs.layout.size(name) - 1]
        return large, [name for name, _ in inputs.layout.vocabularies if name not in large]

    def make_table(self, vocabulary: str, inputs: MethodInputs, settings: AutoDPQSettings) -> Table:
        """See ``TableMethod.make_table``."""
        plan = _plan(vocabulary, inputs, settings, self.choices(vocabulary, inputs, settings)[0])
        quantizer = vector_quantizer(plan.rest_coding, inputs, settings, inputs.generator(vocabulary, "codewords"))
        counts, generator = inputs.counts[vocabulary], inputs.generator(vocabulary)
        return CodedTable(plan, {0: quantizer}, counts, inputs.width, settings.init_std, generator)

    def make_supernet(self, vocabulary: str, inputs: MethodInputs, settings: AutoDPQSettings) -> Supernet:
        """See ``SearchedMethod.make_supernet``."""
        generator = inputs.generator(vocabulary, "search")
        mixture = CodesMixture(
            [_coding(choice) for choice in self.candidates(vocabulary, inputs, settings)],
            inputs.width,
            settings.init_std,
            settings.batch_norm,
            generator,
            codebook=settings.codebook,
            commitment=settings.commitment,
        )
        counts, head = inputs.counts[vocabulary], _num_head(vocabulary, inputs, settings)
        return CodesSupernet(counts, head, mixture, inputs.width, settings.init_std, generator)

    def regulariser(self, rows: Tensor) -> Tensor | None:
        """The quantizers' terms, summed over vocabularies."""
        return quantizer_terms(self.tables)

    @classmethod
    def num_sizes(cls, inputs: MethodInputs, base: AutoDPQSettings) -> int:
        """Bits of K, then D more codes."""
        return num_code_sizes(base.num_codewords, inputs.embedding_dim)

    @classmethod
    def at_size(cls, inputs: MethodInputs, base: AutoDPQSettings, size: int) -> AutoDPQSettings:
        """One code of ``size`` bits, or of all K codewords and then more codes; what was found is dropped."""
        num_codes, num_codewords = codes_of_size(size, base.num_codewords)
        return with_settings(base, num_codes=num_codes, num_codewords=num_codewords, found=None)

    @classmethod
    def choice_bytes(
        cls, vocabulary: str, inputs: MethodInputs, settings: AutoDPQSettings, choice: Choice
    ) -> dict[str, int]:
        """See ``CodePlan``."""
        plan = _plan(vocabulary, inputs, settings, choice)
        return plan.num_bytes(inputs.counts[vocabulary], inputs.width, settings.float_bytes)


def _plan(vocabulary: str, inputs: MethodInputs, settings: AutoDPQSettings, choice: Choice) -> CodePlan:
    coding = _coding(choice)
    if coding.num_codes > inputs.width:
        raise ConfigError(
            f"autodpq codes {inputs.width} floats, and every code needs one at least",
            found=f"{coding.num_codes} codes",
            fix=f"set num_codes and the second number of all candidates to {inputs.width} or less",
        )
    return CodePlan(_num_head(vocabulary, inputs, settings), None, coding)


def _coding(choice: Choice) -> Coding:
    num_codewords, num_codes = choice
    return Coding(num_codes, num_codewords)


def _num_head(vocabulary: str, inputs: MethodInputs, settings: AutoDPQSettings) -> int:
    return int((inputs.counts[vocabulary][1:] >= settings.min_count).sum())
