"""The codes bundle: round trip, its bond to one codebook, damage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mec.bundle import open_bundle, write_bundle
from mec.data.layout import FieldLayout, FieldSlots
from mec.errors import BundleError, SpaceError
from mec.quantize import codes as codes_module
from mec.quantize.codebook import Codebooks
from mec.quantize.codes import Codes
from mec.quantize.packing import gather_codes, pack
from mec.quantize.residual import ResidualCodebook
from tests.quantize.tables import SPACE

SIZE, NUM_CODES, NUM_CODEWORDS, BITS = 101, 3, 20, 5


def make_codebooks(path: Path, *, seed: int = 0, space: str = SPACE) -> Codebooks:
    layout = FieldLayout((FieldSlots("user", "categorical", "user", 0, 1, "none"),), (("user", SIZE),))
    codewords = torch.randn(NUM_CODES, NUM_CODEWORDS, 4, generator=torch.Generator().manual_seed(seed))
    with write_bundle(path, "codebook") as draft:
        Codebooks(space, layout, 3, {"user": ResidualCodebook(codewords)}, {}).write(
            draft, {"user": [0] * NUM_CODES}, {}
        )
    return Codebooks.open(path)


def some_codes(largest: int = NUM_CODEWORDS - 1) -> NDArray[np.int64]:
    codes = np.random.default_rng(0).integers(0, NUM_CODEWORDS, (SIZE, NUM_CODES))
    codes[-1, -1] = largest
    return codes


def write(path: Path, codes: Codes) -> Path:
    with write_bundle(path, "codes", parents={"codebook": codes.codebooks.uuid}) as draft:
        codes.write(draft)
    return path


def test_round_trip(tmp_path: Path) -> None:
    codebooks, drawn = make_codebooks(tmp_path / "codebook"), some_codes()
    path = write(tmp_path / "codes", Codes(codebooks, {"user": pack(drawn, BITS)}, 2, 1))
    bundle = open_bundle(path, "codes")
    opened = Codes.open(path, codebooks)
    assert opened.uuid == bundle.uuid
    assert (opened.generation, opened.parent_generation) == (2, 1)
    np.testing.assert_array_equal(opened.unpacked("user"), drawn)
    stream = torch.from_numpy(opened.packed["user"])
    gathered = gather_codes(stream, torch.tensor([100, 5]), NUM_CODES, BITS)
    np.testing.assert_array_equal(gathered.numpy(), drawn[[100, 5]])
    assert opened.packed["user"].nbytes == -(-SIZE * NUM_CODES * BITS // 8)
    facts = {"size": SIZE, "num_codes": NUM_CODES, "bits_per_code": BITS, "head": 0, "coded": SIZE}
    assert bundle.extra["vocabularies"] == {"user": facts}
    assert bundle.extra["codebook"] == codebooks.uuid


@pytest.mark.parametrize("foreign", [{"seed": 1}, {"space": "22222222-2222-4222-8222-222222222222"}])
def test_a_foreign_codebook_is_refused(tmp_path: Path, foreign: dict[str, Any]) -> None:
    codebooks = make_codebooks(tmp_path / "codebook")
    path = write(tmp_path / "codes", Codes(codebooks, {"user": pack(some_codes(), BITS)}))
    other = make_codebooks(tmp_path / "other", **foreign)
    with pytest.raises(SpaceError, match=f"not of codebook {other.uuid}.*found: {codebooks.uuid}"):
        Codes.open(path, other)


def test_a_foreign_space_is_refused(tmp_path: Path) -> None:
    codebooks = make_codebooks(tmp_path / "codebook")
    path = write(tmp_path / "codes", Codes(codebooks, {"user": pack(some_codes(), BITS)}))
    with pytest.raises(SpaceError, match="not of space elsewhere"):
        Codes.open(path, replace(codebooks, space="elsewhere"))


def test_a_stream_that_is_too_short(tmp_path: Path) -> None:
    codebooks = make_codebooks(tmp_path / "codebook")
    path = write(tmp_path / "codes", Codes(codebooks, {"user": pack(some_codes(), BITS)[:-1].copy()}))
    with pytest.raises(BundleError, match="do not fit their codebook"):
        Codes.open(path, codebooks)


def test_a_vocabulary_without_codes(tmp_path: Path) -> None:
    codebooks = make_codebooks(tmp_path / "codebook")
    path = write(tmp_path / "codes", Codes(codebooks, {}))
    with pytest.raises(BundleError, match="do not fit their codebook"):
        Codes.open(path, codebooks)


@pytest.mark.parametrize("check_rows", [8, 1 << 18])
def test_a_code_beyond_the_codewords(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check_rows: int) -> None:
    monkeypatch.setattr(codes_module, "_CHECK_ROWS", check_rows)
    codebooks = make_codebooks(tmp_path / "codebook")
    path = write(tmp_path / "codes", Codes(codebooks, {"user": pack(some_codes(NUM_CODEWORDS), BITS)}))
    with pytest.raises(BundleError, match=f"beyond its {NUM_CODEWORDS} codewords; found: {NUM_CODEWORDS}"):
        Codes.open(path, codebooks)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"head": 3}, r"exact rows in .* are not those"),
        ({"head": -1}, "does not say how many exact rows and codes"),
        ({"coded": 0}, "does not say how many exact rows and codes"),
        ({"coded": SIZE}, "does not say how many exact rows and codes"),
        ({"coded": 20}, "do not fit their codebook"),
    ],
)
def test_spans_that_the_files_do_not_have(tmp_path: Path, change: dict[str, int], words: str) -> None:
    codebooks = make_codebooks(tmp_path / "codebook")
    rows, stream = torch.randn(5, 4), some_codes()[:40]
    codes = Codes(codebooks, {"user": pack(stream, BITS)}, head={"user": rows}, tail_start={"user": 45})
    opened = Codes.open(write(tmp_path / "sound", codes), codebooks)
    assert torch.equal(opened.head["user"], rows)
    assert opened.tail_start == {"user": 45}
    with write_bundle(tmp_path / "codes", "codes", parents={"codebook": codebooks.uuid}) as draft:
        codes.write(draft)
        draft.extra["vocabularies"]["user"] |= change
    with pytest.raises(BundleError, match=words):
        Codes.open(tmp_path / "codes", codebooks)
