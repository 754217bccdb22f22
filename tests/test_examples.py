"""Every command line that help texts, documents and configs show: the options exist, and the settings are taken."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from mec.cli import main
from mec.config import RunConfig, load_config
from mec.errors import ConfigError

REPO = Path(__file__).parents[1]
DOCUMENTS = [REPO / "README.md", *sorted((REPO / "docs").glob("*.md"))]
HEADERS = sorted((REPO / "configs").rglob("*.yaml"))
PIPELINES = [REPO / "pipelines" / f"{name}.py" for name in ("train", "train_backbones", "refresh")]
_COMMAND = re.compile(r"(?:^|[\s`(/])mec ((?:run|refresh|compile|submit|config) [^`\n]*?\.yaml\b[^`\n]*)", re.MULTILINE)
_SETTING = re.compile(r"`(--set [^`\n]+)`")


def shown(text: str) -> Iterator[list[str]]:
    """Arguments of each command with a config in a text; what follows two spaces or # explains it."""
    for found in _COMMAND.findall(re.sub(r"\\\n\s*", "", text)):
        command = re.split(r"\s{2,}|\s#", found.strip())[0].rstrip(").")
        yield shlex.split(command)


def help_texts() -> dict[str, str]:
    texts = {f"mec {name} --help": command.help or "" for name, command in main.commands.items()}
    return {"mec --help": main.help or ""} | texts


def examples() -> list[tuple[str, list[str]]]:
    """Where each example stands, and its arguments."""
    found = [(where, arguments) for where, text in help_texts().items() for arguments in shown(text)]
    for path in [*DOCUMENTS, *HEADERS, *PIPELINES]:
        where = str(path.relative_to(REPO))
        text = path.read_text(encoding="utf-8")
        found += [(where, arguments) for arguments in shown(text)]
        found += [(where, ["run", "-", *shlex.split(setting)]) for setting in _SETTING.findall(text) if "=" in setting]
    make = (REPO / "Makefile").read_text(encoding="utf-8")
    for config, arguments in re.findall(r"make run CONFIG=(\S+) ARGS='([^']*)'", make):
        found.append(("Makefile", ["run", config, *shlex.split(arguments)]))
    return found


def taken(arguments: list[str], empty: Path) -> RunConfig:
    """The settings of a command line as the command reads them; a user's own config is an empty one."""
    command = main.commands[arguments[0]]
    assert isinstance(command, click.Command)
    # below the group's own context: click keeps the help option that a command is first given
    group = click.Context(main, info_name="mec", **main.context_settings)
    with command.make_context(arguments[0], list(arguments[1:]), parent=group) as context:
        given = context.params
    config = REPO / given["config"]
    overrides = list(given["overrides"])
    if given.get("periods"):
        overrides.append(f"refresh.arrivals.values={json.dumps(given['periods'])}")
    layers = [REPO / path for path in given["layers"]]
    return load_config(config if config.is_file() else empty, overrides, layers)


@pytest.mark.parametrize(("where", "arguments"), examples(), ids=lambda value: value if isinstance(value, str) else "")
def test_every_example_is_taken(where: str, arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "own.yaml").touch()
    try:
        taken(arguments, tmp_path / "own.yaml")
    except (click.UsageError, ConfigError) as error:
        pytest.fail(f"{where}: mec {shlex.join(arguments)}: {error}")


def test_examples_are_found_everywhere() -> None:
    found = {where for where, _ in examples()}
    places = ["mec --help", "mec run --help", "mec refresh --help", "mec compile --help", "mec submit --help"]
    places += ["mec config --help", "README.md", "docs/refresh.md", "Makefile", "configs/yelp_next.yaml"]
    assert {*places, "configs/ablations/pq.yaml", "pipelines/train.py"} <= found
    assert (
        "mec run --help",
        ["run", "configs/ml1m.yaml", "--out", "runs/ml1m", "--set", "quantize.budget=16x", "--set", "train.model=pnn"],
    ) in examples()
