"""Which changes of code are written online where not all of them may be: those that save most, over all tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mec.quantize.codes import Codes
from mec.quantize.packing import pack, unpack
from mec.refresh.next_codes import NextCodes


def limit_rewritten(coded: Mapping[str, NextCodes], old: Codes, max_rows: int) -> dict[str, NextCodes]:
    """Take changes back until no more than ``max_rows`` known values' online rows differ.

    Exact rows of heads are always written. Then comes the shared code of a vocabulary, if the rows of all the tail fit:
    it scores whatever is rare or unknown. Of the other changes those stay that save most squared error over the
    training rows.

    Args:
        coded: Coded vocabulary -> its next codes.
        old: Codes in service.
        max_rows: Rows of values that are online.

    Returns:
        Vocabulary -> its codes; the same where nothing was taken back.
    """
    heads = sum(
        int((found.head != old.head[name]).any(dim=1).sum()) for name, found in coded.items() if len(found.head)
    )
    left, shared = max(0, max_rows - heads), {}
    for name in sorted(coded, key=lambda n: float(-coded[n].saved[0])):
        rows = 1 + old.plan(name).tail(old.size(name))
        shared[name] = bool(coded[name].saved[0] > 0) and rows <= left
        left -= rows if shared[name] else 0
    bound = least_saving([found.saved[1:] for found in coded.values()], left)
    limited = {}
    for name, found in coded.items():
        going = (found.saved > 0) & (found.saved <= bound)
        going[0] = bool(found.saved[0] > 0) and not shared[name]
        limited[name] = _take_back(name, found, old, going)
    return limited


def least_saving(saved: Sequence[Tensor], max_changed: int) -> float:
    """What a change must save more than, so that no more than ``max_changed`` are left.

    Args:
        saved: ``Recoded.saved`` of every vocabulary.
        max_changed: Changes over all of them.

    Returns:
        A bound; 0 if all changes may stay.
    """
    every = torch.cat([part[part > 0] for part in saved])
    if len(every) <= max_changed:
        return 0.0
    return float(torch.kthvalue(every, len(every) - max_changed).values)


def _take_back(name: str, found: NextCodes, old: Codes, going: Tensor) -> NextCodes:
    """Give places (num_old,) their old code again."""
    num, num_old, plan = int(going.sum()), len(going), old.plan(name)
    if not num:
        return found
    codes = unpack(found.packed, num_old + found.recounted.added, plan.num_codes, plan.bits)
    before = unpack(old.packed[name], num_old, plan.num_codes, plan.bits)
    codes[:num_old][going.numpy()] = before[going.numpy()]
    changed, held = found.recounted.changed - num, found.recounted.held + num
    return replace(found, packed=pack(codes, plan.bits), recounted=replace(found.recounted, changed=changed, held=held))
