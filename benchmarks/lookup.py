"""Looking rows up from packed codes against gathering them from a full fp32 table.

    python benchmarks/lookup.py
    python benchmarks/lookup.py --served    # CodedEmbedding: codes of plans that a budget makes, with heads and tails

10,000 requests of 39 values (390,000 ids of one vocabulary of 10 million), rows of 17 floats, one thread. The codes
are read from the packed stream that the bytes are counted by, with the code that a server runs: ``gather_codes`` and a
codebook's ``decode``, or ``MergedCodewords`` where neighbouring codes are read as one. Both sides take turns in one
run; a ratio is the median, over the repetitions, of look-up time by gather time (quartiles in brackets). "codes" is the
part of a look-up that reads and unpacks the codes. "resident" is the ratio with each code in a uint8 of its own in
memory, at 8 bits a code instead of the bits shown. Target: 0.8.

glibc is told to keep freed memory. By its defaults either side's 26 MB result may be new pages from the kernel at
each call: 5 to 12 ms that come and go with the layout of the heap.

A full row is 68 bytes in two cache lines of 680 MB; a value's codes are one or two 16-bit reads of a stream of 7.5 to
30 MB. Both sides write the same 26 MB.

Result (2026-11-21, two EPYC cores at load 6, so that most times are about twice those of an idle machine):

    codebook        bits  ids       full  packed  codes   ratio (quartiles)       resident
    residual 1x64      6  uniform  48.4ms  14.3ms 12.4ms   0.44 (0.32 to 0.47)        0.25
    residual 1x64      6  zipf     18.1ms   7.6ms  8.8ms   0.46 (0.39 to 0.56)        0.29
    residual 1x256     8  uniform  22.9ms  10.6ms  3.4ms   0.36 (0.31 to 0.50)        0.27
    residual 1x256     8  zipf     34.3ms  10.1ms  2.9ms   0.37 (0.34 to 0.57)        0.33
    residual 2x64     12  uniform  51.6ms  28.9ms 16.2ms   0.57 (0.49 to 0.63)        0.50
    residual 2x64     12  zipf     39.9ms  23.2ms 12.9ms   0.57 (0.38 to 0.64)        0.58
    residual 2x256    16  uniform  49.4ms  24.3ms 12.2ms   0.48 (0.41 to 0.53)        0.55
    residual 2x256    16  zipf     36.9ms  23.1ms 11.2ms   0.63 (0.49 to 0.66)        0.66
    product  4x64     24  uniform  60.7ms  44.3ms 32.0ms   0.75 (0.64 to 0.84)        0.99
    product  4x64     24  zipf     36.2ms  27.5ms 13.8ms   0.78 (0.68 to 0.91)        1.04

2x64 is read as 1x4096 and 4x64 as 2x4096; one by one they took 0.66 to 0.70 and 0.88 to 0.90.

`--served`, ratios to the full gather, of codes alone, with half of the values in a shared tail, and with 50,000 exact
head rows besides (same machine and load):

    codebook        bits  ids      plain   tail   head and tail
    residual 1x64      6  uniform   0.42   0.48   0.51
    residual 1x64      6  zipf      0.46   0.42   0.95
    residual 2x128    14  uniform   0.64   0.57   1.08
    residual 2x128    14  zipf      0.71   0.66   1.48
    residual 8x32     40  uniform   1.35   1.11   1.73
    residual 8x32     40  zipf      1.39   1.41   1.80
    product  8x128    56  uniform   1.86   1.86   2.23
    product  8x128    56  zipf      2.18   2.22   1.92

Plans of eight codes, which budgets of 8x to 32x choose, cost 1.1 to 2.2 times a full gather (8x32 was 1.4 to 2.7 before
it was read as 4x1024), and a head costs a pass over all rows: they save memory, not time.
"""

from __future__ import annotations

import argparse
import ctypes
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mec.data.layout import FieldLayout, FieldSlots
from mec.embeddings.coded import CodedEmbedding
from mec.quantize.codebook import Codebooks
from mec.quantize.codes import Codes
from mec.quantize.fitting import Codebook
from mec.quantize.merged import MergedCodewords, merge_codewords
from mec.quantize.packing import bits_per_code, gather_codes, pack, packed_bytes
from mec.quantize.product import ProductCodebook
from mec.quantize.residual import ResidualCodebook

NUM_REQUESTS, NUM_VALUES_EACH, WIDTH, ZIPF = 10_000, 39, 17, 1.05
PLANS = (("residual", 1, 64), ("residual", 2, 128), ("residual", 8, 32), ("product", 8, 128))
HEAD, TAIL_SHARE = 50_000, 0.5
SETTINGS = (("residual", 1, 64), ("residual", 1, 256), ("residual", 2, 64), ("residual", 2, 256), ("product", 4, 64))
WARM_UPS = 3
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


@dataclass
class Compressed:
    """One vocabulary's codes, random, and a random codebook."""

    codebook: Codebook
    bits: int
    packed: Tensor
    resident: list[Tensor]
    merged: MergedCodewords | None

    def codes(self, ids: Tensor) -> Tensor:
        """(N,) ids -> (N, M) codes from the packed stream, or fewer where they are merged."""
        if self.merged is not None:
            return gather_codes(self.packed, ids, len(self.merged.codewords), self.merged.bits)
        return gather_codes(self.packed, ids, self.codebook.num_codes, self.bits)

    def rows(self, ids: Tensor) -> Tensor:
        """(N,) ids -> (N, W) rows."""
        if self.merged is not None:
            return cast("Tensor", self.merged(self.packed, ids))
        return self.codebook.decode(self.codes(ids))

    def resident_rows(self, ids: Tensor) -> Tensor:
        """(N,) ids -> (N, W) rows from codes that lie in memory as one uint8 array per codebook."""
        return self.codebook.decode(torch.stack([codes.index_select(0, ids).int() for codes in self.resident], dim=1))


def compress(structure: str, num_codes: int, num_codewords: int, num_values: int) -> Compressed:
    """Random codes of ``num_values`` values."""
    codes = np.random.default_rng(0).integers(0, num_codewords, (num_values, num_codes), dtype=np.uint8)
    generator = torch.Generator().manual_seed(0)
    codebook: Codebook
    if structure == "product":
        codebook = ProductCodebook(torch.randn(num_codewords, WIDTH, generator=generator), num_codes)
    else:
        codebook = ResidualCodebook(torch.randn(num_codes, num_codewords, WIDTH, generator=generator))
    bits = bits_per_code(num_codewords)
    resident = [torch.from_numpy(column.copy()) for column in codes.T]
    packed = torch.from_numpy(pack(codes, bits))
    return Compressed(codebook, bits, packed, resident, merge_codewords(codebook, bits, packed.numel()))


def served(side: Compressed, structure: str, num_values: int, head: int, tail: int) -> CodedEmbedding:
    """The embedding that is evaluated and served, with ``head`` exact rows and ``tail`` values that share a code."""
    slots = (FieldSlots("value", "categorical", "value", 0, 1, "none"),)
    layout = FieldLayout(slots, (("value", num_values),))
    codebooks = Codebooks("", layout, WIDTH - 1, {"value": side.codebook}, {}, "float16")
    size = packed_bytes(num_values - head - tail, side.codebook.num_codes, side.bits)
    rows = {"value": torch.randn(head, WIDTH, generator=torch.Generator().manual_seed(1)).half()} if head else {}
    starts = {"value": num_values - tail} if tail else {}
    codes = Codes(codebooks, {"value": side.packed.numpy()[:size]}, head=rows, tail_start=starts)
    return CodedEmbedding(codebooks, codes)


def some_ids(num_values: int) -> dict[str, Tensor]:
    """(N,) int32 ids, uniform and Zipf; the smaller an id, the more popular."""
    rng = np.random.default_rng(0)
    size = NUM_REQUESTS * NUM_VALUES_EACH
    popularity = np.cumsum(np.arange(1, num_values + 1.0) ** -ZIPF)
    zipf = np.searchsorted(popularity, rng.random(size) * popularity[-1])
    uniform = rng.integers(0, num_values, size)
    return {n: torch.from_numpy(i.astype(np.int32)) for n, i in (("uniform", uniform), ("zipf", zipf))}


def keep_freed_memory() -> None:
    """Have glibc keep what is freed, so that neither side's result is new pages from the kernel."""
    libc = ctypes.CDLL("libc.so.6")
    assert libc.mallopt(M_MMAP_THRESHOLD, 32 << 20) == 1
    assert libc.mallopt(M_TRIM_THRESHOLD, 1 << 30) == 1


def timed_in_turns(sides: dict[str, Callable[[], Tensor]], repeats: int) -> dict[str, NDArray[np.float64]]:
    """Milliseconds of each side, ``repeats`` times, every other time in reverse order."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    order = list(sides)
    for repeat in range(WARM_UPS + repeats):
        for name in order if repeat % 2 == 0 else order[::-1]:
            start = time.perf_counter()
            sides[name]()
            if repeat >= WARM_UPS:
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: np.array(values) for name, values in times.items()}


def time_served(table: Tensor, ids: dict[str, Tensor], repeats: int) -> None:
    """Print the ratios of ``CodedEmbedding`` for plain codes, with a tail, and with a head and a tail."""
    num_values = len(table)
    tail = int(TAIL_SHARE * num_values)
    print("codebook        bits  ids      plain   tail   head and tail")
    for structure, num_codes, num_codewords in PLANS:
        side = compress(structure, num_codes, num_codewords, num_values)
        forms = {"plain": (0, 0), "tail": (0, tail), "both": (HEAD, tail)}
        embeddings = {name: served(side, structure, num_values, *form) for name, form in forms.items()}
        for name, chosen in ids.items():
            sides: dict[str, Callable[[], Tensor]] = {
                form: lambda chosen=chosen, embedding=embedding: embedding.rows("value", chosen)
                for form, embedding in embeddings.items()
            }
            sides["full"] = lambda chosen=chosen: functional.embedding(chosen, table)
            with torch.inference_mode():
                times = timed_in_turns(sides, repeats)
            ratios = [np.median(times[form] / times["full"]) for form in forms]
            print(
                f"{structure:8} {num_codes}x{num_codewords:<4} {num_codes * side.bits:4}  {name:7}"
                + "".join(f"{ratio:7.2f}" for ratio in ratios)
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--values", type=int, default=10_000_000, help="size of the vocabulary")
    parser.add_argument("--repeats", type=int, default=31, help="timed look-ups of each side")
    parser.add_argument("--served", action="store_true", help="the embedding itself, with heads and tails")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    # numpy's memory, which asks for huge pages, and filled: untouched pages are all one page of zeros
    full = np.empty((arguments.values, WIDTH), dtype=np.float32)
    np.random.default_rng(0).random(out=full, dtype=np.float32)
    table = torch.from_numpy(full)
    ids = some_ids(arguments.values)
    if arguments.served:
        time_served(table, ids, arguments.repeats)
        return
    print("codebook        bits  ids       full  packed  codes   ratio (quartiles)       resident")
    for structure, num_codes, num_codewords in SETTINGS:
        side = compress(structure, num_codes, num_codewords, arguments.values)
        for name, chosen in ids.items():
            sides = {
                "full": lambda chosen=chosen: functional.embedding(chosen, table),
                "packed": lambda chosen=chosen, side=side: side.rows(chosen),
                "resident": lambda chosen=chosen, side=side: side.resident_rows(chosen),
                "codes": lambda chosen=chosen, side=side: side.codes(chosen),
            }
            with torch.inference_mode():
                torch.testing.assert_close(side.rows(chosen), side.resident_rows(chosen))
                times = timed_in_turns(sides, arguments.repeats)
            low, ratio, high = np.quantile(times["packed"] / times["full"], [0.25, 0.5, 0.75])
            resident = np.median(times["resident"] / times["full"])
            milliseconds = {k: np.median(v) for k, v in times.items()}
            print(
                f"{structure:8} {num_codes}x{num_codewords:<4} {num_codes * side.bits:4}  {name:7}"
                f" {milliseconds['full']:5.1f}ms {milliseconds['packed']:5.1f}ms {milliseconds['codes']:4.1f}ms"
                f"   {ratio:.2f} ({low:.2f} to {high:.2f})   {resident:9.2f}"
            )


if __name__ == "__main__":
    main()
