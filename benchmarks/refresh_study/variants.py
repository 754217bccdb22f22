"""The variants of a refresh: where the small model starts, which rows it trains on, how values are coded."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

from mec.config import RefreshConfig
from refresh_study.sources import Kind

_STARTS = ("shrunk", "warm", "fresh")
_ROWS: dict[str, dict[str, Any]] = {
    "new": {"replay": "none", "learning_rate_factor": 1.0},
    "1.5x": {"replay_ratio": 1.5, "replay_min_rows": 1, "finish_on_new": False, "learning_rate_factor": 1.0},
    "2x": {"replay_ratio": 2.0, "replay_min_rows": 1, "finish_on_new": False, "learning_rate_factor": 1.0},
    "2x then new": {"replay_ratio": 2.0, "replay_min_rows": 1, "learning_rate_factor": 1.0},
    "2x+ then new": {"learning_rate_factor": 1.0},  # half a million at least
    "2x+ fast then new": {},
    "all": {"replay": "all", "finish_on_new": False, "learning_rate_factor": 1.0},
}
_CODINGS: dict[str, dict[str, Any]] = {
    "frozen h0": {"hysteresis": 0.0, "max_rewritten": 1.0},
    "frozen h.6": {"hysteresis": 0.6, "max_rewritten": 1.0},
    "frozen top.3": {},
    "renewed": {"codebooks": "renewed"},
}

VARIANTS: dict[str, RefreshConfig] = {
    f"{start} {rows} {coding}": RefreshConfig.model_validate({"start": start, **replay, **settings})
    for start in _STARTS
    for rows, replay in _ROWS.items()
    for coding, settings in _CODINGS.items()
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
