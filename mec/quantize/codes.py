"""The codes bundle: per coded vocabulary a packed bit stream and the head's exact rows, bound to one codebook.

A refresh under a frozen codebook appends values and moves exact rows: its generation holds its own sizes, and the rows
of all vocabularies without codes in place of the codebook's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from mec.bundle import Bundle, BundleDraft, open_bundle
from mec.errors import BundleError, SpaceError
from mec.quantize.codebook import Codebooks, structure_of
from mec.quantize.packing import packed_bytes, unpack
from mec.quantize.plan import VocabularyPlan, stream_places
from mec.quantize.storage import DTYPES

CODES_FILE = "codes.safetensors"
HEAD_FILE = "head.safetensors"
EXACT_FILE = "exact.safetensors"
_CHECK_ROWS = 1 << 18  # a multiple of 8, so that each part starts on a byte


@dataclass(frozen=True)
class Codes:
    """One generation of codes, as a server holds it.

    Attributes:
        codebooks: What the codes index.
        packed: Vocabulary -> uint8 bit stream; see ``mec.quantize.packing`` and ``mec.quantize.plan``.
        generation: 0 for a train run's codes, one more for each refresh.
        parent_generation: The generation it replaces.
        uuid: Of the bundle; empty before there is one.
        head: Vocabulary -> (H, D + 1) exact rows of ids 1 to H, as the codebook stores floats; where H is above 0.
        tail_start: Vocabulary -> first id that shares id 0's code; where there is such a tail.
        sizes: Coded vocabulary -> V of this generation; the codebook's layout for those left out.
        bases: Coded vocabulary -> ids that head and tail were planned on; where V has grown beyond them.
        exact: Vocabulary without codes -> (V, D + 1) rows of this generation, as the codebook stores floats; empty
            where the codebook's own are in service.
    """

    codebooks: Codebooks
    packed: Mapping[str, NDArray[np.uint8]]
    generation: int = 0
    parent_generation: int | None = None
    uuid: str = ""
    head: Mapping[str, Tensor] = field(default_factory=dict)
    tail_start: Mapping[str, int] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    bases: Mapping[str, int] = field(default_factory=dict)
    exact: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def open(cls, bundle: Bundle | Path, codebooks: Codebooks) -> Codes:
        """Read a codes bundle.

        Raises:
            SpaceError: The codes were made with another codebook, or for another space.
            BundleError: No sound codes bundle, or streams of a wrong length, codes that name no codeword, or rows of a
                wrong shape or type.
        """
        if not isinstance(bundle, Bundle):
            bundle = open_bundle(bundle, "codes")
        extra = bundle.extra
        for what, wanted in (("codebook", codebooks.uuid), ("space", codebooks.space)):
            if extra[what] != wanted:
                raise SpaceError(
                    f"the codes in {bundle.path} are not of {what} {wanted}",
                    found=extra[what],
                    fix=f"pass the codebook that these codes were made with, {extra['codebook']}",
                )
        packed = safetensors.numpy.load_file(bundle.file(CODES_FILE))
        head = safetensors.torch.load_file(bundle.file(HEAD_FILE))
        exact = safetensors.torch.load_file(bundle.file(EXACT_FILE)) if "exact" in extra else {}
        stated: dict[str, dict[str, int]] = extra["vocabularies"]
        _check_head(stated, head, codebooks, bundle.path)
        if exact:
            _check_exact(exact, codebooks, bundle.path)
        bases = {name: f["base"] for name, f in stated.items() if "base" in f}
        planned = {name: bases.get(name, f["size"]) for name, f in stated.items()}
        ends = {name: f["head"] + f["coded"] - f["size"] + planned[name] for name, f in stated.items()}
        codes = cls(
            codebooks,
            packed,
            extra["generation"],
            extra["parent_generation"],
            bundle.uuid,
            head,
            {name: end for name, end in ends.items() if end < planned[name]},
            {name: f["size"] for name, f in stated.items() if name in codebooks.coded},
            bases,
            exact,
        )
        facts = {name: codes.facts(name) for name in codebooks.coded}
        lengths = {name: packed_bytes(f["coded"], f["num_codes"], f["bits_per_code"]) for name, f in facts.items()}
        found = {name: len(stream) for name, stream in packed.items()}
        if extra["vocabularies"] != facts or found != lengths:
            raise BundleError(
                f"the codes in {bundle.path} do not fit their codebook, which takes bytes {lengths}",
                found=found,
                fix="run the quantize step again",
            )
        for name in packed:
            codes._check_range(name, bundle.path)
        return codes

    def write(self, draft: BundleDraft) -> None:
        """Put files and facts into a codes bundle being written; the codebook must have its uuid."""
        assert self.codebooks.uuid
        safetensors.numpy.save_file(dict(self.packed), draft.path / CODES_FILE)
        safetensors.torch.save_file(dict(self.head), draft.path / HEAD_FILE)
        if self.exact:
            safetensors.torch.save_file(dict(self.exact), draft.path / EXACT_FILE)
            draft.extra["exact"] = {name: len(rows) for name, rows in self.exact.items()}
        draft.extra |= {
            "codebook": self.codebooks.uuid,
            "space": self.codebooks.space,
            "generation": self.generation,
            "parent_generation": self.parent_generation,
            "vocabularies": {name: self.facts(name) for name in self.packed},
        }

    def plan(self, vocabulary: str) -> VocabularyPlan:
        """How one coded vocabulary is stored."""
        book = self.codebooks.coded[vocabulary]
        head = len(self.head[vocabulary]) if vocabulary in self.head else 0
        tail_start, base = self.tail_start.get(vocabulary, 0), self.bases.get(vocabulary, 0)
        return VocabularyPlan(structure_of(book), book.num_codes, book.num_codewords, head, tail_start, base)

    def size(self, vocabulary: str) -> int:
        """V of one vocabulary, coded or not, in this generation."""
        if vocabulary in self.exact:
            return len(self.exact[vocabulary])
        return self.sizes.get(vocabulary, self.codebooks.layout.size(vocabulary))

    def facts(self, vocabulary: str) -> dict[str, int]:
        """Size V, codes per value M, bits per code, H and values in the stream of one coded vocabulary.

        Where it has grown, ``base`` too, the ids that head and tail were planned on.
        """
        plan, size = self.plan(vocabulary), self.size(vocabulary)
        shape = {"size": size, "num_codes": plan.num_codes, "bits_per_code": plan.bits}
        span = {"head": plan.head, "coded": plan.coded(size)}
        return shape | span | ({"base": plan.base} if plan.base else {})

    def unpacked(self, vocabulary: str) -> NDArray[np.int32]:
        """(V, M) codes of one coded vocabulary: the tail's are those of id 0; so are the head's, which mean nothing."""
        plan, size = self.plan(vocabulary), self.size(vocabulary)
        stream = unpack(self.packed[vocabulary], plan.coded(size), plan.num_codes, plan.bits)
        places = stream_places(torch.arange(size), plan.head, plan.coded(size), plan.tail(size), plan.base or None)
        codes: NDArray[np.int32] = stream[places.numpy()]
        return codes

    def _check_range(self, vocabulary: str, path: Path) -> None:
        num_codewords = self.codebooks.coded[vocabulary].num_codewords
        facts = self.facts(vocabulary)
        coded, num_codes, bits = facts["coded"], facts["num_codes"], facts["bits_per_code"]
        if num_codewords == 1 << bits:
            return
        for start in range(0, coded, _CHECK_ROWS):
            rows = min(_CHECK_ROWS, coded - start)
            first_byte = start * num_codes * bits // 8
            part = self.packed[vocabulary][first_byte : first_byte + packed_bytes(rows, num_codes, bits)]
            largest = int(unpack(part, rows, num_codes, bits).max())
            if largest >= num_codewords:
                raise BundleError(
                    f"{path}: vocabulary {vocabulary!r} has a code beyond its {num_codewords} codewords",
                    found=largest,
                    fix="run the quantize step again",
                )


def _check_head(
    vocabularies: Mapping[str, Mapping[str, Any]], head: Mapping[str, Tensor], codebooks: Codebooks, path: Path
) -> None:
    """Refuse spans of ids that are not in their vocabulary, and head rows that the manifest does not state."""
    for name, facts in vocabularies.items():
        size, base = facts["size"], facts.get("base", facts["size"])
        num_head, coded = facts.get("head", -1), facts.get("coded", 0)
        if not (num_head >= 0 < coded - (size - base) <= base - num_head and base <= size):
            raise BundleError(
                f"{path}: vocabulary {name!r} does not say how many exact rows and codes it has",
                found=dict(facts),
                fix="run the quantize step again with this version of mec",
            )
    dtype = DTYPES[codebooks.floats]
    wanted = {n: ((f["head"], codebooks.embedding_dim + 1), dtype) for n, f in vocabularies.items() if f["head"]}
    found = {name: (tuple(rows.shape), rows.dtype) for name, rows in head.items()}
    if found != wanted:
        raise BundleError(
            f"the exact rows in {path} are not those that its manifest and codebook state: {wanted}",
            found=found,
            fix="run the quantize step again",
        )


def _check_exact(exact: Mapping[str, Tensor], codebooks: Codebooks, path: Path) -> None:
    """Refuse exact rows that are not those of all vocabularies without codes, at least as many as the codebook has."""
    least = {name: (len(rows), rows.shape[1], rows.dtype) for name, rows in codebooks.exact.items()}
    found = {name: (len(rows), rows.shape[-1], rows.dtype) for name, rows in exact.items()}
    fits = least.keys() == found.keys() and all(
        rows.ndim == 2 and found[name][0] >= least[name][0] and found[name][1:] == least[name][1:]
        for name, rows in exact.items()
    )
    if not fits:
        raise BundleError(
            f"the exact rows in {path} are not those of the vocabularies without codes: {least} or more rows",
            found=found,
            fix="run the recode step again",
        )
