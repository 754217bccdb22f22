"""Neighbouring codes read as one give the rows that ``decode`` gives, and only where that takes little memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mec.data.layout import FieldLayout, FieldSlots
from mec.embeddings.coded import CodedEmbedding
from mec.quantize.codebook import Codebooks, make_codebook
from mec.quantize.codes import Codes
from mec.quantize.fitting import Codebook
from mec.quantize.merged import MergedCodewords, merge_codewords
from mec.quantize.packing import bits_per_code, pack, packed_bytes

PLENTY = 1 << 30


def some_codes(structure: str, num_codes: int, num_codewords: int, num_values: int) -> tuple[Codebook, np.ndarray]:
    """A random codebook of rows of 7 floats, and (V, M) random codes."""
    generator = torch.Generator().manual_seed(num_codes)
    shape = (num_codewords, 7) if structure == "product" else (num_codes, num_codewords, 7)
    codes = np.random.default_rng(num_codewords).integers(0, num_codewords, (num_values, num_codes))
    return make_codebook(structure, torch.randn(shape, generator=generator), num_codes), codes


@pytest.mark.parametrize("structure", ["product", "residual"])
@pytest.mark.parametrize(
    ("num_codes", "num_codewords", "merged"),
    [(2, 64, (1, 12)), (4, 64, (2, 12)), (4, 50, (2, 12)), (6, 4, (1, 12)), (6, 5, (2, 9)), (3, 16, (1, 12))],
)
def test_rows_are_those_of_decode(structure: str, num_codes: int, num_codewords: int, merged: tuple[int, int]) -> None:
    codebook, codes = some_codes(structure, num_codes, num_codewords, 300)
    bits = bits_per_code(num_codewords)
    packed = torch.from_numpy(pack(codes, bits))
    found = merge_codewords(codebook, bits, PLENTY)
    assert found is not None
    assert (len(found.codewords), found.bits) == merged
    ids = torch.randperm(300, generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    expected = codebook.decode(torch.from_numpy(codes)[ids.long()])
    torch.testing.assert_close(found(packed, ids), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("num_codes", "num_codewords", "why"),
    [(1, 64, "nothing beside it"), (5, 64, "no pairs"), (4, 128, "2 x 7 bits are too many")],
)
def test_what_cannot_be_merged_is_left(num_codes: int, num_codewords: int, why: str) -> None:
    codebook, _ = some_codes("residual", num_codes, num_codewords, 4)
    assert merge_codewords(codebook, bits_per_code(num_codewords), PLENTY) is None, why


def test_merged_codewords_are_small_beside_the_codes() -> None:
    codebook, _ = some_codes("residual", 4, 8, 4)
    four, two = 4096 * 7 * 4, 2 * 64 * 7 * 4  # bytes, of 1x4096 and of 2x64

    def rows_for(num_bytes: int) -> int | None:
        found: MergedCodewords | None = merge_codewords(codebook, 3, num_bytes)
        return None if found is None else found.codewords.shape[1]

    assert rows_for(16 * four) == 4096
    assert rows_for(16 * four - 1) == 64
    assert rows_for(16 * two) == 64
    assert rows_for(16 * two - 1) is None


@pytest.mark.parametrize(("head", "tail"), [(0, 0), (0, 5_000), (40, 5_000)])
def test_an_embedding_serves_the_same_rows_and_bytes(head: int, tail: int) -> None:
    num_values = 20_000
    codebook, codes = some_codes("residual", 2, 4, num_values - head - tail + (tail > 0))
    layout = FieldLayout((FieldSlots("value", "categorical", "value", 0, 1, "none"),), (("value", num_values),))
    books = Codebooks("", layout, 6, {"value": codebook}, {}, "float32")
    heads = {"value": torch.randn(head, 7)} if head else {}
    tails = {"value": num_values - tail} if tail else {}
    kept = Codes(books, {"value": pack(codes, 2)}, head=heads, tail_start=tails)
    embedding = CodedEmbedding(books, kept)
    ids = torch.arange(num_values, dtype=torch.int32)
    merged = embedding.rows("value", ids)
    assert len(embedding._merged) == 1
    assert embedding.serving_bytes() == {
        "codes": packed_bytes(len(codes), 2, 2),
        "codebooks": 2 * 4 * 7 * 4,
        "rows": head * 7 * 4,
        "index": 0,
        "other": 0,
    }
    embedding._merged.clear()
    torch.testing.assert_close(merged, embedding.rows("value", ids), rtol=1e-6, atol=1e-6)
    assert not any(key.startswith("_merged") for key in embedding.state_dict())


def test_codewords_that_are_trained_are_not_merged() -> None:
    codebook, codes = some_codes("residual", 2, 4, 20_000)
    layout = FieldLayout((FieldSlots("value", "categorical", "value", 0, 1, "none"),), (("value", 20_000),))
    books = Codebooks("", layout, 6, {"value": codebook}, {}, "float32")
    embedding = CodedEmbedding(books, Codes(books, {"value": pack(codes, 2)}), "warm")
    assert len(embedding._merged) == 0
