"""New codes of aligned rows under the codebook in service, value by value.

Under a frozen codebook any mix of older and newer codes is valid, so a value's code is changed only where that pays:
each change is a row written online.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mec.errors import BundleError, ConfigError, TrainingError
from mec.quantize.fitting import Codebook


@dataclass(frozen=True)
class Recoded:
    """Codes of an extended vocabulary.

    Attributes:
        codes: (V_new, M), of the old codes' type.
        changed: (V_new,) bool: a code that differs from the old one, or the first code of a new value.
        saved: (V_old,) float32, count * (|row - dec(old)|^2 - |row - dec(new)|^2) of changed codes; 0 of others.
        num_held: Values whose nearest code is another, but saves too little to change.
    """

    codes: Tensor
    changed: Tensor
    saved: Tensor
    num_held: int

    @property
    def num_changed(self) -> int:
        """Rows to write online."""
        return int(self.changed.sum())


def recode(
    rows: Tensor,
    old_codes: Tensor,
    counts: Tensor,
    book: Codebook,
    *,
    hysteresis: float,
    chunk_rows: int,
) -> Recoded:
    """Code the rows of one vocabulary with a frozen codebook.

    A value without new data keeps its code: its row says nothing new. A value with new data gets its nearest code c
    in place of its old code o if |row - dec(c)|^2 < (1 - hysteresis) |row - dec(o)|^2. New values are always coded.

    Args:
        rows: (V_new, W) float32, aligned to the codebook's space, by id.
        old_codes: (V_old, M) integers, V_old <= V_new, by id.
        counts: (V_old,) int64, how many training rows held the value, or for id 0 what stands for it.
        book: The codebook.
        hysteresis: Share of the squared error that a change must save, from 0 up to but not including 1.
        chunk_rows: Rows coded at a time.

    Raises:
        ConfigError: ``hysteresis`` is no such share.
        BundleError: Fewer rows than old codes, or rows of another width than the codebook's.
        TrainingError: A row to be coded is not finite.
    """
    num_old = len(old_codes)
    _check(rows, old_codes, counts, book, hysteresis)
    codes = torch.empty(len(rows), book.num_codes, dtype=old_codes.dtype)
    codes[:num_old] = old_codes
    changed = torch.zeros(len(rows), dtype=torch.bool)
    changed[num_old:] = True
    num_held = 0
    saved = torch.zeros(num_old, dtype=torch.float32)
    candidates = torch.nonzero(counts)[:, 0]
    for chunk in torch.split(candidates, chunk_rows):
        targets = _finite(rows[chunk])
        found = book.encode(targets)
        differs = (found != old_codes[chunk].long()).any(dim=1)
        chunk, targets, found = chunk[differs], targets[differs], found[differs]
        new_errors = (targets - book.decode(found)).square().sum(1)
        old_errors = (targets - book.decode(old_codes[chunk].long())).square().sum(1)
        better = new_errors < (1.0 - hysteresis) * old_errors
        num_held += int((~better).sum())
        codes[chunk[better]] = found[better].to(codes.dtype)
        changed[chunk[better]] = True
        saved[chunk[better]] = (counts[chunk] * (old_errors - new_errors))[better]
    for start in range(num_old, len(rows), chunk_rows):
        part = slice(start, start + chunk_rows)
        codes[part] = book.encode(_finite(rows[part])).to(codes.dtype)
    return Recoded(codes, changed, saved, num_held)


def _finite(rows: Tensor) -> Tensor:
    finite = torch.isfinite(rows).all(dim=1)
    if not bool(finite.all()):
        raise TrainingError(
            "the new table has rows that cannot be coded",
            found=f"{int((~finite).sum())} rows with NaN or infinity",
            fix="refresh again with a smaller pretrain.learning_rate",
        )
    return rows


def _check(rows: Tensor, old_codes: Tensor, counts: Tensor, book: Codebook, hysteresis: float) -> None:
    if not 0.0 <= hysteresis < 1.0:
        raise ConfigError(
            "hysteresis is the share of the squared error that a change of code must save",
            found=hysteresis,
            fix="set it to at least 0 and below 1",
        )
    if len(rows) < len(old_codes) or rows.shape[1] != book.width or old_codes.shape[1] != book.num_codes:
        raise BundleError(
            f"rows {tuple(rows.shape)} do not extend {len(old_codes)} coded values of width {book.width}",
            found=f"codes {tuple(old_codes.shape)}, {book.num_codes} codes per value in the codebook",
            fix="pass the table, codes and codebook of one space, the table of the extended vocabulary",
        )
    assert counts.shape == (len(old_codes),)
