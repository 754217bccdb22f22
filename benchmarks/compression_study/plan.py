"""Which jobs a study consists of: what each reads, what it leaves, and the hash of settings that names it.

A file or bundle is named by a hash of all settings behind it, so a rerun finds what is there, and a changed setting
makes new files beside the old ones. Cells wait for their variant's search, which judges by validation AUC alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from compression_study.tables import Study
from compression_study.variants import Point, Variant
from mec.bundle import MANIFEST, json_hash, read_json
from mec.steps import STEP_FILE

SEARCH_SEED = 0
_FORMAT = 1  # of cells; raise it when what a cell holds changes


@dataclass(frozen=True)
class Workspace:
    """Where everything of one study lies, and the identity of its encoded rows."""

    root: Path
    study: Study
    data: Path  # directory of the bundles "vocabulary" and "dataset"
    data_uuid: str

    def hashed(self, variant: Variant) -> Path:
        """Directory of the bundles a variant reads: the table's, or the hashed ones."""
        if not variant.rows:
            return self.data
        return self.root / "hashed" / _short({"dataset": self.data_uuid, "rows": variant.rows})

    def pretrained(self, variant: Variant, seed: int) -> Path:
        """The FM's bundle; all variants of the same FM settings share it."""
        return self.root / "pretrained" / _short(self._pretrained(variant, seed))

    def quantized(self, variant: Variant, seed: int) -> Path:
        """Directory of the bundles "codebook" and "codes"."""
        return self.root / "quantized" / _short(self._inputs(variant, seed))

    def result(self, kind: Literal["search", "cells"], variant: Variant, point: Point, seed: int) -> Path:
        """The JSON file of one point of a search, or of one cell."""
        settings = self._inputs(variant, seed) | {"fit": variant.fit_settings(self.study, point), "format": _FORMAT}
        return self.root / kind / f"seed{seed}-{_short(settings)}.json"

    def searched(self, variant: Variant) -> list[tuple[Point, dict[str, Any]]]:
        """Points of a variant's search that were tried, in the order of the grid."""
        files = [(point, self.result("search", variant, point, SEARCH_SEED)) for point in variant.grid]
        return [(point, read_json(file)) for point, file in files if file.exists()]

    def chosen(self, variant: Variant) -> Point | None:
        """The point of the best validation AUC; None before all were tried."""
        if len(variant.grid) == 1:
            return variant.grid[0]
        tried = self.searched(variant)
        if len(tried) < len(variant.grid):
            return None
        return max(tried, key=lambda item: float(item[1]["valid_auc"]))[0]

    def cell(self, variant: Variant, seed: int) -> dict[str, Any] | None:
        """What was measured; None if it is still to come."""
        point = self.chosen(variant)
        file = None if point is None else self.result("cells", variant, point, seed)
        if file is None or not file.exists():
            return None
        return read_json(file)

    def _pretrained(self, variant: Variant, seed: int) -> dict[str, Any]:
        settings = variant.pretrain.model_dump(mode="json")
        return {"dataset": self.data_uuid, "rows": variant.rows, "pretrain": settings, "seed": seed}

    def _inputs(self, variant: Variant, seed: int) -> dict[str, Any]:
        return self._pretrained(variant, seed) | {"quantize": variant.quantize_settings()}


@dataclass(frozen=True)
class Job:
    """One thing to do. It is done when ``leaves`` exists, and can start when all of ``needs`` do."""

    kind: Literal["hash", "pretrain", "quantize", "search", "cell"]
    variant: Variant
    seed: int
    point: Point | None
    needs: tuple[Path, ...]
    leaves: Path

    def __str__(self) -> str:
        parts = [self.kind, self.variant.label]
        parts += [f"seed {self.seed}"] if self.kind in ("pretrain", "quantize", "cell") else []
        parts += [f"({self.point})"] if self.point is not None else []
        return " ".join(parts)


def plan(workspace: Workspace, variants: Sequence[Variant], seeds: Iterable[int]) -> tuple[list[Job], int]:
    """All jobs, in a good order, and the number of cells whose settings a search has yet to choose."""
    jobs: dict[Path, Job] = {}
    num_waiting = 0
    for variant in variants:
        if len(variant.grid) > 1:
            needs = _inputs(jobs, workspace, variant, SEARCH_SEED)
            for point in variant.grid:
                leaves = workspace.result("search", variant, point, SEARCH_SEED)
                jobs.setdefault(leaves, Job("search", variant, SEARCH_SEED, point, needs, leaves))
    for seed in seeds:
        for variant in variants:
            needs = _inputs(jobs, workspace, variant, seed)
            chosen = workspace.chosen(variant)
            if chosen is None:
                num_waiting += 1
                continue
            leaves = workspace.result("cells", variant, chosen, seed)
            jobs.setdefault(leaves, Job("cell", variant, seed, chosen, needs, leaves))
    return list(jobs.values()), num_waiting


def _inputs(jobs: dict[Path, Job], workspace: Workspace, variant: Variant, seed: int) -> tuple[Path, ...]:
    """Add the jobs that make a variant's bundles for one seed; returns what must exist before its backbone trains."""
    rows: tuple[Path, ...] = ()
    if variant.rows:
        hashed = workspace.hashed(variant) / "dataset" / MANIFEST
        jobs.setdefault(hashed, Job("hash", variant, seed, None, (), hashed))
        rows = (hashed,)
    # a step's own file is written after its bundles
    pretrained = workspace.pretrained(variant, seed) / STEP_FILE
    jobs.setdefault(pretrained, Job("pretrain", variant, seed, None, rows, pretrained))
    if variant.quantize is None:
        return (pretrained,)
    quantized = workspace.quantized(variant, seed) / "codebook" / STEP_FILE
    jobs.setdefault(quantized, Job("quantize", variant, seed, None, (pretrained,), quantized))
    return (quantized,)


def _short(settings: Any) -> str:
    return json_hash(settings)[:16]
