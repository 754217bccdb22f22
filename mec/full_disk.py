"""A full disk, whichever library met it."""

from __future__ import annotations

import errno
import re
import sqlite3
from collections.abc import Iterator

from mec.errors import DiskFullError

_FULL = (errno.ENOSPC, errno.EDQUOT)
# errors without a number: safetensors is written in Rust, NumPy counts items, and torch.save says what follows from it
_RUST = re.compile(r"\(os error (\d+)\)")
_NUMPY = re.compile(r"^\d+ requested and \d+ written$")
_TORCH = re.compile(r"inline_container\.cc:\d+\] \. unexpected pos|^basic_ios::clear: iostream error$")


def full_disk(error: BaseException) -> DiskFullError | None:
    """What to tell the user if ``error``, or one behind it, says that a disk or quota is full; None for all others.

    NumPy's and ``torch.save``'s errors say only that a file was cut short, which a full disk is the usual cause of.

    Args:
        error: Of Python, PyArrow, NumPy, sqlite (SQLAlchemy's wrapping included), safetensors or ``torch.save``.
    """
    for each in _chain(error):
        if _says_full(each):
            place = getattr(each, "filename2", None) or getattr(each, "filename", None)  # the second of a copy is full
            return DiskFullError(
                "a file cannot be written: no space left on device, or over the quota",
                found=place or "--out, --store, TMPDIR or what the output goes to",
                fix="free some and run the same again",
            )
    return None


def _says_full(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in _FULL or (error.errno is None and _NUMPY.search(str(error)) is not None)
    if isinstance(error, sqlite3.OperationalError):
        return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL  # made by hand, it has none
    if type(error).__name__ == "SafetensorError":
        return any(int(number) in _FULL for number in _RUST.findall(str(error)))
    return type(error) is RuntimeError and _TORCH.search(str(error)) is not None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    met: set[int] = set()
    while error is not None and id(error) not in met:
        yield error
        met.add(id(error))
        error = error.__cause__
