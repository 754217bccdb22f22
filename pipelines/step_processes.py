"""Steps of a local run as processes that start in milliseconds, forked from one that has imported what they need."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from kfp.local import subprocess_task_handler

import mec
from pipelines.containers import REFUSED
from pipelines.step_server import LENGTH_BYTES

_SERVER = "pipelines.step_server"
_EXECUTOR = "-m kfp.dsl.executor_main"


def search_path() -> str:
    """``PYTHONPATH`` of steps: they import the very mec that runs here."""
    package_root = str(Path(mec.__file__).parents[1])
    return os.pathsep.join([package_root, *filter(None, [os.environ.get("PYTHONPATH")])])


class StepProcesses(contextlib.AbstractContextManager["StepProcesses"]):
    """Inside the block, ``kfp.local.SubprocessRunner`` starts its steps as forks of ``pipelines.step_server``.

    A new Python spends two to five seconds on imports before a step does anything, and a refresh has a dozen steps.

    Args:
        imports: Modules that several steps need beside numpy, torch and mec's own, and whose import leaves nothing that
            a fork would miss.
    """

    def __init__(self, *imports: str) -> None:
        self._imports = imports
        self._kubeflows = subprocess_task_handler.run_local_subprocess
        self._one_at_a_time = threading.Lock()

    def __enter__(self) -> StepProcesses:
        self._requests, theirs = socket.socketpair()
        self._said = tempfile.TemporaryFile("w+")
        with theirs:
            self._server = subprocess.Popen(
                [sys.executable, "-m", _SERVER, str(theirs.fileno()), *self._imports],
                env=os.environ | {"PYTHONPATH": search_path(), "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=self._said,
                stderr=self._said,
                pass_fds=[theirs.fileno()],
            )
        subprocess_task_handler.run_local_subprocess = self.run
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        subprocess_task_handler.run_local_subprocess = self._kubeflows
        self._requests.close()
        self._server.terminate()  # it may still be importing
        self._server.wait()
        self._said.close()

    def run(self, full_command: Sequence[str], env_vars: Mapping[str, str] | None = None) -> int:
        """Run one step to its end, its output line by line on standard output; in place of Kubeflow's function.

        Args:
            full_command: Kubeflow's: a shell that writes a component's source to a file and runs the executor on it.
            env_vars: What the step has beside this process's environment.

        Returns:
            The step's exit code, minus the signal's number if one ended it; ``REFUSED`` if it did not start.
        """
        shell, _, script, code = full_command[:4]
        if shell != "sh" or _EXECUTOR not in script or "pip install" in script:
            print(f"not the command of a component that installs nothing: {full_command}")
            return REFUSED
        request = {"code": code, "arguments": list(full_command[4:]), "environment": os.environ | (env_vars or {})}
        with self._one_at_a_time:
            return self._run(json.dumps(request).encode())

    def _run(self, request: bytes) -> int:
        output, theirs = os.pipe()
        status, their_status = os.pipe()
        with os.fdopen(output, encoding="utf-8", errors="replace") as lines, os.fdopen(status) as ended:
            try:
                socket.send_fds(self._requests, [len(request).to_bytes(LENGTH_BYTES)], [theirs, their_status])
                self._requests.sendall(request)
            except OSError:  # the reason follows
                pass
            finally:
                os.close(theirs)
                os.close(their_status)
            for line in lines:
                print(line, end="")
            code = ended.read()
        if code:
            return int(code)
        self._said.seek(0)
        print(f"the process that steps are forked from has ended\n{self._said.read()}")
        return REFUSED
