"""Run the train pipeline on this machine: the pipeline object that compiles for a cluster, through ``kfp.local``.

A run has a directory:

    config.yaml    the settings, defaults and all        bundles/    a link to every artifact bundle
    summary.json   what came out                         report.html the same for people
    run.log        all that Kubeflow and the steps said  kfp/        Kubeflow's pipeline root and cache

With several backbones, bundles/ has a directory for each, and report.html compares them.

Running again in the same directory takes finished steps from Kubeflow's local cache, whose key holds a
step's source, its parameters (the settings it reads, the code hash, the data version) and its input
bundles; a step that was killed runs again, from its last checkpoint where it keeps one.
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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import yaml
from kfp import components, local
from rich.console import Console

import mec
from mec.bundle import code_hash, open_bundle
from mec.config import RunConfig
from mec.data.readers import open_source
from mec.errors import BundleError, ConfigError
from pipelines.compiling import PIPELINES, PLACEHOLDER_IMAGE, pipeline_name, pipeline_yaml
from pipelines.containers import containerized, image_id
from pipelines.parameters import refuse_what_is_not_here, refuse_wrong_backbone, resolve_paths, section_parameters
from pipelines.results import finish, finish_backbones, named_bundles
from pipelines.stopping import end_children, stoppable
from pipelines.train import train
from pipelines.watching import BRANCH_STEPS, Display, Failure, RunLog, branch_step

Runner = Literal["subprocess", "docker"]
_BRANCH = "-iteration-"  # in the directory names that Kubeflow gives to branches of a loop


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


def run_train(config: RunConfig, out: Path, runner: Runner = "subprocess", console: Console | None = None) -> RunResult:
    """Run the train pipeline, or the rest of it, in a run directory.

    Args:
        config: Settings; relative paths in it are taken from the working directory.
        out: The run's directory; one that holds an earlier run is gone on with.
        runner: ``subprocess``: each step a process of this Python; ``docker``: a container of ``config.image``.
        console: Where progress is shown; None: standard error.

    Raises:
        MecError: The input was found wrong before anything was written.
        StepError: A step failed.
    """
    config, out = resolve_paths(config), out.absolute()
    refuse_wrong_backbone(config)
    if runner == "subprocess":
        refuse_what_is_not_here(config)
    version = open_source(config.data, seed=config.seed).data_version
    code = image_id(config) if runner == "docker" else code_hash()
    _claim_directory(out)
    if runner == "docker":
        pipeline, kfp_runner = containerized(config, out)
    else:
        pipeline, kfp_runner = _one_branch_at_a_time(config), local.SubprocessRunner(use_venv=False)
    backbones = [train.model for train in config.train.each()] if config.train.several else []
    started, start_s = datetime.now(UTC), time.monotonic()
    with (
        _only_run(out),
        Display(console or Console(stderr=True), _label_width(backbones)) as display,
        contextlib.closing(RunLog(out / "run.log", display, backbones)) as log,
        tempfile.TemporaryDirectory(prefix="mec-") as temporary,
        _step_environment(Path(temporary)),
        stoppable(),
    ):
        (out / "config.yaml").write_text(
            yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), encoding="utf-8"
        )
        _drop_broken_bundles(out / "kfp" / "cache", display)
        local.init(
            kfp_runner,
            pipeline_root=str(out / "kfp"),
            workspace_root=str(Path(temporary, "workspace")),
            enable_caching=True,
            cache_root=str(out / "kfp" / "cache"),
        )
        parameters = section_parameters(config) | {
            "data_version": version,
            "code_hash": code,
            "work_dir": str(out / "checkpoints"),
        }
        paths = _execute(pipeline, parameters, log)
        facts = {
            "name": config.name,
            "seed": config.seed,
            "out": str(out),
            "started": started.isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - start_s, 3),
            "runner": runner,
            "config": config.model_dump(mode="json"),
            "data_version": version,
            "code_hash": code,
        }
        if backbones:
            summary, report = finish_backbones(paths, log.reused, facts, out)
        else:
            summary, report = finish(paths, log.reused, facts, out)
        _drop_unused(out / "kfp", {Path(path) for path in named_bundles(summary)})
    return RunResult(summary, out, report)


def _execute(pipeline: Callable[..., Any], parameters: dict[str, Any], log: RunLog) -> dict[str, Path]:
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
    return {name: Path(artifact.path) for name, artifact in outputs.items()}


def _one_branch_at_a_time(config: RunConfig) -> Callable[..., Any]:
    """The pipeline that the config asks for; branches would share this machine's cores, and mix their output."""
    pipeline: Callable[..., Any] = train
    if config.train.several:
        text = pipeline_yaml(PLACEHOLDER_IMAGE, PIPELINES[pipeline_name(config)], branches_at_once=1)
        pipeline = components.load_component_from_text(text)
    return pipeline


def _label_width(backbones: Sequence[str]) -> int:
    longest = max((len(branch_step(step, name)) for step in BRANCH_STEPS for name in backbones), default=0)
    return max(longest, 10)


def _claim_directory(out: Path) -> None:
    choose = "choose a directory that you may write to, or one that is not there yet"
    try:
        if out.is_dir() and any(out.iterdir()) and not (out / "run.log").is_file():
            raise ConfigError(f"--out {out} holds files, but no earlier run", fix="choose an empty or new directory")
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise ConfigError(f"cannot write to --out {out}", found=error.strerror, fix=choose) from None


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
    package_root = str(Path(mec.__file__).parents[1])
    search = [package_root, *filter(None, [os.environ.get("PYTHONPATH")])]
    changes = {"PYTHONPATH": os.pathsep.join(search), "PYTHONUNBUFFERED": "1", "TMPDIR": str(temporary)}
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
    """Send what Kubeflow prints, logs and warns about to the log."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    root.handlers[:] = [logging.StreamHandler(log)]
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    try:
        with contextlib.redirect_stdout(log):
            yield
    finally:
        logging.captureWarnings(False)
        root.setLevel(level)
        root.handlers[:] = handlers


def _cached_paths(cache: Path) -> Iterator[Path]:
    for entry in sorted(cache.glob("*.json")):
        for artifact in json.loads(entry.read_text(encoding="utf-8")).values():
            yield Path(artifact["uri"])


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
