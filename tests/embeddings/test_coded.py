"""Rows decoded from codes, against a slow loop over the bundles' files; bytes against the files' sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mec.bundle import open_bundle
from mec.config import QuantizeConfig
from mec.embeddings.coded import CodedEmbedding
from mec.errors import ConfigError
from mec.evaluation.byte_accounting import vocabulary_bytes
from mec.quantize.codebook import Codebooks
from mec.quantize.codes import Codes
from mec.quantize.quantizing import quantize_step
from mec.quantize.storage import DTYPES
from tests.quantize.tables import clustered, make_bundles

SIZES = {"user": 300, "colour": 6, "item": 200}
HEAD_AND_TAIL = {"head": 10, "tail_count": 400}


def make(root: Path, **settings: Any) -> tuple[Codebooks, Codes]:
    made = make_bundles(root, {name: clustered(size, 5) for name, size in SIZES.items()})
    quantize = QuantizeConfig.model_validate({"num_codewords": 16, "min_values": 100, **settings})
    quantize_step(
        quantize=quantize, pretrained=made.pretrained, vocabulary=made.vocabulary, seed=0,
        out_codebook=root / "codebook", out_codes=root / "codes",
    )  # fmt: skip
    codebooks = Codebooks.open(root / "codebook")
    return codebooks, Codes.open(root / "codes", codebooks)


def slow_rows(codebooks: Codebooks, codes: Codes, name: str, ids: list[int]) -> Tensor:
    if name in codebooks.exact:
        return torch.stack([codebooks.exact[name][value].float() for value in ids])
    unpacked = torch.from_numpy(codes.unpacked(name))
    head = codes.head.get(name, torch.empty(0, 5))
    found = [
        head[value - 1].float() if 1 <= value <= len(head) else codebooks.decode(name, unpacked[value : value + 1])[0]
        for value in ids
    ]
    return torch.stack(found)


@pytest.mark.parametrize("floats", ["float16", "float32"])
@pytest.mark.parametrize("spans", [{}, {"head": 10}, {"tail_count": 400}, HEAD_AND_TAIL])
@pytest.mark.parametrize("shape", [{"num_codes": 2}, {"structure": "product", "num_codes": 3, "num_codewords": 12}])
def test_rows_and_bytes(tmp_path: Path, floats: str, spans: dict[str, int], shape: dict[str, Any]) -> None:
    codebooks, codes = make(tmp_path, floats=floats, **spans, **shape)
    embedding = CodedEmbedding(codebooks, codes)
    for name, size in SIZES.items():
        rows = embedding.rows(name, torch.arange(size, dtype=torch.int32))
        assert rows.dtype == torch.float32
        torch.testing.assert_close(rows, slow_rows(codebooks, codes, name, list(range(size))))
    ids = torch.tensor([[3, 5, 150], [0, 0, 0], [299, 1, 10]], dtype=torch.int32)
    expected = [slow_rows(codebooks, codes, name, ids[:, slot].tolist()) for slot, name in enumerate(SIZES)]
    torch.testing.assert_close(embedding(ids), torch.stack(expected, dim=1))
    files = {
        "codes": [tmp_path / "codes" / "codes.safetensors"],
        "codebooks": [tmp_path / "codebook" / "codebook.safetensors"],
        "rows": [tmp_path / "codebook" / "exact.safetensors", tmp_path / "codes" / "head.safetensors"],
    }
    taken = {part: sum(map(tensor_bytes, paths)) for part, paths in files.items()}
    assert embedding.serving_bytes() == taken | {"index": 0, "other": 0}
    plans = {name: codes.plan(name) for name in codebooks.coded}
    by_vocabulary = vocabulary_bytes(codebooks.layout, 4, plans, DTYPES[codebooks.floats].itemsize)
    assert taken == {part: sum(v.to_json()[part] for v in by_vocabulary) for part in files}


def tensor_bytes(file: Path) -> int:
    """What a safetensors file takes without its header."""
    header = int.from_bytes(file.read_bytes()[:8], "little")
    return file.stat().st_size - 8 - header


def test_frozen_tensors_are_held_as_they_are_stored(tmp_path: Path) -> None:
    codebooks, codes = make(tmp_path, **HEAD_AND_TAIL)
    embedding = CodedEmbedding(codebooks, codes)
    tensors = [*embedding.parameters(), *(b for b in embedding.buffers() if b.is_floating_point())]
    assert {t.dtype for t in tensors} == {torch.float16}
    held = sum(t.nbytes for t in [*tensors, *(b for b in embedding.buffers() if b.dtype == torch.uint8)])
    again = sum(codewords.nbytes for codewords in embedding.codewords)  # before the head rows, for one gather of both
    assert held == sum(embedding.serving_bytes().values()) + again


def test_gradients_reach_codewords_and_small_tables_but_not_the_head(tmp_path: Path) -> None:
    codebooks, codes = make(tmp_path, **HEAD_AND_TAIL)
    embedding = CodedEmbedding(codebooks, codes, "warm")
    before = {name: rows.clone() for name, rows in codes.head.items()}
    ids = torch.tensor([[3, 0, 4], [1, 0, 10]], dtype=torch.int32)  # of the head in both large vocabularies
    embedding(ids).square().sum().backward()
    assert all(p.grad is not None and p.dtype == torch.float32 for p in [*embedding.codewords, *embedding.exact])
    assert all(not codewords.grad.any() for codewords in embedding.codewords)
    assert embedding.exact[0].grad.any(1).nonzero().flatten().tolist() == [0]
    embedding(torch.tensor([[11, 0, 199]], dtype=torch.int32)).square().sum().backward()
    assert all(codewords.grad.any() for codewords in embedding.codewords)
    assert all(torch.equal(codes.head[name], rows) for name, rows in before.items())


@pytest.mark.parametrize("structure", ["residual", "product"])
@pytest.mark.parametrize("num_codes", [1, 2])
def test_head_rows_and_decoded_rows_stand_where_their_values_do(tmp_path: Path, structure: str, num_codes: int) -> None:
    codebooks, codes = make(tmp_path, **HEAD_AND_TAIL | {"structure": structure, "num_codes": num_codes})
    embedding = CodedEmbedding(codebooks, codes)
    for name in codes.head:
        size, head = codes.size(name), len(codes.head[name])
        ids = torch.from_numpy(np.random.default_rng(0).integers(0, size, 500).astype(np.int32))
        found = embedding.rows(name, ids)
        decoded = codebooks.coded[name].decode(torch.from_numpy(codes.unpacked(name)).long())
        for value, row in zip(ids.tolist(), found, strict=True):
            expected = codes.head[name][value - 1].float() if 1 <= value <= head else decoded[value]
            assert torch.equal(row, expected)


def test_random_codewords_beside_a_head_are_refused(tmp_path: Path) -> None:
    codebooks, codes = make(tmp_path, head=10)
    with pytest.raises(ConfigError, match=r"random codewords leave the pre-trained space.*rows of item, user"):
        CodedEmbedding(codebooks, codes, "random")


def test_codes_of_float16_and_float32_books_differ_in_bytes_only_by_floats(tmp_path: Path) -> None:
    half, single = (
        CodedEmbedding(*make(tmp_path / floats, floats=floats, head=5)).serving_bytes()
        for floats in ("float16", "float32")
    )
    assert half["codes"] == single["codes"]
    assert (2 * half["codebooks"], 2 * half["rows"]) == (single["codebooks"], single["rows"])
    assert open_bundle(tmp_path / "float16" / "codebook").extra["floats"] == "float16"
