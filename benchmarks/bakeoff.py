"""Every compression method at equal bytes on three real tables, the papers' claims, and what training costs.

    python benchmarks/bakeoff.py frontier --work WORK --processes 2        # all methods x 2x 8x 32x 128x x 3 seeds
    python benchmarks/bakeoff.py frontier --work WORK --only 'yelp_next/mec/*' --only 'yelp_next/full/*'
    python benchmarks/bakeoff.py frontier --work WORK --report             # report what is there, run nothing
    python benchmarks/bakeoff.py frontier --work WORK --report --fill docs/methods.md   # its lines of numbers
    python benchmarks/bakeoff.py claims --work WORK --processes 2          # AutoDPQ, AMTL, xLightFM on MovieLens-1M
    python benchmarks/bakeoff.py epochs --work WORK                        # training time of all, relative to full

``frontier`` is `mec bakeoff` with an FM of its own for every seed, so that intervals hold pre-training too: its cells,
leaderboard, curve and recommendations are those of ``mec.bakeoff``. Below them stands where MEC is on the frontier of
all others (``bakeoff_study/frontier.py``). Before them every method has three trials on seed 0
(``bakeoff_study/tuning.py``). Results go to WORK/report: TABLE.md, TABLE.json and TABLE.png. Seeds come
one after the other, so what is there early tells something of every method.

``claims`` is in ``bakeoff_study/claims.py``, ``epochs`` in ``bakeoff_study/epochs.py``. All three share WORK: the data
of a table and the FM of a seed are made once. A cell is one JSON file; a run that was killed goes on where it was, a
rerun does what is missing (``bakeoff_study/workspace.py``).

What it costs, from single cells on a busy machine: an FM with its folds 1 to 6 minutes of one core; a cell 10 to 90 s,
for methods that start from random use all 10 epochs and others 3 or 4. Of the 909 cells perhaps a quarter
cannot reach their budget and cost nothing. Trials come on top, 70 cells a table. Beauty, trials included and without
dhe, took under two hours of one core; Yelp's cells take three times as long. ``claims`` has 43 trainings on
MovieLens-1M, some forty minutes; ``epochs`` takes five minutes.

MovieLens-1M's cells take one to two minutes where a method starts from random. Result of ``epochs``:
docs/methods.md, "What training takes".
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bakeoff_study.workspace import Job

    from mec.config import RunConfig

CONFIGS = [Path("configs/ml1m.yaml"), Path("configs/yelp_next.yaml"), Path("configs/beauty_next.yaml")]
ML1M, YELP = CONFIGS[0], CONFIGS[1]
BUDGETS = ["2x", "8x", "32x", "128x"]
# less than a bake-off's own: there are hundreds of cells
CHEAP = [
    "train.batch_size=4096",
    "train.learning_rate=2e-3",
    "train.max_epochs=10",
    "train.patience=1",
    "evaluate.latency_rows=2000",
]
PAPERS = ["train.model=deepfm", "train.batch_size=2048", "evaluate.latency_rows=0"]
PAPERS_BACKBONE = 'train.settings={"hidden_units": [16, 16], "dropout": 0.0}'
EPOCHS_BUDGET = "8x"


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch is loaded, here and in the processes started from here
    options.work.mkdir(parents=True, exist_ok=True)
    return {"frontier": frontier, "claims": claims, "epochs": epochs}[options.command](options)


def frontier(options: argparse.Namespace) -> int:
    """All cells, and a report of each table."""
    from bakeoff_study.running import run_jobs
    from bakeoff_study.tuning import choices_table, tuned

    from mec.config import load_config

    configs = [load_config(path, [*CHEAP, *_methods(options), *options.set]) for path in options.configs]
    configs = [_with_bakeoff(config, budgets=tuple(options.budgets), seeds=options.seeds) for config in configs]
    failed = [] if options.report else _try_settings(configs, options)
    untuned = configs
    configs = [tuned(config, methods_of(config), options.work) for config in untuned]
    jobs = _in_turns([jobs_of(config, options.work) for config in configs])
    chosen = [job for job in jobs if not options.only or any(fnmatchcase(label(job), p) for p in options.only)]
    if not chosen:
        print("no cell has that name; there are: " + ", ".join(dict.fromkeys(label(job) for job in jobs)))
        return 1
    failed += [] if options.report else run_jobs(chosen, options.processes)
    for config, before in zip(configs, untuned, strict=True):
        settings = choices_table(before, methods_of(before), options.work)
        own = [job for job in jobs if job.config is config]
        print("\n" + write_report(config, own, options.work / "report", settings))
    if options.fill:
        fill_page(options.fill, options.work / "report")
    return _tell(failed)


def claims(options: argparse.Namespace) -> int:
    """The papers' protocol."""
    from bakeoff_study.claims import CLAIMS, Study

    from mec.config import load_config

    config = load_config(ML1M, [*PAPERS, PAPERS_BACKBONE, *options.set])
    wanted = options.claims or [claim.name for claim in CLAIMS]
    study = Study(config, options.work, options.seeds, wanted)
    failed = [] if options.report else study.run(options.processes)
    study.find_entries()
    print("\n" + study.report())
    return _tell(failed)


def epochs(options: argparse.Namespace) -> int:
    """Training time of every method."""
    from bakeoff_study.epochs import run_epochs
    from bakeoff_study.workspace import make_data, make_space

    from mec.bakeoff.cells import REFERENCE, REFERENCE_BUDGET
    from mec.config import load_config

    config = _with_bakeoff(
        load_config(options.config, [*_methods(options), *options.set]), budgets=(options.budget,), seeds=1
    )
    jobs = [
        job
        for job in jobs_of(config, options.work)
        if job.cell.method != REFERENCE or job.cell.budget == REFERENCE_BUDGET
    ]
    make_data(jobs[0])
    make_space(jobs[0])
    print(run_epochs(jobs, options.rounds, options.steps))
    return 0


def methods_of(config: RunConfig) -> list[str]:
    """Names of the methods that a bake-off compares."""
    from mec.bakeoff.cells import plan_cells

    return sorted({cell.method for cell in plan_cells(config)})


def jobs_of(config: RunConfig, work: Path) -> list[Job]:
    """The cells of a bake-off, seed by seed."""
    from bakeoff_study.workspace import Job

    from mec.bakeoff.cells import plan_cells

    return [Job(config, cell, work) for cell in plan_cells(config)]


def label(job: Job) -> str:
    """What ``--only`` is matched with: ``TABLE/METHOD/BUDGET``."""
    return f"{job.config.name}/{job.cell.method}/{job.cell.budget}"


def write_report(config: RunConfig, jobs: Sequence[Job], out: Path, settings: Sequence[str]) -> str:
    """Write the leaderboard of a table, where MEC stands, and lines of ``settings``; returns the second, Markdown.

    Methods that lack a seed's cell stand in the leaderboard and take no part in the comparison.
    """
    from bakeoff_study.frontier import frontier_table
    from bakeoff_study.workspace import write_whole

    from mec.bakeoff.curve import draw_curve
    from mec.bakeoff.leaderboard import make_leaderboard
    from mec.bakeoff.pages import leaderboard_markdown

    results = [result for job in jobs if (result := job.result()) is not None]
    title = f"{config.name}: {len(results)} of {len(jobs)} cells"
    if not results:
        return title
    board: dict[str, Any] = make_leaderboard(results)
    lines = [title, "", *frontier_table(board)]
    text = "\n".join([*lines, "", leaderboard_markdown(board), "", *settings])
    write_whole(out / f"{config.name}.md", text)
    write_whole(out / f"{config.name}.json", json.dumps(board, indent=1))
    (out / f"{config.name}.png").write_bytes(draw_curve(board))
    return "\n".join(lines)


def fill_page(page: Path, reports: Path) -> None:
    """Renew the lines of numbers from the newest report of every table, those of this run or not."""
    from bakeoff_study.numbers import TITLES, fill
    from bakeoff_study.workspace import write_whole

    from mec.bundle import read_json

    files = {title: reports / f"{name}.json" for name, title in TITLES.items()}
    boards = {title: read_json(file) for title, file in files.items() if file.exists()}
    write_whole(page, fill(page.read_text(encoding="utf-8"), boards))


def _try_settings(configs: Sequence[RunConfig], options: argparse.Namespace) -> list[str]:
    """Run what ``bakeoff_study.tuning`` chooses from, at smaller ratios what 8x is beyond; what failed."""
    from bakeoff_study.running import run_jobs
    from bakeoff_study.tuning import BUDGETS as TRIED
    from bakeoff_study.tuning import beyond, trial_jobs

    left = [(config, method) for config in configs for method in methods_of(config) if _wanted(config, method, options)]
    failed: list[str] = []
    for budget in TRIED:
        jobs = [job for config, method in left for job in trial_jobs(config, method, budget, options.work)]
        failed += run_jobs(jobs, options.processes)
        left = [(config, method) for config, method in left if beyond(config, method, budget, options.work)]
    return failed


def _wanted(config: RunConfig, method: str, options: argparse.Namespace) -> bool:
    """Whether ``--only`` leaves any of a method's budgets."""
    labels = [f"{config.name}/{method}/{budget}" for budget in (*options.budgets, "1x")]
    return not options.only or any(fnmatchcase(name, p) for name in labels for p in options.only)


def _in_turns(tables: Sequence[list[Job]]) -> list[Job]:
    """Seed by seed, every table's cells of a seed before the next seed's."""
    seeds = sorted({job.cell.seed for jobs in tables for job in jobs})
    return [job for seed in seeds for jobs in tables for job in jobs if job.cell.seed == seed]


def _methods(options: argparse.Namespace) -> list[str]:
    return [f"bakeoff.methods={json.dumps(options.methods)}"] if options.methods else []


def _with_bakeoff(config: RunConfig, **changes: Any) -> RunConfig:
    bakeoff = type(config.bakeoff).model_validate(config.bakeoff.model_dump() | changes)
    return config.model_copy(update={"bakeoff": bakeoff})


def _tell(failed: Sequence[str]) -> int:
    for line in failed:
        print(f"failed: {line}")
    return 1 if failed else 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    all_cells, papers, timed = (commands.add_parser(name) for name in ("frontier", "claims", "epochs"))
    for command in (all_cells, papers, timed):
        command.add_argument("--work", type=Path, required=True, help="directory that everything is kept in")
        command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="in every config")
    for command in (all_cells, papers):
        command.add_argument("--seeds", type=int, default=3, help="how many, from 0 on")
        command.add_argument("--processes", type=int, default=1, help="cells at once, one thread each")
        command.add_argument("--report", action="store_true", help="report the cells that are there, run none")
    for command in (all_cells, timed):
        command.add_argument("--methods", nargs="+", metavar="NAME", help="compression methods; all there are")
    all_cells.add_argument("--configs", type=Path, nargs="+", default=CONFIGS)
    all_cells.add_argument("--budgets", nargs="+", default=BUDGETS)
    all_cells.add_argument("--fill", type=Path, metavar="PAGE", help="renew the lines of numbers in docs/methods.md")
    all_cells.add_argument("--only", action="append", default=[], metavar="PATTERN", help="TABLE/METHOD/BUDGET")
    papers.add_argument("--claims", nargs="+", choices=["autodpq", "amtl", "xlightfm"], help="all there are")
    timed.add_argument("--config", type=Path, default=YELP)
    timed.add_argument("--budget", default=EPOCHS_BUDGET, help="of every method but the full table")
    timed.add_argument("--rounds", type=int, default=9, help="turns of each method, two at least")
    timed.add_argument("--steps", type=int, default=8, help="training steps in a turn")
    options = parser.parse_args(arguments)
    if (page := getattr(options, "fill", None)) is not None and not page.is_file():
        parser.error(f"--fill: there is no {page}")
    return options


if __name__ == "__main__":
    raise SystemExit(main())
