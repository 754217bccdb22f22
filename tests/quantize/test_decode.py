"""Decoding: the same rows and gradients by every way that a look-up may take."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mec.quantize.product import ProductCodebook, column_parts
from mec.quantize.residual import ResidualCodebook, sum_codewords

NUM_CODEWORDS, WIDTH = 12, 17
ROWS = [0, 1, 11, 12, 63, 64, 65, 200]  # around the number of codewords and whole tiles of 64


def random_codewords(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def random_codes(num_rows: int, num_codes: int, dtype: torch.dtype = torch.int32) -> Tensor:
    generator = torch.Generator().manual_seed(num_rows)
    return torch.randint(0, NUM_CODEWORDS, (num_rows, num_codes), generator=generator).to(dtype)


def residual_by_the_book(codewords: Tensor, codes: Tensor) -> Tensor:
    rows = torch.zeros(len(codes), WIDTH)
    for n, own in enumerate(codes.tolist()):
        for m, code in enumerate(own):
            rows[n] = rows[n] + codewords[m, code]
    return rows


def product_by_the_book(codewords: Tensor, codes: Tensor) -> Tensor:
    rows = torch.full((len(codes), WIDTH), torch.nan)
    for n, own in enumerate(codes.tolist()):
        for part, code in zip(column_parts(WIDTH, len(own)), own, strict=True):
            rows[n, part] = codewords[code, part]
    return rows


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("num_codes", [1, 2, 3, 8])
def test_rows(num_codes: int, trained: bool) -> None:
    residual, product = random_codewords(num_codes, NUM_CODEWORDS, WIDTH), random_codewords(NUM_CODEWORDS, WIDTH)
    for num_rows in ROWS:
        codes = random_codes(num_rows, num_codes)
        expected = residual_by_the_book(residual, codes), product_by_the_book(product, codes)
        residual.requires_grad_(trained), product.requires_grad_(trained)
        books = ResidualCodebook(residual), ProductCodebook(product, num_codes)
        for book, rows in zip(books, expected, strict=True):
            decoded = book.decode(codes)
            assert decoded.requires_grad is trained
            assert torch.equal(decoded, rows)
            with torch.no_grad():
                assert torch.equal(book.decode(codes), rows)
        residual.requires_grad_(False), product.requires_grad_(False)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_codes_of_any_integers_and_layout(dtype: torch.dtype) -> None:
    codes = random_codes(70, 6, dtype)
    for strided in (codes[:, ::2], codes.T.contiguous().T[:, :3], codes.flip(0)[::2, 1:4]):
        before = strided.clone()
        residual = ResidualCodebook(random_codewords(3, NUM_CODEWORDS, WIDTH))
        assert torch.equal(residual.decode(strided), residual_by_the_book(residual.codewords, strided))
        product = ProductCodebook(random_codewords(NUM_CODEWORDS, WIDTH), 3)
        assert torch.equal(product.decode(strided), product_by_the_book(product.codewords, strided))
        assert torch.equal(strided, before)


@pytest.mark.parametrize("structure", ["residual", "product"])
@pytest.mark.parametrize("num_codes", [1, 3])
def test_gradients(structure: str, num_codes: int) -> None:
    codes = random_codes(100, num_codes)
    upstream = random_codewords(100, WIDTH)
    shape = (num_codes, NUM_CODEWORDS, WIDTH) if structure == "residual" else (NUM_CODEWORDS, WIDTH)
    codewords = random_codewords(*shape).requires_grad_()
    book = ResidualCodebook(codewords) if structure == "residual" else ProductCodebook(codewords, num_codes)
    book.decode(codes).backward(upstream)
    expected = torch.zeros(shape)
    for own, row in zip(codes.tolist(), upstream, strict=True):
        for m, (code, part) in enumerate(zip(own, column_parts(WIDTH, num_codes), strict=True)):
            if structure == "residual":
                expected[m, code] += row
            else:
                expected[code, part] += row[part]
    assert codewords.grad is not None
    torch.testing.assert_close(codewords.grad, expected)


def test_a_code_beyond_the_codewords() -> None:
    with pytest.raises((IndexError, RuntimeError)):
        sum_codewords(random_codewords(2, NUM_CODEWORDS, WIDTH), torch.tensor([[0, NUM_CODEWORDS]]))
