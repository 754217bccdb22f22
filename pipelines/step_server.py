"""The process that a local run's steps are forked from; ``StepProcesses`` starts it and asks it for steps.

It has imported what most steps need, which takes seconds, and done nothing else: it holds no data, and no thread of
ours. A step is a fork of it, with its own memory, environment, output and exit code.

    python -m pipelines.step_server SOCKET [MODULE ...]

MODULEs are imported beside those that every run's steps need. SOCKET is a file descriptor; a request on it is a length
of ``LENGTH_BYTES``, with two file descriptors: the step's output, and where its exit code goes as text; then JSON:
``code``, the component's source, ``arguments`` of Kubeflow's executor, and ``environment``, all of the step's. One step
at a time.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import Any

import numpy

LENGTH_BYTES = 8
_IMPORTED = (
    "kfp.dsl.executor_main", "pyarrow.parquet", "torch", "torch._dynamo", "mec.data.dataset", "mec.pretraining",
    "mec.training_steps",
)  # fmt: skip


class _Leave:
    """Ends this process, or a step, when what was registered for its exit is done: taking imports down costs a second.

    What is still in the buffer of a file that a step left open is not written.
    """

    def __init__(self) -> None:
        self.code = 1
        atexit.register(self._now)  # the first to be registered is the last to be called

    def _now(self) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(self.code)


class _Ending:
    """SIGTERM ends this process, once the step that it waits for has ended."""

    def __init__(self) -> None:
        self.waiting = self.wanted = False
        signal.signal(signal.SIGTERM, self._take)

    def _take(self, number: int, frame: FrameType | None) -> None:
        self.wanted = True
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it comes again and again
        if not self.waiting:
            raise SystemExit


def _next_step(requests: socket.socket, ending: _Ending) -> tuple[dict[str, Any], int] | None:
    """Serve steps; returns in the fork that is to be a step, with its request and output, and at the end with None."""
    while not ending.wanted:
        head, descriptors, _, _ = socket.recv_fds(requests, LENGTH_BYTES, 2)
        if not head:
            return None  # whoever asked for steps has ended
        output, status = descriptors
        request = json.loads(_exactly(requests, int.from_bytes(head)))
        if _hung_up(requests):
            return None  # a run that begins again must not find this step at work
        ending.waiting = True
        step = os.fork()
        if step == 0:
            requests.close()
            os.close(status)
            return request, output
        os.close(output)
        code = os.waitstatus_to_exitcode(os.waitpid(step, 0)[1])
        with contextlib.suppress(BrokenPipeError):  # nobody waits for it any more
            os.write(status, str(code).encode())
        os.close(status)
        ending.waiting = False
    return None


def _exactly(requests: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        part = requests.recv(length - len(data))
        if not part:
            raise SystemExit  # whoever asked has ended
        data += part
    return data


def _hung_up(requests: socket.socket) -> bool:
    try:
        return not requests.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False


def _be_step(request: dict[str, Any], output: int) -> None:
    """Run Kubeflow's executor as ``python -m kfp.dsl.executor_main`` would in a new process."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.close(output)
    with contextlib.suppress(OSError):  # where processes can be named, ps and top show which step this is
        Path("/proc/self/comm").write_text(request["arguments"][-1], encoding="utf-8")
    os.environ.clear()
    os.environ.update(request["environment"], _KFP_RUNTIME="true")
    tempfile.tempdir = None  # whatever was found before
    numpy.random.seed()  # or all steps would draw the same where nobody seeds
    source = Path(tempfile.mkdtemp(), "ephemeral_component.py")
    source.write_text(request["code"], encoding="utf-8")
    sys.argv = ["executor_main", "--component_module_path", str(source), *request["arguments"]]

    from kfp.dsl.executor_main import executor_main

    executor_main()


def main() -> None:
    """Import what steps need, then serve them."""
    leave, ending = _Leave(), _Ending()
    requests = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the steps; this process ends when its runner does
    own = tempfile.mkdtemp(prefix="mec-")  # some imports leave files
    # or kfp imports its compiler and client, which no step needs, and mlflow gets ready to send telemetry
    os.environ.update(TMPDIR=own, _KFP_RUNTIME="true", MLFLOW_DISABLE_TELEMETRY="true")
    tempfile.tempdir = None
    found = None
    try:
        for name in (*_IMPORTED, *sys.argv[2:]):
            with contextlib.suppress(ImportError):  # a step that needs it says so
                importlib.import_module(name)
        gc.freeze()  # what is here stays: no step looks through it for garbage, which would copy its memory
        found = _next_step(requests, ending)
        if found is not None:
            _be_step(*found)
        leave.code = 0
    except SystemExit as ended:
        leave.code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        raise
    finally:
        if found is None:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            shutil.rmtree(own, ignore_errors=True)


if __name__ == "__main__":
    main()
