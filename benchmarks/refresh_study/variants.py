"""The variants of a refresh: where the small model starts, which rows it trains on, how values are coded."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

from mec.config import RefreshConfig
from refresh_study.sources import Kind

_STARTS = ("shrunk", "warm", "fresh")
_ROWS: dict[str, dict[str, Any]] = {
    "new": {"replay": "none"},
    "1.5x": {"replay_ratio": 1.5, "replay_min_rows": 1, "finish_on_new": False},
    "2x": {"replay_ratio": 2.0, "replay_min_rows": 1, "finish_on_new": False},
    "2x then new": {"replay_ratio": 2.0, "replay_min_rows": 1},
    "2x+ then new": {},  # half a million at least
    "2x+ fast then new": {},
    "all": {"replay": "all", "finish_on_new": False},
}
_FAST = "2x+ fast then new"
_CODINGS: dict[str, dict[str, Any]] = {
    "frozen h0": {"hysteresis": 0.0, "max_rewritten": 1.0},
    "frozen h.6": {"hysteresis": 0.6, "max_rewritten": 1.0},
    "frozen top.3": {},
    "renewed": {"codebooks": "renewed"},
}


def _refresh(start: str, rows: str, coding: str) -> RefreshConfig:
    settings = {"start": start, **_ROWS[rows], **_CODINGS[coding]}
    if start == "shrunk" and rows not in ("new", _FAST):
        settings["learning_rate_factor"] = 1.0
    return RefreshConfig.model_validate(settings)


VARIANTS: dict[str, RefreshConfig] = {
    f"{start} {rows} {coding}": _refresh(start, rows, coding)
    for start in _STARTS
    for rows in _ROWS
    for coding in _CODINGS
    if start == "shrunk" or rows != _FAST
}
_DEFAULT = "shrunk 2x+ fast then new frozen top.3"
assert VARIANTS[_DEFAULT] == RefreshConfig()
_SERIES = (_DEFAULT, "shrunk 2x+ fast then new renewed", "shrunk 1.5x frozen h.6", "warm 1.5x frozen h.6")


def choose_variants(kind: Kind, patterns: list[str]) -> list[str]:
    """Names of the variants that a study runs.

    Args:
        kind: Of the study: all variants, or four of them where five refreshes follow one another.
        patterns: ``fnmatch`` patterns of names; empty: the study's own.
    """
    if not patterns:
        return list(VARIANTS if kind == "variants" else _SERIES)
    return [name for name in VARIANTS if any(fnmatchcase(name, pattern) for pattern in patterns)]


def slug(name: str) -> str:
    """A name as part of a path."""
    return name.replace(" ", "_")


def pretraining_of(variant: str) -> str:
    """Which retraining of the small model a variant codes, as part of a path."""
    start, rows = next((s, r) for s in _STARTS for r in _ROWS for c in _CODINGS if variant == f"{s} {r} {c}")
    return slug(f"{start} {rows}")
