"""Embeddings decoded from codes: packed codes -> codewords, and exact rows for small vocabularies and for heads."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from mec.data.layout import FieldLayout
from mec.errors import ConfigError
from mec.quantize.codebook import Codebooks, make_codebook, structure_of
from mec.quantize.codes import Codes
from mec.quantize.fitting import Codebook
from mec.quantize.fold_codes import FoldCodes
from mec.quantize.merged import merge_codewords
from mec.quantize.packing import gather_codes
from mec.quantize.plan import VocabularyPlan, stream_places
from mec.quantize.storage import DTYPES

Codewords = Literal["frozen", "warm", "random"]


class CodedEmbedding(nn.Module):
    """Rows of every vocabulary as a server looks them up.

    A batch reads its codes straight from the bit stream; nothing of the size of a full table is held. What is frozen is
    held in the type it is stored in; rows come out as float32. Beside what is stored, the codewords of neighbouring
    codes are held added up, in at most a sixteenth of the codes' bytes: see ``mec.quantize.merged``.

    Args:
        codebooks: Codebooks and exact rows.
        codes: One generation of codes; None where rows are decoded elsewhere (a scorer): no ``forward`` then.
        codewords: Whether codewords and the exact rows of small vocabularies stay as quantized, or are trained from
            there or from random. Head rows stay in any case: like the codes, they are replaced by every refresh.
        folds: Out-of-fold codes and rows to train on, for ``forward`` with folds; never served.

    Raises:
        ConfigError: Random codewords beside head rows, which are vectors of the pre-trained space.
    """

    slot_order: Tensor

    def __init__(
        self,
        codebooks: Codebooks,
        codes: Codes | None,
        codewords: Codewords = "frozen",
        folds: FoldCodes | None = None,
    ) -> None:
        super().__init__()
        self.layout: FieldLayout = codebooks.layout
        self.embedding_dim = codebooks.embedding_dim
        self.floats = codebooks.floats
        trained = codewords != "frozen"
        dtype = torch.float32 if trained else DTYPES[codebooks.floats]
        self.coded_names, self.exact_names = list(codebooks.coded), list(codebooks.exact)
        self.codewords = nn.ParameterList(
            nn.Parameter(codebooks.coded[n].codewords.to(dtype, copy=True), requires_grad=trained)
            for n in self.coded_names
        )
        exact = codes.exact if codes is not None and codes.exact else codebooks.exact
        self.exact = nn.ParameterList(
            nn.Parameter(exact[n].to(dtype, copy=True), requires_grad=trained) for n in self.exact_names
        )
        if codewords == "random":
            if codes is not None and codes.head:
                raise ConfigError(
                    "random codewords leave the pre-trained space, and the exact rows of popular values stay in it",
                    found=f"exact rows of {', '.join(sorted(codes.head))}",
                    fix="set train.codewords to warm or frozen, or quantize without quantize.head and quantize.budget",
                )
            self._randomise()
        self._trained = trained
        self._joined: dict[str, int] = {}  # vocabulary -> K, where the codewords lie before the head rows
        self._structures = {n: structure_of(codebooks.coded[n]) for n in self.coded_names}
        self._shapes = {n: (codebooks.num_codes(n), codebooks.bits(n)) for n in self.coded_names}
        self._plans: dict[str, VocabularyPlan] = {}
        self._sizes = {n: len(exact[n]) for n in self.exact_names}  # vocabulary -> V
        for i, name in enumerate(self.coded_names if codes is not None else []):
            assert codes is not None
            self._plans[name], self._sizes[name] = codes.plan(name), codes.size(name)
            self.register_buffer(f"packed_{i}", torch.from_numpy(codes.packed[name]), persistent=False)
            if name in codes.head:
                self.register_buffer(f"head_{i}", self._beside_codewords(name, codes.head[name]), persistent=False)
        self._merged = nn.ModuleDict() if trained else self._merge()
        if folds is not None:
            self._hold_folds(folds)
        self._slots = self._slots_by_vocabulary()
        order = [s for slots in self._slots.values() for s in slots]
        self.register_buffer("slot_order", torch.tensor(order).argsort(), persistent=False)
        self._in_order = order == sorted(order)

    def forward(self, ids: Tensor, fold: Tensor | None = None) -> Tensor:
        """Rows of a batch.

        Args:
            ids: (B, S) int32.
            fold: (B,) int64, the fold of each training row, for rows that never saw its label; None: as served.

        Returns:
            (B, S, D + 1) float32.
        """
        parts = []
        for name, slots in self._slots.items():
            own = ids[:, slots]  # (B, s)
            folds = None if fold is None else fold[:, None].expand(own.shape).flatten()
            parts.append(self.rows(name, own.flatten(), folds).view(*own.shape, self.embedding_dim + 1))
        rows = torch.cat(parts, dim=1)
        return rows if self._in_order else rows.index_select(1, self.slot_order)

    def rows(self, vocabulary: str, ids: Tensor, fold: Tensor | None = None) -> Tensor:
        """(N,) ids of one vocabulary, (N,) folds or None -> (N, D + 1) rows."""
        if vocabulary in self.exact_names:
            return self._exact_rows(self.exact_names.index(vocabulary), ids, fold)
        index = self.coded_names.index(vocabulary)
        head = self._plans[vocabulary].head
        if not head:
            return self._decoded_rows(index, ids, fold)
        in_head = (ids >= 1) & (ids <= head)
        before = self._joined.get(vocabulary, 0)
        if before and fold is None:
            places = torch.where(in_head, ids + (before - 1), self._codes(index, ids, None)[:, 0])
            return functional.embedding(places, self.get_buffer(f"head_{index}")).float()
        ours, others = in_head.nonzero()[:, 0], in_head.logical_not_().nonzero()[:, 0]
        decoded = self._decoded_rows(index, ids[others], None if fold is None else fold[others])
        places = ids[ours] + (before - 1 if fold is None else fold[ours] * head - 1)
        exact = functional.embedding(places, self.get_buffer(f"head_{index}" if fold is None else f"fold_head_{index}"))
        rows = decoded.new_empty(len(ids), decoded.shape[1])
        return rows.index_copy_(0, others, decoded).index_copy_(0, ours, exact.float())

    def _decoded_rows(self, index: int, ids: Tensor, fold: Tensor | None) -> Tensor:
        """(N, D + 1) decoded rows of values outside the head."""
        if fold is None and str(index) in self._merged:
            rows: Tensor = self._merged[str(index)](self.get_buffer(f"packed_{index}"), self._places(index, ids, None))
            return rows
        return self.codebook(self.coded_names[index]).decode(self._codes(index, ids, fold))

    def _codes(self, index: int, ids: Tensor, fold: Tensor | None) -> Tensor:
        """(N, M) int32 codes; those of head rows mean nothing."""
        packed = self.get_buffer(f"packed_{index}" if fold is None else f"fold_packed_{index}")
        return gather_codes(packed, self._places(index, ids, fold), *self._shapes[self.coded_names[index]])

    def _places(self, index: int, ids: Tensor, fold: Tensor | None) -> Tensor:
        """(N,) places of values in their vocabulary's stream of codes."""
        name = self.coded_names[index]
        plan, size = self._plans[name], self._sizes[name]
        head, coded = plan.head, plan.coded(size)
        places = ids
        if coded < size:
            places = stream_places(ids, head, coded, plan.tail(size), plan.base or None)
        return places if fold is None else places + fold * coded

    def _merge(self) -> nn.ModuleDict:
        """Codewords of neighbouring codes added up, where the table is small beside the codes."""
        merged = nn.ModuleDict()
        for index, name in enumerate(self._plans):
            num_bytes = self.get_buffer(f"packed_{index}").numel()
            found = merge_codewords(self.codebook(name), self._shapes[name][1], num_bytes)
            if found is not None:
                merged[str(index)] = found
        return merged

    def _beside_codewords(self, vocabulary: str, head: Tensor) -> Tensor:
        """Head rows; after the codewords, where each value is one row of either: one gather then finds both."""
        codewords = self.codewords[self.coded_names.index(vocabulary)]
        one_each = self._structures[vocabulary] == "residual" and len(codewords) == 1
        if self._trained or not one_each or codewords.dtype != head.dtype:
            return head
        self._joined[vocabulary] = codewords.shape[1]
        return torch.cat([codewords[0].detach(), head])

    def _exact_rows(self, index: int, ids: Tensor, fold: Tensor | None) -> Tensor:
        table: Tensor = self.exact[index]
        if fold is not None and not self._trained:  # rows that are trained themselves are the same in every fold
            ids, table = ids + fold * len(table), self.get_buffer(f"fold_exact_{index}")
        return functional.embedding(ids, table).float()

    def _hold_folds(self, folds: FoldCodes) -> None:
        for i, name in enumerate(self.coded_names):
            self.register_buffer(f"fold_packed_{i}", torch.from_numpy(folds.packed[name]), persistent=False)
            if name in folds.head:
                self.register_buffer(f"fold_head_{i}", folds.head[name], persistent=False)
        for i, name in enumerate(self.exact_names):
            self.register_buffer(f"fold_exact_{i}", folds.exact[name], persistent=False)

    def size(self, vocabulary: str) -> int:
        """V of one vocabulary, as many as there are rows for."""
        return self._sizes[vocabulary]

    def codebook(self, vocabulary: str) -> Codebook:
        """The codebook of one coded vocabulary, with the codewords as they are now, in float32."""
        codewords = self.codewords[self.coded_names.index(vocabulary)].float()
        return make_codebook(self._structures[vocabulary], codewords, self._shapes[vocabulary][0])

    def serving_bytes(self) -> dict[str, int]:
        """Bytes that a server must hold, by part, as they are stored: the tensors of codebook and codes bundle.

        First-order weights are column 0 of codewords and rows; ``rows`` are those of small vocabularies and of heads.
        """
        float_bytes = DTYPES[self.floats].itemsize
        heads = sum(
            (len(self.get_buffer(f"head_{i}")) - self._joined.get(n, 0)) * (self.embedding_dim + 1)
            for i, n in enumerate(self.coded_names)
            if self._plans[n].head
        )
        return {
            "codes": sum(self.get_buffer(f"packed_{i}").numel() for i in range(len(self.coded_names))),
            "codebooks": sum(c.numel() for c in self.codewords) * float_bytes,
            "rows": (sum(e.numel() for e in self.exact) + heads) * float_bytes,
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
