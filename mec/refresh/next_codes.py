"""One vocabulary's next codes: under its frozen codebook, or under a renewed one."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mec.config import QuantizeConfig
from mec.data.layout import OOV_ID
from mec.progress import Progress
from mec.quantize.codes import Codes
from mec.quantize.coding import CodedTable, code_table, shared_row
from mec.quantize.fit_watch import FitWatch
from mec.quantize.packing import pack, unpack
from mec.quantize.plan import VocabularyPlan, stream_ids
from mec.quantize.storage import stored
from mec.refresh.recoding import recode


@dataclass(frozen=True)
class Recounted:
    """What became of one vocabulary's codes.

    Attributes:
        changed: Known places of the stream with another code; under a renewed codebook all values.
        held: Known places whose nearest code is another, but saves too little, or less than those that changed.
        added: Values that had no id before.
    """

    changed: int
    held: int
    added: int

    def to_json(self) -> dict[str, int]:
        return asdict(self)


@dataclass(frozen=True)
class NextCodes:
    """One vocabulary's stream (uint8), its head's (H, W) rows as they are stored, and what changed.

    Attributes:
        saved: By place of the old stream, ``recoding.Recoded.saved``.
        head_saved: (H,) float32, the same of the head's exact rows.
    """

    packed: NDArray[np.uint8]
    head: Tensor
    recounted: Recounted
    saved: Tensor
    head_saved: Tensor


def growing_plan(old: Codes, name: str, size: int) -> VocabularyPlan:
    """The plan of a coded vocabulary that has grown to V = ``size``: same head, same tail, all appended ids coded."""
    plan, before = old.plan(name), old.size(name)
    return replace(plan, base=plan.base or before) if size > before else plan


def recode_vocabulary(
    name: str, rows: Tensor, weights: Tensor, trained: Tensor, old: Codes, hysteresis: float, chunk_rows: int
) -> NextCodes:
    """Code one vocabulary with its frozen codebook; values without training rows keep what they have.

    Place 0 of the stream stands for id 0 and the tail: it is coded by their weighted mean, and has training rows if
    one of them has.

    Args:
        name: A coded vocabulary.
        rows: (V, W) float32 rows in the codebook's space.
        weights: (V,) float32 weights of that mean.
        trained: (V,) how many training rows held each value.
        old: Codes in service.
        hysteresis: See ``recoding.recode``.
        chunk_rows: Rows coded at a time.

    Raises:
        ConfigError: A head row that cannot be stored.
        TrainingError: A row that is not finite.
    """
    size, before = len(rows), old.size(name)
    plan, floats = growing_plan(old, name, size), old.codebooks.floats
    tail = tail_slice(plan, size)
    ids = stream_ids(plan, size)
    points = rows[ids]
    points[0] = shared_row(rows[:1], weights[:1], rows[tail], weights[tail])[0]
    num_old = old.plan(name).coded(before)
    stream = unpack(old.packed[name], num_old, plan.num_codes, plan.bits)
    counts = trained[ids[:num_old]]
    counts[0] = trained[OOV_ID] + trained[tail].sum()
    book = old.codebooks.coded[name]
    found = recode(points, torch.from_numpy(stream), counts, book, hysteresis=hysteresis, chunk_rows=chunk_rows)
    head, head_saved = torch.empty(0), torch.empty(0)
    if plan.head:
        span = slice(1, 1 + plan.head)
        fresh = stored(rows[span], floats, f"a row of vocabulary {name!r}")
        head = torch.where((trained[span] > 0)[:, None], fresh, old.head[name])
        head_saved = trained[span] * (head.float() - old.head[name].float()).square().sum(1)
    recounted = Recounted(int(found.changed[:num_old].sum()), found.num_held, size - before)
    return NextCodes(pack(found.codes.numpy(), plan.bits), head, recounted, found.saved, head_saved)


def renew_vocabulary(
    name: str,
    rows: Tensor,
    weights: Tensor,
    plan: VocabularyPlan,
    settings: QuantizeConfig,
    seed: int,
    progress: Progress,
) -> CodedTable:
    """Fit a new codebook of the same shape on one vocabulary's rows, and code them all.

    Args:
        name: A coded vocabulary.
        rows: (V, W) float32 rows in the space.
        weights: (V,) float32.
        plan: Of the grown vocabulary.
        settings: Of the fit.
        seed: Of its random draws.
        progress: Gets 2 V units.
    """
    size, start = len(rows), progress.done
    # with the tail at the end, what is coded is one range of rows, in the order of the stream
    tail = tail_slice(plan, size)
    order = torch.cat([torch.arange(tail.start), torch.arange(tail.stop, size), torch.arange(tail.start, tail.stop)])
    num_tail = tail.stop - tail.start
    moved = replace(plan, base=0, tail_start=size - num_tail)
    watch = FitWatch(lambda share, text: progress.set(start + int(share * size), f"{name}: {text}"))
    table = code_table(
        name,
        rows[order],
        weights[order],
        moved,
        settings,
        seed=seed,
        watch=watch,
        coded=lambda num: progress.update(num, f"{name}: coded"),
    )
    progress.set(start + 2 * size, f"{name}: coded")
    return table


def tail_slice(plan: VocabularyPlan, size: int) -> slice:
    """The ids, of V = ``size``, that share id 0's code."""
    end = plan.base or size
    return slice(plan.tail_start or end, end)
