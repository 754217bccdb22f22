"""Run a Dask graph on threads or on a cluster, with progress, and give its results in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dask.base import compute as dask_compute
from dask.callbacks import Callback
from dask.delayed import Delayed

from mec.config import CountConfig
from mec.errors import ConfigError
from mec.progress import Progress

_CONNECT_S = 15


def compute(outputs: Sequence[Delayed], count: CountConfig, progress: Progress) -> list[Any]:
    """Compute all outputs.

    Args:
        outputs: Of one graph.
        count: Scheduler and workers.
        progress: Advanced by one for every output that is done.

    Raises:
        ConfigError: The scheduler does not answer.
    """
    if "://" in count.scheduler:
        return _compute_distributed(outputs, count.scheduler, progress)
    with _watch({output.key for output in outputs}, progress):
        return list(dask_compute(*outputs, scheduler=count.scheduler, num_workers=count.num_workers))


def _watch(keys: set[Any], progress: Progress) -> Callback:
    def done(key: Any, result: Any, dsk: Any, state: Any, worker_id: Any) -> None:
        if key in keys:
            progress.update()

    return Callback(posttask=done)


def _compute_distributed(outputs: Sequence[Delayed], address: str, progress: Progress) -> list[Any]:
    import distributed

    try:
        client = distributed.Client(address, timeout=_CONNECT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"count.scheduler {address!r} does not answer within {_CONNECT_S} s",
            found=error,
            fix="start `dask scheduler` and its workers and give its address, or use count.scheduler=threads",
        ) from error
    with client, client.as_current():
        futures = client.compute(list(outputs))
        for future in distributed.as_completed(futures):
            if future.status == "error":
                future.result()  # raises what the task raised
            progress.update()
        results: list[Any] = client.gather(futures)
    return results
