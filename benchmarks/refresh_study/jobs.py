"""What a study consists of, and the running of it: a few jobs at a time, each as soon as what it needs is there."""

from __future__ import annotations

import multiprocessing
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from refresh_study import chain as do
from refresh_study.chain import NEVER, RETRAIN, Chain
from refresh_study.sources import Study
from refresh_study.variants import pretraining_of


@dataclass(frozen=True)
class Job:
    """One thing to do in a process of its own; ``leaves`` exists when it is done, ``needs`` before it can start."""

    label: str
    leaves: Path
    needs: tuple[Path, ...]
    do: Callable[[], str]


def plan(study: Study, root: Path, names: Sequence[str], seeds: Sequence[int]) -> list[Job]:
    """All jobs of a study, seed by seed, so that a part of them is a whole table of fewer seeds."""
    jobs: dict[Path, Job] = {}
    for seed in seeds:
        for job in _plan_seed(Chain(study, root, seed), names):
            jobs.setdefault(job.leaves, job)
    return list(jobs.values())


def run_jobs(jobs: Sequence[Job], log: Path, num_processes: int) -> list[str]:
    """Do what is missing, a line for each job; a job that fails holds up only those that need what it leaves.

    Args:
        jobs: In the order in which they are to start.
        log: Directory of the steps' own lines, a file per job.
        num_processes: Jobs at a time, each with one thread.

    Returns:
        Job and error of each failure.
    """
    log.mkdir(parents=True, exist_ok=True)
    left = [job for job in jobs if not job.leaves.exists()]
    print(f"{len(jobs)} jobs, {len(jobs) - len(left)} of them done before", flush=True)
    failed: list[str] = []
    running: dict[Future[str], Job] = {}
    start, num_done = time.monotonic(), len(jobs) - len(left)
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    with ProcessPoolExecutor(num_processes, mp_context=context) as pool:
        while True:
            ready = [job for job in left if all(path.exists() for path in job.needs)]
            for job in ready[: num_processes - len(running)]:
                left.remove(job)
                running[pool.submit(_run, job, log)] = job
            if not running:
                return failed
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                job, error = running.pop(future), future.exception()
                num_done += error is None
                if error is not None:
                    failed.append(f"{job.label}: {error}")
                text = future.result() if error is None else f"FAILED: {error}"
                clock = time.strftime("%H:%M:%S", time.gmtime(time.monotonic() - start))
                print(f"[{num_done}/{len(jobs)} {clock}] {job.label}: {text}", flush=True)


def _plan_seed(chain: Chain, names: Sequence[str]) -> Iterator[Job]:
    def job(what: str, leaves: Path, needs: tuple[Path, ...], call: partial[str]) -> Job:
        return Job(f"{what}, seed {chain.seed}", leaves, needs, call)

    base, last = chain.base, chain.study.num_refreshes
    yield job("base", base, (), partial(do.train_base, chain))
    for period in range(1, last + 1):
        cell = chain.cell(NEVER, period)
        yield job(f"never refreshed {period}", cell, (base,), partial(do.score_never_refreshed, chain, period))
    for name in names:
        for period in range(1, last + 1):
            tables, before = chain.tables(name, period), chain.tables(name, period - 1)
            what = f"{pretraining_of(name)} tables {period}"
            yield job(what, tables, (before,), partial(do.refresh_tables, chain, name, period))
            needs, cell = (tables, chain.codes(name, period - 1)), chain.cell(name, period)
            yield job(f"{name} {period}", cell, needs, partial(do.refresh_codes, chain, name, period))
    for period in range(1, last + 1):
        cell = chain.cell(RETRAIN, period)
        yield job(f"retrain {period}", cell, (), partial(do.retrain, chain, period))


def _run(job: Job, log: Path) -> str:
    """Do one job, its steps' lines going to a file; returns a line for the person who waits.

    Raises:
        RuntimeError: The job failed; the message names the file, which has the traceback.
    """
    import torch

    torch.set_num_threads(1)
    file, start = log / f"{job.label.replace(' ', '_').replace(',', '')}.txt", time.monotonic()
    with file.open("w", encoding="utf-8") as stream, redirect_stdout(stream):
        try:
            text = job.do()
        except Exception as error:
            traceback.print_exc(file=stream)
            raise RuntimeError(f"{type(error).__name__}: {' '.join(str(error).split())} (see {file})") from None
    return f"{text}{', ' if text else ''}{time.monotonic() - start:.0f} s"
