"""What refreshed codes are worth, how long they last, and what they cost, the backbone untouched.

    python benchmarks/refresh.py variants --work DIR               # all variants of one refresh, 5 seeds
    python benchmarks/refresh.py series --work DIR --data yelp     # five refreshes in a row
    python benchmarks/refresh.py cost --work DIR                   # seconds and memory, of the commands themselves
    python benchmarks/refresh.py variants --work DIR --only 'shrunk * frozen*' --seeds 1 --processes 2
    python benchmarks/refresh.py series --work DIR --report        # report what is there, run nothing
    python benchmarks/refresh.py cost --work DIR --tiny            # does it run; a minute or two

Run it where ``configs`` is. Every data set has a directory in DIR, with a JSON file for each cell (variant, refresh,
seed); a rerun does what is missing. Reports go there too: ``report.md``, ``summary.json``, a PNG and an SVG.

    variants    Yelp: trained on events of progress < .6, refreshed with .6 to .8, tested on the rest. Synthetic: 10 %
                of the values are new and 15 % drift from the base period to the next; two fifths of its rows are
                refreshed with, the rest is tested on. A variant is the start of the small model (shrunk, warm,
                fresh), the rows that it trains on (new; new and 1.5 or 2 times as many old ones, 2+ with the floor
                of ``replay_min_rows``, fast with twice the step size; then new alone; all), and the coding (frozen
                codebooks with hysteresis 0, .6, or the tenths that save most; renewed).
    series      Yelp: trained on progress < .5, then five refreshes with a twelfth each, each tested on the twelfth
                after it. Synthetic: six periods, values new and drifting in each; a fifth of a period's rows is
                refreshed with, others of the same period are tested on. A retrain after each refresh, on all rows so
                far, and what the refresh itself would have decided.
    cost        ``mec run``, then ``mec refresh`` with 20 % new rows; synthetic: of 300,000 rows (short) and 1,200,000
                (large), and the new rows of the short history after the large one (long). Runs one command at a time:
                leave the machine alone.

A full retrain has a new space, a new codebook and a new backbone. A refresh validates on new rows, a retrain on old and
new ones. Intervals are Student's t over seeds, 95 %. Models that train their codewords on (``train.codewords`` warm
or random) cannot be refreshed, so there is no such variant; ``--set train.codewords=warm`` is refused.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from filelock import FileLock, Timeout
from refresh_study.cost import HISTORIES, find_cost_study, run_cost
from refresh_study.cost_report import write_cost_report
from refresh_study.report import write_report
from refresh_study.sources import DATA, find_study
from refresh_study.variants import VARIANTS, choose_variants

from mec.errors import MecError


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=["variants", "series", "cost"])
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="directory of the results")
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 0 on")
    parser.add_argument("--processes", type=int, choices=(1, 2), default=1, help="jobs at a time, one thread each")
    parser.add_argument("--only", action="append", default=[], metavar="PATTERN", help="variants or histories to run")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change the train run's config")
    parser.add_argument("--report", action="store_true", help="only report what is there")
    parser.add_argument("--tiny", action="store_true", help="a few thousand synthetic rows instead")
    options = parser.parse_args()
    if options.study == "cost" and options.processes > 1:
        parser.error("cost takes times, and runs one command at a time; leave --processes out")
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch loads its runtime, here and in the processes started from here
    options.work.mkdir(parents=True, exist_ok=True)
    failed: list[str] = []
    try:
        with FileLock(options.work / "lock", timeout=0):
            for data in ["synthetic"] if options.tiny else options.data:
                failed += _cost(options, data) if options.study == "cost" else _study(options, data)
    except Timeout:
        parser.error(f"another run is at work in {options.work}; wait for it, or choose another --work")
    except MecError as error:
        parser.error(str(error))
    for text in failed:
        print(f"failed: {text}")
    return 1 if failed else 0


def _study(options: argparse.Namespace, data: str) -> list[str]:
    """Run and report one data set of variants or series; what failed."""
    study = find_study(options.study, data, options.set, tiny=options.tiny)
    names = choose_variants(study.kind, options.only)
    if not names:
        return ["no variant has that name; there are: " + ", ".join(VARIANTS)]
    root, seeds = study.root(options.work), range(options.seeds)
    failed: list[str] = []
    if not options.report:
        from refresh_study.chain import make_data
        from refresh_study.jobs import plan, run_jobs

        make_data(study, root)
        failed = run_jobs(plan(study, root, names, seeds), root / "log", options.processes)
    print("\n" + write_report(study, root, seeds), flush=True)
    return failed


def _cost(options: argparse.Namespace, data: str) -> list[str]:
    """Run and report the cost on one data set; what failed."""
    study = find_cost_study(data, options.set, options.work, tiny=options.tiny)
    chosen = [history for history in study.histories if not options.only or history in options.only]
    if not chosen:
        return [f"{data} has no such history; there are: " + ", ".join(HISTORIES)]
    if not options.report:
        run_cost(study, range(options.seeds), chosen)
    print("\n" + write_cost_report(study, range(options.seeds)), flush=True)
    return []


if __name__ == "__main__":
    sys.exit(main())
