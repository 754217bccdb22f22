"""Ctrl-C and SIGTERM end a run with every process that it started."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

import psutil

_GRACE_S = 5.0
_AGAIN_S = 0.1


@contextlib.contextmanager
def stoppable(end_containers: Callable[[], None] | None = None) -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGINT and SIGTERM, and end the steps' processes until the block is left.

    Kubeflow waits for all branches of a loop before it lets an exception out, and meanwhile starts their
    next steps: those are ended too.

    Args:
        end_containers: Ends steps that are no processes of this one; called from a thread, again and again.
    """
    stopping, over = threading.Event(), threading.Event()

    def interrupt(number: int, frame: FrameType | None) -> None:
        if not stopping.is_set():
            stopping.set()
            raise KeyboardInterrupt

    def end_children() -> None:
        stopping.wait()
        patient_until_s = time.monotonic() + _GRACE_S
        while not over.wait(_AGAIN_S):
            _signal_children(kill=time.monotonic() > patient_until_s)
            if end_containers is not None:
                end_containers()

    ender = threading.Thread(target=end_children, daemon=True)
    ender.start()
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        over.set()
        stopping.set()
        ender.join()


def end_children() -> None:
    """End every process that this one started, and wait until they are gone."""
    children = psutil.Process().children(recursive=True)
    _signal_children(kill=False)
    _, alive = psutil.wait_procs(children, timeout=_GRACE_S)
    for child in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


def _signal_children(*, kill: bool) -> None:
    # never waited for here: that would take their exit status from the thread that started them
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if kill:
                child.kill()
            else:
                child.terminate()
