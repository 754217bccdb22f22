"""DPQ-VQ: Chen, Li and Sun, "Differentiable product quantization for end-to-end embedding compression", ICML 2020.

Product codes learned with the model: each part of a row is replaced by a codeword, and the gradient passes straight
through to the row; see ``mec.embeddings.quantizers.VectorQuantizer``.

Bytes per vocabulary: ceil(V M ceil(log2 K) / 8) of codes and K (D + 1) floats. The table of rows is training's alone.
"""

from __future__ import annotations

import torch

from mec.embeddings.code_plan import Coding
from mec.embeddings.coded_table import CodedMethod, VectorSettings, vector_quantizer
from mec.embeddings.method import METHODS, MethodInputs
from mec.embeddings.quantizers import Quantizer


class DPQVQSettings(VectorSettings):
    """Settings of DPQ-VQ."""


@METHODS.register("dpq_vq")
class DPQVQ(CodedMethod[DPQVQSettings]):
    """Product codes by straight-through vector quantization."""

    name = "dpq_vq"
    Settings = DPQVQSettings

    def make_quantizer(
        self, coding: Coding, inputs: MethodInputs, settings: DPQVQSettings, generator: torch.Generator
    ) -> Quantizer:
        """See ``CodedMethod.make_quantizer``."""
        return vector_quantizer(coding, inputs, settings, generator)
