"""Embeddings decoded from codes: packed codes -> codewords, and exact rows for small vocabularies."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from mec.data.layout import FieldLayout
from mec.quantize.codebook import Codebooks
from mec.quantize.codes import Codes
from mec.quantize.fitting import Codebook
from mec.quantize.packing import gather_codes
from mec.quantize.product import ProductCodebook
from mec.quantize.residual import ResidualCodebook

Codewords = Literal["frozen", "warm", "random"]


class CodedEmbedding(nn.Module):
    """Rows of every vocabulary as a server looks them up.

    A batch reads its codes straight from the bit stream; nothing of the size of a full table is held.

    Args:
        codebooks: Codebooks and exact rows.
        codes: One generation of codes; None where rows are decoded elsewhere (a scorer): no ``forward`` then.
        codewords: Whether codewords and exact rows stay as quantized, or are trained from there or from random.
    """

    slot_order: Tensor

    def __init__(self, codebooks: Codebooks, codes: Codes | None, codewords: Codewords = "frozen") -> None:
        super().__init__()
        self.layout: FieldLayout = codebooks.layout
        self.embedding_dim = codebooks.embedding_dim
        self.structure = codebooks.structure
        trained = codewords != "frozen"
        self.coded_names, self.exact_names = list(codebooks.coded), list(codebooks.exact)
        self.codewords = nn.ParameterList(
            nn.Parameter(codebooks.coded[n].codewords.clone(), requires_grad=trained) for n in self.coded_names
        )
        self.exact = nn.ParameterList(
            nn.Parameter(codebooks.exact[n].clone(), requires_grad=trained) for n in self.exact_names
        )
        if codewords == "random":
            self._randomise()
        self._shapes = {n: (codebooks.num_codes(n), codebooks.bits(n)) for n in self.coded_names}
        for i, name in enumerate(self.coded_names if codes is not None else []):
            assert codes is not None
            self.register_buffer(f"packed_{i}", torch.from_numpy(codes.packed[name]), persistent=False)
        self._slots = self._slots_by_vocabulary()
        order = [s for slots in self._slots.values() for s in slots]
        self.register_buffer("slot_order", torch.tensor(order).argsort(), persistent=False)
        self._in_order = order == sorted(order)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, S) int32 ids -> (B, S, D + 1) rows."""
        parts = []
        for name, slots in self._slots.items():
            own = ids[:, slots]  # (B, s)
            parts.append(self.rows(name, own.flatten()).view(*own.shape, -1))
        rows = torch.cat(parts, dim=1)
        return rows if self._in_order else rows.index_select(1, self.slot_order)

    def rows(self, vocabulary: str, ids: Tensor) -> Tensor:
        """(N,) ids of one vocabulary -> (N, D + 1) rows."""
        if vocabulary in self.exact_names:
            return functional.embedding(ids, self.exact[self.exact_names.index(vocabulary)])
        index = self.coded_names.index(vocabulary)
        num_codes, bits = self._shapes[vocabulary]
        codes = gather_codes(self.get_buffer(f"packed_{index}"), ids, num_codes, bits)
        return self.codebook(vocabulary).decode(codes)

    def codebook(self, vocabulary: str) -> Codebook:
        """The codebook of one coded vocabulary, with the codewords as they are now."""
        codewords = self.codewords[self.coded_names.index(vocabulary)]
        if self.structure == "product":
            return ProductCodebook(codewords, self._shapes[vocabulary][0])
        return ResidualCodebook(codewords)

    def serving_bytes(self) -> dict[str, int]:
        """Bytes that a server must hold, by part; first-order weights are column 0 of codewords and rows."""
        return {
            "codes": sum(self.get_buffer(f"packed_{i}").numel() for i in range(len(self.coded_names))),
            "codebooks": sum(c.numel() * 4 for c in self.codewords),
            "rows": sum(e.numel() * 4 for e in self.exact),
            "index": 0,
            "other": 0,
        }

    def _slots_by_vocabulary(self) -> dict[str, list[int]]:
        slots: dict[str, list[int]] = {}
        for field in self.layout.fields:
            slots.setdefault(field.vocabulary, []).extend(range(field.first_slot, field.first_slot + field.num_slots))
        return slots

    @torch.no_grad()
    def _randomise(self) -> None:
        """Random codewords of the fitted ones' spread; of quantization, the grouping of values is all that is kept."""
        for parameter in [*self.codewords, *self.exact]:
            parameter.normal_(0.0, float(parameter.std(correction=0)) or 0.01)
