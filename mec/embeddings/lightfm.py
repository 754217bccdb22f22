"""LightFM: Jiang et al., "xLightFM: extremely memory-efficient factorization machine", SIGIR 2021, without its search.

Product codes of the rows of a trained factorization machine; codes stay as they are, and codewords are trained on with
the model. Every vocabulary has codebooks of its own, here of one size K; the paper's search for a size per field
is xLightFM's.

Bytes are those of ``mec.embeddings.pq``.
"""

from __future__ import annotations

from mec.embeddings.method import METHODS
from mec.embeddings.pq import ProductMethod, ProductSettings


@METHODS.register("lightfm")
class LightFM(ProductMethod[ProductSettings]):
    """Product codes whose codewords are trained on."""

    name = "lightfm"
    Settings = ProductSettings

    @classmethod
    def trains_codewords(cls, settings: ProductSettings) -> bool:
        """Always."""
        return True
