"""What the report's tables are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Summary = Mapping[str, Any]

ABSENT = "\N{EN DASH}"


@dataclass(frozen=True)
class Table:
    """Cells are text already; the first ``text_columns`` columns are aligned left."""

    title: str
    heads: Sequence[str]
    rows: list[Row]
    note: str = ""
    text_columns: int = 1


@dataclass(frozen=True)
class Row:
    """One table row; the first cell is its heading."""

    cells: Sequence[str]
    css: str = field(default="")
