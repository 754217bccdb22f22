"""Three claims of papers on MovieLens-1M, in their protocol: what is trained, how settings are chosen, who won.

    autodpq   AutoDPQ has the better AUC than full tables, the others bucket, and one and the same or random DPQ
              settings per field (Gan et al., SIGIR 2023: .8147 against .8079, .8098, .8111, .8112)
    amtl      AMTL has the better AUC than tables of one fixed size and MDE, and takes less memory (Yan et al.,
              CIKM 2021: .8150 against .8084 and .8051)
    xlightfm  xLightFM is smaller than LightFM at the same AUC (Jiang et al., SIGIR 2021)

From the papers: DeepFM 16-16, batches of 2,048, D 16, random first rows, threshold 40 of AutoDPQ and the others bucket;
FM for LightFM. Floats are counted with 4 bytes, as parameters are there. Ours, since papers do not say: Adam 1e-3, no
dropout, patience 2, and an L2 that is chosen for *full tables* by validation AUC on seed 0, then used for all: it
favours them. One and the same DPQ setting, and random ones per field, are each the best of six by validation AUC on
seed 0. AMTL and MDE have half the bytes of the full tables. xLightFM starts at 8x fewer bytes, and its search may take
fewer or more (the K with the largest weight, as in the paper). LightFM has as many codes per value and 8x fewer bytes,
and 5x, which was chosen to be near what xLightFM took.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bakeoff_study.running import run_jobs
from bakeoff_study.workspace import Job, Result
from mec.bakeoff.cells import Cell
from mec.bakeoff.estimates import Estimate, estimate, paired
from mec.bakeoff.measuring import CellInputs
from mec.config import RunConfig
from mec.embeddings.autodpq import AutoDPQ, AutoDPQSettings
from mec.embeddings.others import Others, OthersSettings
from mec.embeddings.xlightfm import XLightFM, XLightFMSettings
from mec.evaluation import formatting as fmt
from mec.quantize.budget import parse_budget

L2_POINTS = (0.0, 0.003, 0.01, 0.03)
NUM_TRIALS = 6
THRESHOLD = 40
_K, _M = (16, 64, 256), (1, 2, 4)
_FLOATS = {"floats": "float32"}
_SEARCH_SEED = 0

Relation = Literal["above", "smaller"]


@dataclass(frozen=True)
class Entry:
    """One row: a method at a budget, and the settings that are tried on seed 0.

    Attributes:
        method: Registry name.
        budget: As in a bake-off.
        trials: Settings; the one of the best validation AUC is trained with every seed.
        backbone: ``deepfm`` or ``fm``.
    """

    method: str
    budget: str
    trials: tuple[dict[str, Any], ...]
    backbone: str = "deepfm"


@dataclass(frozen=True)
class Claim:
    """``ours`` against each of ``others``.

    Attributes:
        name: As in the module's description.
        ours: Entry.
        others: Entries.
        reported: Entry -> AUC in the paper; empty where the paper has no such table.
        smaller: Whether ours is also said to take fewer bytes than all others.
        relation: Whether ours is said to be above in AUC, or only not below, and smaller.
    """

    name: str
    ours: str
    others: tuple[str, ...]
    reported: dict[str, float]
    smaller: bool
    relation: Relation


CLAIMS = (
    Claim(
        "autodpq",
        "AutoDPQ",
        ("full tables", "others bucket", "DPQ, one setting", "DPQ, random settings"),
        {
            "AutoDPQ": 0.8147,
            "full tables": 0.8079,
            "others bucket": 0.8098,
            "DPQ, one setting": 0.8111,
            "DPQ, random settings": 0.8112,
        },
        False,
        "above",
    ),
    Claim(
        "amtl",
        "AMTL",
        ("full tables", "MDE"),
        {"AMTL": 0.8150, "full tables": 0.8084, "MDE": 0.8051},
        True,
        "above",
    ),
    Claim("xlightfm", "xLightFM", ("LightFM, 8x", "LightFM, 5x"), {}, True, "smaller"),
)


def entries(inputs: CellInputs) -> dict[str, Entry]:
    """All rows.

    Args:
        inputs: Of any seed, for the sizes that a threshold gives.
    """
    own = inputs.of_method(0)
    rng = np.random.default_rng(0)
    pairs = [(k, m) for k in _K for m in _M]
    searched = {**_FLOATS, "min_count": THRESHOLD}
    coded, _ = AutoDPQ.split(own, AutoDPQSettings.model_validate(searched))
    same = [dict.fromkeys(coded, pairs[i]) for i in rng.choice(len(pairs), NUM_TRIALS, replace=False)]
    drawn = [{name: pairs[rng.integers(len(pairs))] for name in coded} for _ in range(NUM_TRIALS)]
    bucket = sum(Others.planned_bytes(own, OthersSettings.model_validate(searched)).values())

    eighth = parse_budget("8x").bytes(inputs.full_bytes)
    codes = XLightFM.for_budget(own, eighth, XLightFMSettings.model_validate(_FLOATS)).num_codes

    def trials(found: list[dict[str, tuple[int, int]]]) -> tuple[dict[str, Any], ...]:
        return tuple({**searched, "found": each} for each in found)

    return {
        "full tables": Entry("full", "1x", ({**_FLOATS, "start": "random"},)),
        "others bucket": Entry("others", f"{bucket}B", (_FLOATS,)),
        "DPQ, one setting": Entry("autodpq", "1x", trials(same)),
        "DPQ, random settings": Entry("autodpq", "1x", trials(drawn)),
        "AutoDPQ": Entry("autodpq", "1x", ({**searched, "derive": "argmax"},)),
        "MDE": Entry("mde", "2x", (_FLOATS,)),
        "AMTL": Entry("amtl", "2x", (_FLOATS,)),
        "LightFM, 8x": Entry("lightfm", "8x", ({**_FLOATS, "num_codes": codes},), "fm"),
        "LightFM, 5x": Entry("lightfm", "5x", ({**_FLOATS, "num_codes": codes},), "fm"),
        "xLightFM": Entry("xlightfm", "8x", ({**_FLOATS, "derive": "argmax"},), "fm"),
    }


class Study:
    """The cells of all rows.

    Args:
        config: Of the table, its ``train`` section as in the papers.
        work: The study's directory.
        seeds: How many, from 0 on.
        wanted: Names of claims.
    """

    def __init__(self, config: RunConfig, work: Path, seeds: int, wanted: Sequence[str]) -> None:
        self.config, self.work, self.seeds = config, work, seeds
        self.claims = [claim for claim in CLAIMS if claim.name in wanted]
        self.entries: dict[str, Entry] = {}
        self.reference = Entry("full", "1x", ({**_FLOATS, "start": "random"},))

    def run(self, processes: int) -> list[str]:
        """Train what is missing, choices first; what failed, a line each."""
        failed = run_jobs(self._l2_jobs(), processes)
        if failed:
            return failed
        self.find_entries()
        chosen = [entry for entry in self.entries.values() if len(entry.trials) > 1]
        failed = run_jobs([job for entry in chosen for job in self._trial_jobs(entry)], processes)
        ready = [entry for entry in self.entries.values() if self._best(entry) is not None]
        return failed + run_jobs([job for entry in ready for job in self._jobs(entry)], processes)

    def find_entries(self) -> None:
        """Name the rows, once the data and the first FM are there."""
        named = {name for claim in self.claims for name in (claim.ours, *claim.others)}
        job = self._l2_jobs()[0]
        if job.space.exists():
            self.entries = {name: entry for name, entry in entries(job.inputs()).items() if name in named}

    def results(self, name: str) -> dict[str, Result] | None:
        """Seed -> what was measured, for all seeds; None where some are missing or have no AUC."""
        entry = self.entries.get(name)
        if entry is None or self._best(entry) is None:
            return None
        found = {str(job.cell.seed): job.result() for job in self._jobs(entry)}
        measured = {seed: result for seed, result in found.items() if result and result["status"] == "measured"}
        return measured if len(measured) == self.seeds else None

    def l2(self) -> float | None:
        """The L2 of the best validation AUC; None before all were tried."""
        results = [(job, job.result()) for job in self._l2_jobs()]
        if any(result is None for _, result in results):
            return None
        return max(results, key=_valid)[0].cell.l2

    def _l2_jobs(self) -> list[Job]:
        return [self._job(self.reference, self.reference.trials[0], _SEARCH_SEED, l2) for l2 in L2_POINTS]

    def _trial_jobs(self, entry: Entry) -> list[Job]:
        l2 = self._l2_of(entry)
        return [] if l2 is None else [self._job(entry, trial, _SEARCH_SEED, l2) for trial in entry.trials]

    def _jobs(self, entry: Entry) -> list[Job]:
        best, l2 = self._best(entry), self._l2_of(entry)
        assert best is not None
        assert l2 is not None
        return [self._job(entry, best, seed, l2) for seed in range(self.seeds)]

    def _best(self, entry: Entry) -> dict[str, Any] | None:
        """The trial of the best validation AUC; None before all were tried."""
        if self._l2_of(entry) is None or len(entry.trials) == 1:
            return None if self._l2_of(entry) is None else entry.trials[0]
        results = [(job, job.result()) for job in self._trial_jobs(entry)]
        if any(result is None for _, result in results):
            return None
        return max(results, key=_valid)[0].cell.settings

    def _l2_of(self, entry: Entry) -> float | None:
        return self.l2() if entry.backbone == "deepfm" else self.config.bakeoff.l2

    def _job(self, entry: Entry, settings: dict[str, Any], seed: int, l2: float) -> Job:
        cell = Cell(method=entry.method, budget=entry.budget, seed=seed, l2=l2, settings=settings)
        config = self.config
        if entry.backbone != config.train.model:
            own = config.train.model_dump() | {"model": entry.backbone, "settings": {}}
            config = config.model_copy(update={"train": type(config.train).model_validate(own)})
        return Job(config, cell, self.work)

    def report(self) -> str:
        """Markdown: one table per claim."""
        lines = [f"L2 of the best full table on seed {_SEARCH_SEED}: {self.l2()}"]
        for claim in self.claims:
            lines += ["", *self._table(claim)]
        return "\n".join(lines)

    def _table(self, claim: Claim) -> list[str]:
        ours = self.results(claim.ours)
        lines = [f"| {claim.name} | test AUC | bytes | {claim.ours} less it | fewer bytes | in the paper | agreement |"]
        lines += ["|---|---|---|---|---|---|---|"]
        for name in (claim.ours, *claim.others):
            own, reported = self.results(name), claim.reported.get(name)
            paper = "" if reported is None else fmt.metric(reported)
            if own is None or ours is None:
                lines.append(f"| {name} | not measured | | | | {paper} | |")
                continue
            auc, size = estimate(_values(own, "auc")), estimate(_values(own, "num_bytes")).mean
            compared = "| | | "
            if name != claim.ours:
                change = paired(_by_seed(ours), _by_seed(own))
                smaller = estimate(_values(ours, "num_bytes")).mean < size
                compared = f"| {_text(change)} | {'yes' if smaller else 'no'} | "
                paper += f" | {agreement(claim, change, smaller)}"
            else:
                paper += " |"
            lines.append(f"| {name} | {_text(auc, fmt.metric)} | {fmt.human_bytes(size)} {compared}{paper} |")
        return lines


def agreement(claim: Claim, change: Estimate, smaller: bool) -> str:
    """Whether a difference in test AUC, ours less theirs, and who is smaller, are what the paper says."""
    if change.low is None or change.high is None:
        return "one seed tells nothing"
    faults = [
        text for text, is_so in (("below", change.high < 0), ("not smaller", claim.smaller and not smaller)) if is_so
    ]
    if faults:
        return "no: " + " and ".join(faults)
    return "yes" if claim.relation == "smaller" or change.low > 0 else "within chance"


def _valid(item: tuple[Job, Result | None]) -> float:
    result = item[1]
    return float(result["valid_auc"]) if result is not None and result["status"] == "measured" else -1.0


def _values(results: Mapping[str, Result], metric: str) -> list[float]:
    return [float(result[metric]) for result in results.values()]


def _by_seed(results: Mapping[str, Result]) -> dict[str, float]:
    return {seed: float(result["auc"]) for seed, result in results.items()}


def _text(found: Estimate, form: Callable[[float], str] = fmt.signed) -> str:
    interval = "" if found.low is None or found.high is None else f" ({form(found.low)} to {form(found.high)})"
    return form(found.mean) + interval
