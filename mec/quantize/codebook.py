"""The codebook bundle: each vocabulary's codebook, or its exact vectors where it is small."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mec.bundle import Bundle, BundleDraft, open_bundle
from mec.data.layout import FieldLayout
from mec.errors import BundleError
from mec.quantize.fitting import Codebook
from mec.quantize.packing import bits_per_code
from mec.quantize.plan import Structure
from mec.quantize.product import ProductCodebook
from mec.quantize.residual import ResidualCodebook
from mec.quantize.storage import DTYPES, Floats

CODEBOOK_FILE = "codebook.safetensors"
EXACT_FILE = "exact.safetensors"


@dataclass(frozen=True)
class Codebooks:
    """What turns codes into vectors, for all vocabularies of a space.

    Attributes:
        space: uuid of the embedding space.
        layout: Fields and vocabularies.
        embedding_dim: D; rows are D + 1 floats wide, column 0 is the first-order weight.
        coded: Vocabulary -> codebook, in the order of the layout; its codewords are float32, of values that ``floats``
            can hold.
        exact: Vocabulary -> (V, D + 1) rows as they are stored, for vocabularies without codes; in the order of the
            layout.
        floats: How codewords and exact rows are stored.
        uuid: Of the bundle; empty before there is one.
    """

    space: str
    layout: FieldLayout
    embedding_dim: int
    coded: Mapping[str, Codebook]
    exact: Mapping[str, Tensor]
    floats: Floats = "float32"
    uuid: str = ""

    @classmethod
    def open(cls, bundle: Bundle | Path) -> Codebooks:
        """Read a codebook bundle.

        Raises:
            BundleError: No sound codebook bundle, or its tensors are not what its manifest states.
        """
        if not isinstance(bundle, Bundle):
            bundle = open_bundle(bundle, "codebook")
        extra = bundle.extra
        floats = extra.get("floats")
        if floats not in DTYPES:
            raise BundleError(
                f"the codebook {bundle.path} does not say how its floats are stored, as {' or '.join(DTYPES)}",
                found=floats,
                fix="run the quantize step again with this version of mec",
            )
        codewords = load_file(bundle.file(CODEBOOK_FILE))
        exact = load_file(bundle.file(EXACT_FILE))
        width = int(extra["embedding_dim"]) + 1
        layout = FieldLayout.from_json(extra["layout"])
        wanted = {name: _shape(width, facts) for name, facts in extra["coded"].items()}
        wanted |= {name: (layout.size(name), width) for name in extra["exact"]}
        found = {name: tuple(tensor.shape) for name, tensor in (codewords | exact).items()}
        if found != wanted or wanted.keys() != dict(layout.vocabularies).keys():
            raise BundleError(
                f"the tensors of codebook {bundle.path} are not those its manifest states: {wanted}",
                found=found,
                fix="run the quantize step again",
            )
        types = {name: str(t.dtype) for name, t in (codewords | exact).items() if t.dtype != DTYPES[floats]}
        if types:
            raise BundleError(
                f"the tensors of codebook {bundle.path} are not {floats}, as its manifest states",
                found=types,
                fix="run the quantize step again",
            )
        names = list(dict(layout.vocabularies))
        coded = {n: _codebook(codewords[n].float(), extra["coded"][n]) for n in names if n in codewords}
        exact = {n: exact[n] for n in names if n in exact}
        return cls(extra["space"], layout, width - 1, coded, exact, floats, bundle.uuid)

    def write(self, draft: BundleDraft, oov_codes: Mapping[str, list[int]], diagnostics: Mapping[str, Any]) -> None:
        """Put files and facts into a codebook bundle being written.

        Args:
            draft: The bundle.
            oov_codes: Vocabulary -> the M codes of id 0.
            diagnostics: JSON value for people; no reader needs it.
        """
        codewords = {name: book.codewords.contiguous().to(DTYPES[self.floats]) for name, book in self.coded.items()}
        assert all(torch.equal(codewords[n].float(), book.codewords) for n, book in self.coded.items()), "not rounded"
        assert all(rows.dtype == DTYPES[self.floats] for rows in self.exact.values())
        save_file(codewords, draft.path / CODEBOOK_FILE)
        save_file({name: rows.contiguous() for name, rows in self.exact.items()}, draft.path / EXACT_FILE)
        draft.extra |= {
            "space": self.space,
            "floats": self.floats,
            "embedding_dim": self.embedding_dim,
            "layout": self.layout.to_json(),
            "coded": {
                name: {
                    "structure": structure_of(book),
                    "num_codes": book.num_codes,
                    "num_codewords": book.num_codewords,
                    "bits_per_code": bits_per_code(book.num_codewords),
                    "oov_code": oov_codes[name],
                }
                for name, book in self.coded.items()
            },
            "exact": list(self.exact),
            "diagnostics": dict(diagnostics),
        }

    def num_codes(self, vocabulary: str) -> int:
        """M of one coded vocabulary."""
        return self.coded[vocabulary].num_codes

    def bits(self, vocabulary: str) -> int:
        """Bits per code of one coded vocabulary."""
        return bits_per_code(self.coded[vocabulary].num_codewords)

    def encode(self, vocabulary: str, vectors: Tensor) -> Tensor:
        """Code vectors.

        Args:
            vocabulary: A coded one.
            vectors: (N, D + 1) float32.

        Returns:
            (N, M) int64.
        """
        return self.coded[vocabulary].encode(vectors)

    def decode(self, vocabulary: str, codes: Tensor) -> Tensor:
        """Look codes up.

        Args:
            vocabulary: A coded one.
            codes: (N, M) integers.

        Returns:
            (N, D + 1) float32.
        """
        return self.coded[vocabulary].decode(codes)


def structure_of(book: Codebook) -> Structure:
    """The structure of a codebook."""
    return "product" if isinstance(book, ProductCodebook) else "residual"


def make_codebook(structure: str, codewords: Tensor, num_codes: int) -> Codebook:
    """A codebook of given codewords: (K, W) for product, (M, K, W) for residual."""
    return ProductCodebook(codewords, num_codes) if structure == "product" else ResidualCodebook(codewords)


def _codebook(codewords: Tensor, facts: Mapping[str, Any]) -> Codebook:
    return make_codebook(facts["structure"], codewords, facts["num_codes"])


def _shape(width: int, facts: Mapping[str, Any]) -> tuple[int, ...]:
    if facts["structure"] == "product":
        return (facts["num_codewords"], width)
    return (facts["num_codes"], facts["num_codewords"], width)
