"""AUC over bytes: our codes, explicit codes, ablations, smaller D and hashing, against tuned full tables.

    python benchmarks/compression.py yelp_next --seeds 5 --work DIR
    python benchmarks/compression.py yelp_next --seeds 5 --work DIR --only reference --only 'ours/*'
    python benchmarks/compression.py yelp_next --seeds 5 --work DIR --report
    python benchmarks/compression.py synthetic --tiny --seeds 2 --work DIR         # all of it, a minute of CPU

DIR holds one table's study. Every cell (method, size, seed) is one JSON file there, named by a hash of its settings
and written atomically; a rerun does what is missing, and ``--report`` does nothing but the reports: ``report.md``,
``summary.json``, ``search.json``, ``auc.png`` and ``difference.png`` (and ``.svg``). FMs and codes stay in DIR, for
cells share them (the synthetic table: some GB); models are dropped once they are measured. Settings name results, code
does not: after a change of mec's code take a new DIR. The report says where versions are mixed.

What is compared, all by the pipeline's own step functions, and one FM per seed for all methods of full D:

    reference   full tables, L2 x dropout x steps x first rows (two points from random rows) searched
    ours        quantize.budget: 16x, 32x, ...
    warm        ours, with codewords that the backbone's training moves
    ours_mec    ours, fitted to the MEC objective
    full_folds  full tables, frozen, the backbone trained out of fold: what folds alone are worth
    residual    residual codes of one shape for all large vocabularies
    no_folds    the same codes, the backbone trained on vectors that saw the labels
    pq          plain product quantization: unweighted k-means of sub-vectors
    ablation    product codes of one shape: weights, the MEC objective and its terms, warm and random codewords
    small_dim   the same pipeline at small D: its own FM, then full tables; V (D + 1) 4 bytes
    hashing     ids of large vocabularies hashed to as many rows as the bytes allow: its own FM, then full tables

Full tables have a search on seed 0, judged by validation AUC: the reference over dropout x L2, at the config's step
size and at small steps (``full_tables.py``), small D and hashing over L2, all from pre-trained and from random rows.
Codes are not searched: one point, the config's. No test row is looked at before the search has chosen. The FM's own
settings are those of the table's config for all.
Codes and codewords are counted as they are stored. Full tables of any kind are
measured twice, with 4 bytes per float, and with their rows rounded to fp16 and 2 bytes per float; the plots show the
latter for small D and hashing, so that nobody gains by the width of floats alone.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from fnmatch import fnmatchcase
from pathlib import Path

from compression_study.plan import Workspace
from compression_study.report import write_report
from compression_study.scheduler import run_jobs
from compression_study.tables import TABLES, find_study
from compression_study.variants import find_variants
from filelock import FileLock, Timeout

from mec.bundle import json_hash, open_bundle
from mec.data.layout import FieldLayout


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="directory of this table's results")
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0, 1, ... of every variant")
    parser.add_argument("--processes", type=int, choices=(1, 2), default=2, help="jobs at a time, one thread each")
    parser.add_argument("--only", action="append", default=[], metavar="PATTERN", help="variants to run, as 'ours/*'")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change the table's config")
    parser.add_argument("--tiny", action="store_true", help="a small synthetic table and short trainings instead")
    parser.add_argument("--report", action="store_true", help="only report what is there")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch loads its runtime, here and in the processes started from here
    options.work.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(options.work / "lock", timeout=0):
            return _run(options)
    except Timeout:
        parser.error(f"another run is at work in {options.work}; wait for it, or choose another --work")


def _run(options: argparse.Namespace) -> int:
    study = find_study(options.table, tiny=options.tiny, overrides=options.set)
    config = study.config
    rows = [config.data.model_dump(mode="json"), config.count.min_count, config.seed]
    data = options.work / "data" / json_hash(rows)[:16]
    if options.report and not (data / "dataset").exists():
        print(f"nothing of {study.name} was measured in {options.work}; leave --report out")
        return 1
    if not options.report:
        from compression_study.work import SCRATCH, prepare

        shutil.rmtree(options.work / SCRATCH, ignore_errors=True)  # of a run that was killed
        prepare(config, data)
    dataset = open_bundle(data / "dataset", "dataset")
    workspace = Workspace(options.work, study, data, dataset.uuid)
    variants = find_variants(study, FieldLayout.from_json(dataset.extra["layout"]))
    chosen = [v for v in variants if not options.only or any(fnmatchcase(v.label, p) for p in options.only)]
    if not chosen:
        print("no variant has that name; there are: " + ", ".join(v.label for v in variants))
        return 1
    seeds = range(options.seeds)
    failed = {} if options.report else run_jobs(workspace, chosen, seeds, options.processes)
    print("\n" + write_report(workspace, variants, seeds))
    for text in failed.values():
        print(f"failed: {text}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
