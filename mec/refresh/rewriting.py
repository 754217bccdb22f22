"""Which changes are written online where not all of them may be: those that save most for each row written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from mec.quantize.codes import Codes
from mec.quantize.packing import pack, unpack
from mec.refresh.next_codes import NextCodes


def limit_rewritten(coded: Mapping[str, NextCodes], old: Codes, max_rows: int) -> dict[str, NextCodes]:
    """Take changes back until no more than ``max_rows`` known values' online rows differ.

    Codes and exact rows of heads, of all vocabularies, are ranked by the squared error that they save over the training
    rows. A shared code costs the rows of all its tail, is ranked by what it saves for each of them, and stays as it was
    if they do not fit.

    Args:
        coded: Coded vocabulary -> its next codes.
        old: Codes in service.
        max_rows: Rows of values that are online.

    Returns:
        Vocabulary -> its codes; the same where nothing was taken back.
    """
    single = [part for found in coded.values() for part in (found.saved[1:], found.head_saved)]
    costs = {name: 1 + old.plan(name).tail(old.size(name)) for name in coded}
    worth = {name: float(found.saved[0]) / costs[name] for name, found in coded.items()}
    shared, left = set(), max_rows
    for name in sorted(worth, key=lambda name: -worth[name]):
        before = sum(int((part > worth[name]).sum()) for part in single)
        if worth[name] > 0 and before + costs[name] <= left:
            shared.add(name)
            left -= costs[name]
    bound = least_saving(single, left)
    limited = {}
    for name, found in coded.items():
        going = (found.saved > 0) & (found.saved <= bound)
        going[0] = worth[name] > 0 and name not in shared
        limited[name] = _take_back(name, found, old, going, (found.head_saved > 0) & (found.head_saved <= bound))
    return limited


def least_saving(saved: list[Tensor], max_changed: int) -> float:
    """What a change must save more than, so that no more than ``max_changed`` are left.

    Args:
        saved: float32 of any lengths; 0 where nothing changes.
        max_changed: Changes over all of them.

    Returns:
        A bound; 0 if all changes may stay.
    """
    every = torch.cat([torch.empty(0), *(part[part > 0] for part in saved)])
    if len(every) <= max_changed:
        return 0.0
    return float(torch.kthvalue(every, len(every) - max_changed).values)


def _take_back(name: str, found: NextCodes, old: Codes, going: Tensor, heads: Tensor) -> NextCodes:
    """Give places (num_old,) their old code again, and head rows (H,) their old row."""
    if heads.any():
        found = replace(found, head=torch.where(heads[:, None], old.head[name], found.head))
    num, num_old, plan = int(going.sum()), len(going), old.plan(name)
    if not num:
        return found
    codes = unpack(found.packed, num_old + found.recounted.added, plan.num_codes, plan.bits)
    before = unpack(old.packed[name], num_old, plan.num_codes, plan.bits)
    codes[:num_old][going.numpy()] = before[going.numpy()]
    changed, held = found.recounted.changed - num, found.recounted.held + num
    return replace(found, packed=pack(codes, plan.bits), recounted=replace(found.recounted, changed=changed, held=held))
