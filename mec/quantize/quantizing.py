"""The quantize step: pre-trained tables to codebooks and packed codes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from mec.bundle import Bundle, open_bundle, write_bundle
from mec.config import QuantizeConfig
from mec.data.layout import OOV_ID, FieldLayout
from mec.data.vocabulary import Vocabularies
from mec.errors import BundleError, TrainingError
from mec.progress import Progress, note
from mec.quantize.codebook import Codebooks
from mec.quantize.codes import Codes
from mec.quantize.diagnostics import CodingQuality, explained, usage
from mec.quantize.fit_watch import FitWatch
from mec.quantize.fitting import Codebook, check_settings, fit_codebook
from mec.quantize.packing import bits_per_code, pack
from mec.quantize.weights import popularity_weights
from mec.steps import step

STEP = "quantize"
TABLES_FILE = "tables.safetensors"
_LARGEST = 1e15  # squares of larger values overflow float32 when summed


def quantize_step(
    *, quantize: QuantizeConfig, pretrained: Path, vocabulary: Path, seed: int, out_codebook: Path, out_codes: Path
) -> None:
    """Code every large vocabulary's pre-trained rows, and keep the small ones exact.

    Args:
        quantize: Structure, M, K, weights and thresholds.
        pretrained: "pretrained" bundle with the tables.
        vocabulary: "vocabulary" bundle with the training counts.
        seed: Of samples and first codewords.
        out_codebook: Where the "codebook" bundle goes.
        out_codes: Where the "codes" bundle goes.

    Raises:
        ConfigError: M, K and D do not go together.
        TrainingError: A table holds rows that are not finite, or none of its values was seen in training.
        BundleError: Tables and vocabulary differ in size.
    """
    with step(STEP, out_codebook) as record:
        tables = open_bundle(pretrained, "pretrained")
        vocabularies = Vocabularies.open(vocabulary)
        layout = FieldLayout.from_json(tables.extra["layout"])
        embedding_dim = int(tables.extra["embedding_dim"])
        check_settings(quantize, embedding_dim + 1)
        sizes = dict(layout.vocabularies)
        to_code = [n for n, v in sizes.items() if v >= quantize.min_values and v > quantize.num_codewords]
        progress = Progress(STEP, 2 * sum(sizes[name] for name in to_code))  # once to fit, once to code
        coded: dict[str, Codebook] = {}
        exact: dict[str, Tensor] = {}
        packed: dict[str, NDArray[np.uint8]] = {}
        oov_codes: dict[str, list[int]] = {}
        quality: dict[str, CodingQuality] = {}
        for name, size in sizes.items():
            rows = _read_table(tables, name, size, embedding_dim + 1, quantize.chunk_rows)
            if name not in to_code:
                exact[name] = rows
                continue
            weights = _weights(vocabularies, name, size, quantize)
            watch = FitWatch(_fit_progress(progress, name, size))
            book = fit_codebook(rows, weights, quantize, seed=_vocabulary_seed(seed, name), watch=watch)
            watch.progress(1.0, f"{size:,} values fitted")
            _warn_if_worse(name, watch.facts)
            codes, distortion = _code(rows, weights, book, quantize.chunk_rows, progress, name)
            coded[name] = book
            oov_codes[name] = codes[OOV_ID].tolist()
            packed[name] = pack(codes, bits_per_code(book.num_codewords))
            live, perplexity = usage(codes, book.num_codewords)
            quality[name] = CodingQuality(
                size=size,
                live_codewords=live,
                perplexity=perplexity,
                distortion=distortion,
                variance=_variance(rows, weights, quantize.chunk_rows),
                code_bytes=packed[name].nbytes,
                codebook_bytes=book.codewords.nbytes,
                fit=watch.facts,
            )
        codebooks = Codebooks(tables.extra["space"], quantize.structure, layout, embedding_dim, coded, exact)
        parents = {"pretrained": tables, "vocabulary": vocabularies.bundle}
        config = {"quantize": quantize.model_dump(mode="json"), "seed": seed}
        with write_bundle(out_codebook, "codebook", parents=parents, config=config) as draft:
            codebooks.write(draft, oov_codes, {name: q.to_json() for name, q in quality.items()})
        written = open_bundle(out_codebook, "codebook")
        codes_parents = {"codebook": written, "vocabulary": vocabularies.bundle}
        with write_bundle(out_codes, "codes", parents=codes_parents, config=config) as draft:
            Codes(replace(codebooks, uuid=written.uuid), packed).write(draft)
        record.summary = _summary(quantize, codebooks, quality)


def _read_table(tables: Bundle, name: str, size: int, width: int, chunk_rows: int) -> Tensor:
    with safe_open(tables.file(TABLES_FILE), framework="pt") as file:
        if name not in file.keys():  # noqa: SIM118  (safe_open is no mapping)
            raise BundleError(
                f"{tables.path} has no table of vocabulary {name!r}",
                found=sorted(file.keys()),
                fix="run the pretrain step again",
            )
        rows: Tensor = file.get_tensor(name)
    if rows.shape != (size, width):
        raise BundleError(
            f"the table of vocabulary {name!r} in {tables.path} is not ({size}, {width})",
            found=tuple(rows.shape),
            fix="run the pretrain step again",
        )
    # in chunks, here and in the variance: a temporary of the whole table would double the memory
    num_bad = size - sum(int((part.abs() <= _LARGEST).all(dim=1).sum()) for part in torch.split(rows, chunk_rows))
    if num_bad:
        raise TrainingError(
            f"the pre-trained table of vocabulary {name!r} has rows that cannot be coded",
            found=f"{num_bad} of {size} rows with NaN, infinity or values beyond {_LARGEST:g}",
            fix="pre-train again with a smaller pretrain.learning_rate",
        )
    return rows.float()


def _weights(vocabularies: Vocabularies, name: str, size: int, quantize: QuantizeConfig) -> Tensor:
    counts = vocabularies.counts(name)
    if len(counts) != size:
        raise BundleError(
            f"vocabulary {name!r} has {len(counts)} values, but its pre-trained table another number",
            found=size,
            fix="pass the vocabulary that the tables were trained with",
        )
    if not counts.any():
        raise TrainingError(
            f"no value of vocabulary {name!r} was seen in training",
            found="counts of 0",
            fix="count the training split again",
        )
    return torch.from_numpy(popularity_weights(counts, quantize.weights))


def _fit_progress(progress: Progress, name: str, size: int) -> Callable[[float, str], None]:
    start = progress.done
    return lambda share, text: progress.set(start + int(share * size), f"{name}: {text}")


def _warn_if_worse(name: str, facts: Mapping[str, float]) -> None:
    if "mec_distortion" not in facts:
        return
    before, after = facts["kmeans_distortion"], facts["mec_distortion"]
    if after > before:
        more = f"{100 * (after / before - 1):.1f} % more" if before > 0 else "more"
        note(STEP, f"{name}: the MEC objective ends with {more} weighted distortion than k-means")


def _code(
    rows: Tensor, weights: Tensor, book: Codebook, chunk_rows: int, progress: Progress, name: str
) -> tuple[NDArray[np.uint16], float]:
    """(V, M) codes of all rows and their weighted distortion, a chunk at a time."""
    codes = np.empty((len(rows), book.num_codes), dtype=np.uint16)
    distortion = 0.0
    for start in range(0, len(rows), chunk_rows):
        part = slice(start, start + chunk_rows)
        found = book.encode(rows[part])
        errors = (rows[part] - book.decode(found)).square().sum(1)
        distortion += float((errors * weights[part]).sum(dtype=torch.float64))
        codes[part] = found.numpy()
        progress.update(len(found), f"{name}: coded")
    return codes, distortion


def _variance(rows: Tensor, weights: Tensor, chunk_rows: int) -> float:
    center = ((weights @ rows).double() / weights.double().sum()).float()
    parts = zip(torch.split(rows, chunk_rows), torch.split(weights, chunk_rows), strict=True)
    return sum(float(((part - center).square().sum(1) * w).sum(dtype=torch.float64)) for part, w in parts)


def _vocabulary_seed(seed: int, vocabulary: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{vocabulary}".encode()).digest()[:6], "little")


def _summary(quantize: QuantizeConfig, codebooks: Codebooks, quality: dict[str, CodingQuality]) -> str:
    num_bytes = sum(q.code_bytes + q.codebook_bytes for q in quality.values())
    num_bytes += sum(rows.nbytes for rows in codebooks.exact.values())
    total = f"{len(quality)} of {len(codebooks.layout.vocabularies)} vocabularies coded"
    if not quality:
        return f"{total}: none has quantize.min_values and more than num_codewords values, {num_bytes / 2**20:.2f} MiB"
    share = explained(sum(q.distortion for q in quality.values()), sum(q.variance for q in quality.values()))
    shape = f"{quantize.structure} {quantize.num_codes}x{quantize.num_codewords}"
    return f"{total}, {shape}, {100 * share:.0f} % of variance, {num_bytes / 2**20:.2f} MiB"
