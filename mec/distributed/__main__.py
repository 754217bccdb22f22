"""One process of a training step, as torchrun starts it.

    torchrun --nnodes 2 --nproc-per-node 4 … -m mec.distributed pretrain arguments.json

``arguments.json`` holds the arguments of the step's function by name: settings as objects, paths as text. A path must
lead to the same files on every machine. Steps: pretrain, train, reference.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_type_hints

from pydantic import TypeAdapter, ValidationError

from mec.distributed.launching import write_error
from mec.errors import ConfigError, MecError

_WRONG_INPUT = 2


def main() -> int:
    """Run the step; exit code 2 for wrong input."""
    parser = argparse.ArgumentParser(prog="python -m mec.distributed", description=__doc__.split("\n", 1)[0])
    parser.add_argument("step", choices=["pretrain", "train", "reference"])
    parser.add_argument("arguments", type=Path, help="JSON file: argument of the step's function -> value")
    parser.add_argument("--errors", type=Path, help="directory for errors, for a process that waits for this one")
    given = parser.parse_args()
    try:
        call(_function(given.step), given.arguments)
    except MecError as error:
        if given.errors:
            write_error(error, given.errors, int(os.environ.get("RANK", "0")))
        else:
            print(error, file=sys.stderr)
        return _WRONG_INPUT
    return 0


def call(function: Callable[..., None], file: Path) -> None:
    """Call a step's function with the arguments of a JSON file.

    Raises:
        ConfigError: The file does not hold them.
    """
    hints = {name: hint for name, hint in get_type_hints(function).items() if name != "return"}
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
        if set(raw) != set(hints):
            raise ConfigError(
                f"{file} does not hold the arguments of this step", found=sorted(raw), fix=f"give {sorted(hints)}"
            )
        arguments = {name: TypeAdapter(hint).validate_python(raw[name]) for name, hint in hints.items()}
    except (OSError, json.JSONDecodeError, ValidationError) as error:
        raise ConfigError(f"cannot read the step's arguments from {file}", found=error, fix="correct it") from None
    function(**arguments)


def _function(step: str) -> Callable[..., None]:
    if step == "pretrain":
        from mec.pretraining import pretrain_step

        return pretrain_step
    from mec.training_steps import reference_step, train_step

    return train_step if step == "train" else reference_step


if __name__ == "__main__":
    sys.exit(main())
