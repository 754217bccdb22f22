"""Run a pipeline object on this machine, through ``kfp.local``, in a directory that keeps what came out.

Running again in the same directory takes finished steps from Kubeflow's local cache, whose key holds a step's source,
its parameters (the settings it reads, the code hash, the data version) and its input bundles; a step that was killed
runs again, from its last checkpoint where it keeps one.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import yaml
from kfp import dsl, local
from rich.console import Console

from mec.bundle import open_bundle
from mec.config import RunConfig
from mec.errors import BundleError, ConfigError
from pipelines.containers import Containers
from pipelines.results import named_bundles
from pipelines.step_processes import StepProcesses, search_path
from pipelines.stopping import end_children, stoppable
from pipelines.watching import BRANCH_STEPS, Display, Failure, RunLog, branch_step

_BRANCH = "-iteration-"  # in the directory names that Kubeflow gives to branches of a loop

Runner = Literal["subprocess", "docker"]
Finish = Callable[[Mapping[str, Any], list[str], Mapping[str, Any], Path], tuple[dict[str, Any], Path]]


class StepError(Exception):
    """A step did not finish.

    Attributes:
        step: Its name.
        error: What it said is wrong with the input; None if it crashed.
        tail: The last lines that it printed.
        log: Where all of its output is.
    """

    def __init__(self, step: str, error: str | None, tail: list[str], log: Path) -> None:
        super().__init__(f"step {step} failed")
        self.step, self.error, self.tail, self.log = step, error, tail, log


@dataclass(frozen=True)
class RunResult:
    """Where a run left its results."""

    summary: dict[str, Any]
    out: Path
    report: Path


@dataclass(frozen=True)
class Job:
    """A pipeline with its parameters, and what to do with its outputs.

    Attributes:
        pipeline: The pipeline object.
        runner: Of ``kfp.local``.
        parameters: Of the pipeline, ``data_version`` and ``code_hash`` among them, ``work_dir`` not.
        finish: Leaves the results: takes outputs (directories, or values), steps whose earlier results were taken,
            what only the runner knows, and the run's directory; returns the summary and the path of the report.
        backbones: Names of several backbones; else empty.
        width: Characters of the longest step's name.
        containers: Where steps run in containers; ``runner`` is theirs.
    """

    pipeline: Callable[..., Any]
    runner: Any
    parameters: Mapping[str, Any]
    finish: Finish
    backbones: Sequence[str] = ()
    width: int = 10
    containers: Containers | None = None


def run_job(job: Job, config: RunConfig, out: Path, console: Console | None, facts: Mapping[str, Any]) -> RunResult:
    """Run a pipeline, or the rest of it, in a run directory that was claimed.

    Args:
        job: What to run.
        config: Settings, paths resolved; saved as ``config.yaml``.
        out: The run's directory, absolute.
        console: Where progress is shown; None: standard error.
        facts: For the summary's top level.

    Raises:
        ConfigError: Another run is going on in the directory.
        StepError: A step failed.
    """
    started, start_s = datetime.now(UTC), time.monotonic()
    with (
        _only_run(out),
        Display(console or Console(stderr=True), max(job.width, _label_width(job.backbones))) as display,
        contextlib.closing(RunLog(out / "run.log", display, job.backbones)) as log,
        tempfile.TemporaryDirectory(prefix="mec-") as temporary,
        _step_environment(Path(temporary)),
        job.containers or contextlib.nullcontext(),
        stoppable(job.containers.kill if job.containers else None),
    ):
        settings = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
        (out / "config.yaml").write_text(settings, encoding="utf-8")
        _drop_broken_bundles(out / "kfp" / "cache", display)
        local.init(
            job.runner,
            pipeline_root=str(out / "kfp"),
            workspace_root=str(Path(temporary, "workspace")),
            enable_caching=True,
            cache_root=str(out / "kfp" / "cache"),
        )
        outputs = _execute(job.pipeline, {**job.parameters, "work_dir": str(out / "checkpoints")}, log)
        known = {
            "name": config.name,
            "seed": config.seed,
            "out": str(out),
            "started": started.isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - start_s, 3),
            "config": config.model_dump(mode="json"),
            "data_version": job.parameters["data_version"],
            "code_hash": job.parameters["code_hash"],
            **facts,
        }
        summary, report = job.finish(outputs, log.reused, known, out)
        _drop_unused(out / "kfp", {Path(path) for path in named_bundles(summary)})
    return RunResult(summary, out, report)


def _execute(pipeline: Callable[..., Any], parameters: dict[str, Any], log: RunLog) -> dict[str, Any]:
    try:
        with _output_to(log):
            outputs = pipeline(**parameters).outputs
    except RuntimeError as error:
        if log.step is None:
            raise
        failed = log.failure or Failure(log.step, log.error, log.tail())
        raise StepError(failed.step, failed.error, failed.tail, log.path) from error
    except KeyboardInterrupt:
        end_children()
        raise
    return {name: Path(value.path) if isinstance(value, dsl.Artifact) else value for name, value in outputs.items()}


def _label_width(backbones: Sequence[str]) -> int:
    longest = max((len(branch_step(step, name)) for step in BRANCH_STEPS for name in backbones), default=0)
    return max(longest, 10)


def claim_directory(out: Path) -> None:
    """Make a run's directory, or take that of an earlier run.

    Raises:
        ConfigError: It holds other files, or cannot be written to.
    """
    choose = "choose a directory that you may write to, or one that is not there yet"
    try:
        if out.is_dir() and any(out.iterdir()) and not (out / "run.log").is_file():
            raise ConfigError(f"--out {out} holds files, but no earlier run", fix="choose an empty or new directory")
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise ConfigError(f"cannot write to --out {out}", found=error.strerror, fix=choose) from None


def steps_at_hand(runner: Runner, *imports: str) -> contextlib.AbstractContextManager[object]:
    """Get ready to start the steps of a run, while its input is still looked at.

    Args:
        runner: How steps run; containers need nothing.
        imports: As of ``StepProcesses``.
    """
    return StepProcesses(*imports) if runner == "subprocess" else contextlib.nullcontext()


@contextlib.contextmanager
def _only_run(out: Path) -> Iterator[None]:
    with (out / "run.log").open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"another run is going on in {out}", fix="wait for it to end, or choose another --out"
            ) from None
        yield


@contextlib.contextmanager
def _step_environment(temporary: Path) -> Iterator[None]:
    """Let the steps import the very mec that runs here, speak at once, and leave nothing in /tmp."""
    changes = {"PYTHONPATH": search_path(), "PYTHONUNBUFFERED": "1", "TMPDIR": str(temporary)}
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _output_to(log: RunLog) -> Iterator[None]:
    """Send what Kubeflow prints, logs and warns about to the log.

    A logging record that cannot be written is dropped: Kubeflow has handlers of its own, and on a full disk each record
    would be a traceback. What is printed still raises.
    """
    root = logging.getLogger()
    level, handlers, raises = root.level, root.handlers[:], logging.raiseExceptions
    root.handlers[:] = [logging.StreamHandler(log)]
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    logging.raiseExceptions = False
    try:
        with contextlib.redirect_stdout(log):
            yield
    finally:
        logging.raiseExceptions = raises
        logging.captureWarnings(False)
        root.setLevel(level)
        root.handlers[:] = handlers


def _cached_paths(cache: Path) -> Iterator[Path]:
    for entry in sorted(cache.glob("*.json")):
        for output in json.loads(entry.read_text(encoding="utf-8")).values():
            if isinstance(output, dict) and "uri" in output:  # else a parameter
                yield Path(output["uri"])


def _drop_broken_bundles(cache: Path, display: Display) -> None:
    """Kubeflow's cache takes any path that exists for a result; a bundle must also be whole."""
    for path in _cached_paths(cache):
        if path.is_dir():
            try:
                open_bundle(path)
            except BundleError as error:
                display.say(f"making the {path.name} bundle again: {error.problem}")
                shutil.rmtree(path)


def _drop_unused(root: Path, current: set[Path]) -> None:
    """Remove what killed steps and earlier uncached ones left behind; tasks of branches lie one level deeper."""
    used = {path.parent for path in (*_cached_paths(root / "cache"), *current)}
    kept = {*used, *(above for path in used for above in path.parents), root / "cache"}
    for run in root.glob("*/"):
        for directory in (run, *run.glob("*/"), *run.glob(f"*{_BRANCH}*/*/")):
            if directory not in kept and directory.is_dir() and not used.intersection(directory.parents):
                shutil.rmtree(directory)
