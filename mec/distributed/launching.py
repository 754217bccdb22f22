"""A training step in several processes on this machine, started by torchrun because the settings ask for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from mec import errors
from mec.distributed.processes import started_by_torchrun
from mec.errors import MecError

_ERROR = "error-{}.json"


def run_in_processes(step: str, num: int, arguments: Mapping[str, Any]) -> bool:
    """Run a step in ``num`` processes and wait for them, unless this is one of them, or one is enough.

    Where torchrun started this process already, it decides how many there are.

    Args:
        step: As ``python -m mec.distributed`` knows it.
        num: Processes.
        arguments: Of the step's function: settings, paths and plain values.

    Returns:
        Whether the step has been run; if not, the caller is to run it.

    Raises:
        MecError: What the first process that failed raised.
        RuntimeError: The processes ended otherwise than by an error of mec; they printed why.
    """
    if num == 1 or started_by_torchrun():
        return False
    with tempfile.TemporaryDirectory(prefix="mec-processes-") as folder:
        file = Path(folder, "arguments.json")
        file.write_text(json.dumps({name: _plain(value) for name, value in arguments.items()}), encoding="utf-8")
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1", f"--nproc-per-node={num}"]
        command = [sys.executable, *torchrun, "-m", "mec.distributed", step, str(file), "--errors", folder]
        ended = subprocess.run(command, env={"OMP_NUM_THREADS": "1"} | os.environ, check=False)
        if ended.returncode:
            raise _first_error(Path(folder), num) or RuntimeError(
                f"the {num} processes of step {step} ended with code {ended.returncode}; they printed why"
            )
    return True


def write_error(error: MecError, folder: Path, rank: int) -> None:
    """Leave an error for the process that started this one; where the disk is full, print it."""
    found = None if error.found is None else str(error.found)
    facts = {"type": type(error).__name__, "problem": error.problem, "found": found, "fix": error.fix}
    draft = Path(folder, f"{rank}.part")
    try:
        draft.write_text(json.dumps(facts), encoding="utf-8")
        draft.replace(Path(folder, _ERROR.format(rank)))
    except OSError:
        print(error, file=sys.stderr)


def _first_error(folder: Path, num: int) -> MecError | None:
    for rank in range(num):
        file = folder / _ERROR.format(rank)
        if file.exists():
            facts = json.loads(file.read_text(encoding="utf-8"))
            kind: type[MecError] = getattr(errors, facts["type"])
            return kind(facts["problem"], found=facts["found"], fix=facts["fix"])
    return None


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return str(value.resolve()) if isinstance(value, Path) else value
