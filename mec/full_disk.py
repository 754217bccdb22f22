"""A full disk, whichever library met it."""

from __future__ import annotations

import errno
import re
import sqlite3
from collections.abc import Iterator

from mec.errors import DiskFullError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_IN_TEXT = re.compile(r"\(os error (\d+)\)")  # safetensors is written in Rust and gives its errors no number
_CUT_SHORT = re.compile(r"inline_container\.cc:\d+\] \. unexpected pos")  # all that torch.save says of it


def full_disk(error: BaseException) -> DiskFullError | None:
    """What to tell the user if ``error``, or one behind it, says that a disk or quota is full; None for all others.

    Args:
        error: Of Python, PyArrow, sqlite (SQLAlchemy's wrapping included), safetensors or ``torch.save``.
    """
    for each in _chain(error):
        if isinstance(each, DiskFullError):
            return each
        if _says_full(each):
            place = getattr(each, "filename", None) or "--out, --store, TMPDIR or what the output goes to"
            return DiskFullError("no space left on device", found=place, fix="free some and run the same again")
    return None


def _says_full(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in _FULL
    if isinstance(error, sqlite3.OperationalError):
        return error.sqlite_errorcode == sqlite3.SQLITE_FULL
    if type(error).__name__ == "SafetensorError":
        return any(int(number) in _FULL for number in _IN_TEXT.findall(str(error)))
    return type(error) is RuntimeError and _CUT_SHORT.search(str(error)) is not None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or getattr(error, "orig", None)
