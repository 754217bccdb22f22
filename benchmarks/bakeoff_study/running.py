"""Runs cells on a few processes: first the data of all, then the FMs, then what is missing of the cells."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

from bakeoff_study.workspace import Job, make_cell, make_data, make_space

Task = Callable[[Job], str]


def run_jobs(jobs: Sequence[Job], processes: int) -> list[str]:
    """Do what is missing, a line for each as it ends; what fails holds up only what needs it.

    Args:
        jobs: Cells that are wanted.
        processes: At a time, one thread each.

    Returns:
        What failed, a line each; another run tries it again.
    """
    os.environ["OMP_NUM_THREADS"] = "1"  # before the processes load torch
    missing = list({job.file: job for job in jobs if not job.file.exists()}.values())
    print(f"{len(jobs)} cells, {len(missing)} to run", flush=True)
    failed: list[str] = []
    if missing:
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            _all_of(pool, make_data, {job.data: job for job in missing}, failed)
            spaces = {job.space: job for job in missing if job.data.exists()}
            _all_of(pool, make_space, spaces, failed)
            _all_of(pool, make_cell, {job.file: job for job in missing if job.space.exists()}, failed)
    return failed


def _all_of(pool: ProcessPoolExecutor, task: Task, jobs: dict[Path, Job], failed: list[str]) -> None:
    start, left = time.monotonic(), [job for path, job in jobs.items() if not path.exists()]
    futures = {pool.submit(_alone, task, job): job for job in left}
    for number, future in enumerate(as_completed(futures), 1):
        error, job = future.exception(), futures[future]
        if error is not None:
            failed.append(f"{job.config.name}, {job.cell.label}: {type(error).__name__}: {error}")
        text = future.result() if error is None else f"FAILED {failed[-1]}"
        clock = time.strftime("%H:%M:%S", time.gmtime(time.monotonic() - start))
        print(f"[{number}/{len(left)} {clock}] {text}", flush=True)


def _alone(task: Task, job: Job) -> str:
    import torch

    torch.set_num_threads(1)
    return task(job)
