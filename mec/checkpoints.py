"""Training state on disk, so that a killed step goes on where it was.

A checkpoint is keyed by everything that shapes the training: another data version, config or code
never resumes it. Files are written beside and renamed, so a kill leaves the old one or the new one.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from mec.bundle import code_hash, json_hash
from mec.distributed.processes import current
from mec.progress import note


class Checkpoints:
    """The newest state of one training; processes that train together keep one each, of the same step.

    Args:
        directory: Shared by all trainings of a run.
        name: The step.
        key: JSON value of the inputs' uuids and the settings.
    """

    def __init__(self, directory: Path, name: str, key: object) -> None:
        self.name = name
        self._processes = current()
        own = f"-{self._processes.rank}-of-{self._processes.num}" if self._processes.num > 1 else ""
        self.path = Path(directory) / f"{name}-{json_hash([key, code_hash()])[:16]}{own}.pt"

    def save(self, state: dict[str, Any]) -> None:
        """Replace the kept state."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".part")
        torch.save(state, temporary)
        self._processes.wait()  # so that a kill while one of them writes leaves all with the same step
        temporary.replace(self.path)

    def load(self) -> dict[str, Any] | None:
        """The kept state; None if there is none, or it was damaged on disk (it is dropped).

        Tensors and plain values only are read (``weights_only``); tensors are on the CPU, mapped into memory, and stay
        in the file until they are used. Processes that train together go on only from one and the same step.
        """
        state = self._load()
        if not self._processes.agree(0 if state is None else int(state["num_steps"])):
            note(self.name, "the checkpoints of the processes are not of one step: training starts over")
            return None
        return state

    def _load(self) -> dict[str, Any] | None:
        if not self.path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(str(self.path), weights_only=True, mmap=True, map_location="cpu")
        except (RuntimeError, EOFError, ValueError, pickle.UnpicklingError):
            note(self.name, f"the checkpoint {self.path} is damaged: training starts over")
            self.clear()
            return None
        return state

    def clear(self) -> None:
        """Forget the state: the step's bundle is complete."""
        self.path.unlink(missing_ok=True)
