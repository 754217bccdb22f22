"""MGQE: Kang et al., "Learning multi-granular quantized embeddings for large-vocab categorical features in recommender
systems", WWW 2020 companion.

DPQ-VQ with finer codes for the head, the most frequent values, than for the tail:

    variant shared              head: all K codewords, tail: the first K2 of the same ones (the paper's own)
    variant unshared_codewords  head: K codewords, tail: K2 others
    variant unshared_codes      head: M codes, tail: M2 codes, each of K codewords of its own

Bytes per vocabulary: ceil(V_head M b / 8) + ceil(V_tail M2 b2 / 8) of codes, b = ceil(log2 K); K (D + 1) floats, and
again those of the tail's own codewords; 4 per head value where ids are not in order of count. Id 0 is in the tail.
"""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field, model_validator

from mec.embeddings.code_plan import CodePlan, Coding, NumCodes, NumCodewords
from mec.embeddings.coded_table import CodedMethod, VectorSettings, vector_quantizer
from mec.embeddings.method import METHODS, MethodInputs
from mec.embeddings.quantizers import Quantizer


class MGQESettings(VectorSettings):
    """Settings of MGQE."""

    variant: Literal["shared", "unshared_codewords", "unshared_codes"] = Field(
        "shared", description="the tail's coarser codes: first codewords of the head's, own ones, or fewer codes"
    )
    head: float = Field(0.1, gt=0, lt=1, description="share of the vocabulary's values that are its head")
    tail_codewords: NumCodewords = Field(
        64, description="K2, of the tail; K where that is less; not with unshared_codes"
    )
    tail_codes: NumCodes = Field(2, description="M2, of the tail, for unshared_codes; M where that is less")

    @model_validator(mode="after")
    def _of_its_variant(self) -> Self:
        unused = "tail_codewords" if self.variant == "unshared_codes" else "tail_codes"
        self.refuse_without_effect([unused], f"with variant={self.variant!r}")
        return self


@METHODS.register("mgqe")
class MGQE(CodedMethod[MGQESettings]):
    """DPQ-VQ with a finer head; sizes as of DPQ, for the head."""

    name = "mgqe"
    Settings = MGQESettings

    @classmethod
    def plan(cls, vocabulary: str, inputs: MethodInputs, settings: MGQESettings) -> CodePlan:
        """See ``CodedMethod.plan``."""
        head = int(settings.head * (inputs.layout.size(vocabulary) - 1))
        num_codes, num_codewords = settings.num_codes, settings.num_codewords
        if settings.variant == "unshared_codes":
            rest = Coding(min(num_codes, settings.tail_codes), num_codewords, 1)
        else:
            book = 0 if settings.variant == "shared" else 1
            rest = Coding(num_codes, min(num_codewords, settings.tail_codewords), book)
        return CodePlan(head, Coding(num_codes, num_codewords), rest)

    def make_quantizer(
        self, coding: Coding, inputs: MethodInputs, settings: MGQESettings, generator: torch.Generator
    ) -> Quantizer:
        """See ``CodedMethod.make_quantizer``."""
        return vector_quantizer(coding, inputs, settings, generator)
