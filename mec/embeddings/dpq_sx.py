"""DPQ-SX: Chen, Li and Sun, "Differentiable product quantization for end-to-end embedding compression", ICML 2020.

Product codes learned with the model: a part of a row is compared with K keys, and the best key's value replaces it;
the gradient is that of the softmax over keys; see ``mec.embeddings.softmax_quantizer.SoftmaxQuantizer``.

Bytes per vocabulary: ceil(V M ceil(log2 K) / 8) of codes and K (D + 1) floats, the values. The table of rows and the
keys are training's alone.
"""

from __future__ import annotations

import torch
from pydantic import Field

from mec.embeddings.code_plan import Coding, NumCodewords
from mec.embeddings.coded_table import CodedMethod, CodedSettings
from mec.embeddings.method import METHODS, MethodInputs
from mec.embeddings.quantizers import Quantizer
from mec.embeddings.softmax_quantizer import SoftmaxQuantizer


class DPQSXSettings(CodedSettings):
    """Settings of DPQ-SX."""

    num_codewords: NumCodewords = Field(16, description="K, codewords per codebook; a step costs N M K")
    temperature: float = Field(1.0, gt=0, description="divides responses in the softmax")


@METHODS.register("dpq_sx")
class DPQSX(CodedMethod[DPQSXSettings]):
    """Product codes by softmax over keys."""

    name = "dpq_sx"
    Settings = DPQSXSettings

    def make_quantizer(
        self, coding: Coding, inputs: MethodInputs, settings: DPQSXSettings, generator: torch.Generator
    ) -> Quantizer:
        """See ``CodedMethod.make_quantizer``."""
        return SoftmaxQuantizer(
            inputs.width,
            coding.num_codes,
            coding.num_codewords,
            settings.init_std,
            settings.batch_norm,
            generator,
            temperature=settings.temperature,
        )
