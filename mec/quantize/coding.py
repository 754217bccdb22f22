"""One vocabulary's rows to codes, codebook and head rows, as its plan says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mec.config import QuantizeConfig
from mec.data.layout import OOV_ID
from mec.devices import find_device
from mec.errors import TrainingError
from mec.quantize.codebook import make_codebook
from mec.quantize.diagnostics import CodingQuality, usage
from mec.quantize.fit_watch import FitWatch
from mec.quantize.fitting import Codebook, fit_codebook
from mec.quantize.packing import pack
from mec.quantize.plan import VocabularyPlan
from mec.quantize.storage import refuse_vanishing, stored
from mec.quantize.value_probe import ValueProbe

_ROUNDING = 1e-10  # squared distance from a mean in float32, as a part of the mean's square, that is none


@dataclass(frozen=True)
class CodedTable:
    """What is kept of one vocabulary's table.

    Attributes:
        book: Codebook of codewords as they are stored.
        packed: uint8 bit stream, see ``mec.quantize.plan``.
        head: (H, W) rows of ids 1 to H as they are stored.
        oov_code: The M codes of id 0, which the tail shares.
        quality: For people.
    """

    book: Codebook
    packed: NDArray[np.uint8]
    head: Tensor
    oov_code: list[int]
    quality: CodingQuality


def code_table(
    name: str,
    rows: Tensor,
    weights: Tensor,
    plan: VocabularyPlan,
    settings: QuantizeConfig,
    *,
    seed: int,
    watch: FitWatch,
    coded: Callable[[int], None],
    probe: ValueProbe | None = None,
) -> CodedTable:
    """Fit a codebook, round it as it is stored, and code with what was rounded.

    Args:
        name: Of the vocabulary, for errors.
        rows: (V, W) float32 table on the CPU; up to two rows are overwritten. It stays there: the points of a fit,
            and then ``chunk_rows`` rows at a time, are moved to the device of the settings.
        weights: (V,) float32 weights of the values' squared errors; one is overwritten.
        plan: What is coded, and how.
        settings: Of the fit, the device, and how floats are stored.
        seed: Of all random draws.
        watch: Of the fit.
        coded: Told how many more values were coded.
        probe: Shown every value's row as it was trained and as it is served.

    Raises:
        ConfigError: More codes than floats in a vector, floats that cannot be stored, or no such device.
        TrainingError: None of the values to code was seen in training, or a loss term is not finite.
    """
    size, chunk_rows = len(rows), settings.chunk_rows
    device = find_device(settings.device, "quantize.device")
    refuse_vanishing(rows, settings.floats, f"the rows of vocabulary {name!r}")
    center = ((weights @ rows).double() / weights.double().sum()).float()
    variance = 0.0
    for start in range(0, size, chunk_rows):
        part = slice(start, start + chunk_rows)
        spreads = (rows[part] - center).square().sum(1)
        spreads[spreads <= _ROUNDING * center.square().sum()] = 0
        spreads *= weights[part]
        variance += float(spreads.sum(dtype=torch.float64))
        if probe is not None:
            probe.see_spreads(start, spreads)

    def distortion_of(first: int, values: Tensor, decoded: Tensor, value_weights: Tensor) -> float:
        errors = (values - decoded).square().sum(1) * value_weights
        if probe is not None:
            probe.see_coded(first, values, decoded, errors)
        return float(errors.sum(dtype=torch.float64))

    head_rows, tail = rows[1 : 1 + plan.head], slice(plan.head + plan.coded(size), size)
    head = stored(head_rows, settings.floats, f"a row of vocabulary {name!r}").clone()
    head_errors = distortion_of(1, head_rows, head.float(), weights[1 : 1 + plan.head])
    own, own_weight = rows[:1].clone(), weights[:1].clone()
    # In place: what is coded is then one range of rows, and a copy would double the memory.
    rows[plan.head], weights[plan.head] = shared_row(own, own_weight, rows[tail], weights[tail])
    points, point_weights = rows[plan.head : tail.start], weights[plan.head : tail.start]
    if not point_weights.any():
        raise TrainingError(
            f"no value of vocabulary {name!r} that would be coded was seen in training",
            found=f"weights of 0 behind the {plan.head} values of the head",
            fix="lower quantize.head",
        )
    fitted = fit_codebook(points, point_weights, plan, settings, seed=seed, watch=watch)
    watch.progress(1.0, f"{len(points):,} values fitted")
    codewords = stored(fitted.codewords, settings.floats, f"a codeword of vocabulary {name!r}").float()
    book = make_codebook(plan.structure, codewords, plan.num_codes)
    encoder = book.to(device)
    codes = np.empty((len(points), plan.num_codes), dtype=np.uint16)
    distortion = head_errors
    for start in range(0, len(points), chunk_rows):
        part = slice(start, start + chunk_rows)
        found = encoder.encode(points[part].to(device)).cpu()
        codes[part] = found.numpy()
        first = 1 if start == 0 else 0  # id 0's own row is not the one that was coded
        distortion += distortion_of(
            plan.head + start + first, points[part][first:], book.decode(found[first:]), point_weights[part][first:]
        )
        coded(len(found))
    shared = book.decode(torch.from_numpy(codes[:1].astype(np.int64)))  # (1, W)
    distortion += distortion_of(OOV_ID, own, shared, own_weight)
    for start in range(tail.start, size, chunk_rows):
        part = slice(start, start + chunk_rows)
        distortion += distortion_of(start, rows[part], shared, weights[part])
    live, perplexity = usage(codes, plan.num_codewords)
    sizes = plan.serving_bytes(size, rows.shape[1], settings.float_bytes)
    quality = CodingQuality(
        size=size,
        head=plan.head,
        coded=len(points),
        live_codewords=live,
        perplexity=perplexity,
        distortion=distortion,
        variance=variance,
        code_bytes=sizes["codes"],
        codebook_bytes=sizes["codebooks"],
        row_bytes=sizes["rows"],
        fit=watch.facts,
    )
    return CodedTable(book, pack(codes, plan.bits), head, codes[OOV_ID].tolist(), quality)


def shared_row(own: Tensor, own_weight: Tensor, tail: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The row (W,) that id 0 and the tail are coded by, their weighted mean, and its weight; id 0's without a tail."""
    total = own_weight.double().sum() + weights.double().sum()
    if not len(tail) or not total:
        return own[0], own_weight[0]
    mean = (own_weight @ own).double() + (weights @ tail).double()
    return (mean / total).float(), total.float()
