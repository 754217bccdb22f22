"""Runs jobs on a few processes until nothing is left that can start."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path

from compression_study.plan import Job, Workspace, plan
from compression_study.variants import Variant


def run_jobs(
    workspace: Workspace, variants: Sequence[Variant], seeds: Sequence[int], num_processes: int
) -> dict[Path, str]:
    """Do all that is missing, a line for each job; a job that fails holds up only those that need what it makes.

    Args:
        workspace: The study.
        variants: What to measure.
        seeds: Seeds of the cells.
        num_processes: Jobs at a time, each with one thread.

    Returns:
        What failed: path that the job should have left -> job and error.
    """
    failed: dict[Path, str] = {}
    running: dict[Future[str], Job] = {}
    start = time.monotonic()
    jobs, num_waiting = plan(workspace, variants, seeds)
    num_there = sum(job.leaves.exists() for job in jobs)
    print(f"{len(jobs) + num_waiting} jobs, {num_there} of them done before", flush=True)
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    with ProcessPoolExecutor(num_processes, mp_context=context) as pool:
        while True:
            jobs, num_waiting = plan(workspace, variants, seeds)
            busy = {job.leaves for job in running.values()}
            left = [job for job in jobs if job.leaves not in failed and not job.leaves.exists()]
            ready = [job for job in left if job.leaves not in busy and all(path.exists() for path in job.needs)]
            for job in ready[: num_processes - len(running)]:
                running[pool.submit(run_job_in_process, workspace, job)] = job
            if not running:
                return failed
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                job = running.pop(future)
                error = future.exception()
                if error is not None:
                    failed[job.leaves] = f"{job}: {error}"
                text = future.result() if error is None else f"FAILED: {error}"
                num_done = sum(j.leaves.exists() for j in jobs)
                clock = time.strftime("%H:%M:%S", time.gmtime(time.monotonic() - start))
                print(f"[{num_done}/{len(jobs) + num_waiting} {clock}] {job}: {text}", flush=True)


def run_job_in_process(workspace: Workspace, job: Job) -> str:
    """``run_job``, imported where it runs: the process that schedules needs no torch."""
    import torch

    from compression_study.work import run_job

    torch.set_num_threads(1)
    return run_job(workspace, job)
