"""How many bytes the compressed tables may take: a share of the full tables, a ratio, or a number of bytes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from mec.errors import ConfigError

_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_FORM = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)\s*(%|x|B|KiB|MiB|GiB)", re.ASCII)


@dataclass(frozen=True)
class Budget:
    """A budget as it was written, and what it stands for.

    Attributes:
        text: As written.
        share: Part of the full tables' bytes; None where bytes are given.
        num_bytes: Bytes; None where a share is given.
    """

    text: str
    share: Fraction | None
    num_bytes: int | None

    def bytes(self, full_bytes: int) -> int:
        """The budget in bytes, rounded down.

        Args:
            full_bytes: Of the full tables, 4 bytes per float.

        Raises:
            ConfigError: Less than a byte.
        """
        if self.share is None:
            assert self.num_bytes is not None
            return self.num_bytes
        num_bytes = int(self.share * full_bytes)
        if not num_bytes:
            raise _refused(self.text, f"is less than a byte of the full tables' {full_bytes:,}")
        return num_bytes


def parse_budget(text: str) -> Budget:
    """Read a budget.

    Args:
        text: ``2%`` (of the full tables' bytes), ``64x`` (their bytes / 64), or bytes: ``12345B``, ``512KiB``,
            ``1.5MiB``, ``2GiB``.

    Raises:
        ConfigError: Another form, less than a byte, or more than the full tables.
    """
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise _refused(text, "is no share, ratio or number of bytes")
    number, unit = Fraction(match[1]), match[2]
    if unit in _UNITS:
        num_bytes = int(number * _UNITS[unit])
        if not num_bytes:
            raise _refused(text, "is less than a byte")
        return Budget(text, None, num_bytes)
    if not number:
        raise _refused(text, "leaves no bytes" if unit == "%" else "divides by 0")
    share = number / 100 if unit == "%" else 1 / number
    if share > 1:
        raise _refused(text, "is more than the full tables")
    return Budget(text, share, None)


def _refused(text: str, why: str) -> ConfigError:
    return ConfigError(
        f"the budget {why}",
        found=repr(text),
        fix="write a share of the full tables' bytes such as 2%, a ratio such as 64x, or bytes such as 1.5MiB, "
        "512KiB or 12345B",
    )
