"""Results of cells with known numbers."""

from __future__ import annotations

from typing import Any

FULL_BYTES = 8000
BUDGETS = {"1x": 8000, "2x": 4000, "8x": 1000}


def cell(method: str, budget: str, seed: int, valid: float, test: float, num_bytes: int, **changes: Any) -> dict:
    """One measured cell; ``num_bytes`` are half codes, half codebooks."""
    return {
        "method": method,
        "budget": budget,
        "seed": seed,
        "budget_bytes": BUDGETS[budget],
        "full_bytes": FULL_BYTES,
        "status": "measured",
        "settings": {},
        "bytes": {"codes": num_bytes // 2, "codebooks": num_bytes - num_bytes // 2, "rows": 0, "index": 0, "other": 0},
        "num_bytes": num_bytes,
        "ratio": FULL_BYTES / num_bytes,
        "within_budget": num_bytes <= BUDGETS[budget],
        "valid_auc": valid,
        "auc": test,
        "logloss": 1 - test,
        "logloss_uncalibrated": 1.0,
        "calibration": {"scale": 1.0, "bias": 0.0},
        "epochs": 2.0,
        "best_epoch": 1.0,
        "num_steps": 20,
        "build_seconds": 1.0,
        "search_seconds": 0.0,
        "train_seconds": 4.0,
        "seconds_per_epoch": 2.0,
        "latency": {"compressed_ms": 0.5, "ratio": 2.0},
        "num_test_rows": 100,
    } | changes


def cells(method: str, budget: str, valid: list[float], test: list[float], num_bytes: int, **changes: Any) -> list:
    """One per seed, from 0."""
    pairs = enumerate(zip(valid, test, strict=True))
    return [cell(method, budget, seed, v, t, num_bytes, **changes) for seed, (v, t) in pairs]


def failed(method: str, budget: str, seed: int, status: str = "over_budget") -> dict:
    """A cell without measurements."""
    place = {"method": method, "budget": budget, "seed": seed, "budget_bytes": BUDGETS[budget]}
    return {**place, "full_bytes": FULL_BYTES, "status": status, "reason": f"{method} did not make it"}
