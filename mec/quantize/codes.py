"""The codes bundle: one packed bit stream per coded vocabulary, bound to one codebook."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from mec.bundle import Bundle, BundleDraft, open_bundle
from mec.errors import BundleError, SpaceError
from mec.quantize.codebook import Codebooks
from mec.quantize.packing import packed_bytes, unpack

CODES_FILE = "codes.safetensors"
_CHECK_ROWS = 1 << 18  # a multiple of 8, so that each part starts on a byte


@dataclass(frozen=True)
class Codes:
    """One generation of codes, as a server holds it.

    Attributes:
        codebooks: What the codes index.
        packed: Vocabulary -> uint8 bit stream; see ``mec.quantize.packing``.
        generation: 0 for a train run's codes, one more for each refresh.
        parent_generation: The generation it replaces.
        uuid: Of the bundle; empty before there is one.
    """

    codebooks: Codebooks
    packed: Mapping[str, NDArray[np.uint8]]
    generation: int = 0
    parent_generation: int | None = None
    uuid: str = ""

    @classmethod
    def open(cls, bundle: Bundle | Path, codebooks: Codebooks) -> Codes:
        """Read a codes bundle.

        Raises:
            SpaceError: The codes were made with another codebook, or for another space.
            BundleError: No sound codes bundle, or streams of a wrong length or with codes that name no codeword.
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
        packed = load_file(bundle.file(CODES_FILE))
        codes = cls(codebooks, packed, extra["generation"], extra["parent_generation"], bundle.uuid)
        facts = {name: codes.facts(name) for name in codebooks.coded}
        lengths = {name: packed_bytes(f["size"], f["num_codes"], f["bits_per_code"]) for name, f in facts.items()}
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
        save_file(dict(self.packed), draft.path / CODES_FILE)
        draft.extra |= {
            "codebook": self.codebooks.uuid,
            "space": self.codebooks.space,
            "generation": self.generation,
            "parent_generation": self.parent_generation,
            "vocabularies": {name: self.facts(name) for name in self.packed},
        }

    def facts(self, vocabulary: str) -> dict[str, int]:
        """Size V, codes per value M and bits per code of one coded vocabulary."""
        return {
            "size": self.codebooks.layout.size(vocabulary),
            "num_codes": self.codebooks.num_codes(vocabulary),
            "bits_per_code": self.codebooks.bits(vocabulary),
        }

    def unpacked(self, vocabulary: str) -> NDArray[np.int32]:
        """(V, M) codes of one coded vocabulary."""
        facts = self.facts(vocabulary)
        return unpack(self.packed[vocabulary], facts["size"], facts["num_codes"], facts["bits_per_code"])

    def _check_range(self, vocabulary: str, path: Path) -> None:
        num_codewords = self.codebooks.coded[vocabulary].num_codewords
        facts = self.facts(vocabulary)
        size, num_codes, bits = facts["size"], facts["num_codes"], facts["bits_per_code"]
        if num_codewords == 1 << bits:
            return
        for start in range(0, size, _CHECK_ROWS):
            rows = min(_CHECK_ROWS, size - start)
            first_byte = start * num_codes * bits // 8
            part = self.packed[vocabulary][first_byte : first_byte + packed_bytes(rows, num_codes, bits)]
            largest = int(unpack(part, rows, num_codes, bits).max())
            if largest >= num_codewords:
                raise BundleError(
                    f"{path}: vocabulary {vocabulary!r} has a code beyond its {num_codewords} codewords",
                    found=largest,
                    fix="run the quantize step again",
                )
