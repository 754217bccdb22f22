"""The command line: help that is agreed on, exit codes, messages without tracebacks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from mec.cli import main
from mec.config import RunConfig

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"
COMMANDS = [
    "",
    "run",
    "refresh",
    "bakeoff",
    "history",
    "rollback",
    "promote",
    "prune",
    "compile",
    "submit",
    "schedule",
    "config",
    "synth",
    "check-backbone",
    "check-method",
    "version",
]


def mec(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, as a user does."""
    command = [sys.executable, "-m", "mec", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)


def golden_help(command: str) -> str:
    """Help of a command at a fixed width."""
    arguments = [*([command] if command else []), "--help"]
    return CliRunner().invoke(main, arguments, prog_name="mec", terminal_width=100).output


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_as_agreed(command):
    golden = GOLDEN / f"help{'-' if command else ''}{command}.txt"
    assert golden_help(command) == golden.read_text(encoding="utf-8"), "if meant: python tests/test_cli.py"


def test_every_command_has_golden_help():
    assert sorted(main.commands) == sorted(COMMANDS[1:])


@pytest.fixture
def config(tmp_path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text("name: tiny\ndata:\n  synthetic: {num_rows: 1000}\n")
    return path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "quantize.num_code=2"], "quantize.num_code: unknown key"),
        (["--set", "quantize.num_code=2"], "num_codes, num_codewords"),
        (["--set", "quantize.num_codes=0"], "quantize.num_codes: Input should be greater than or equal to 1; found: 0"),
        (["--set", "seed"], "--set needs key=value"),
        (["--set", "quantize.structure=product", "--set", "quantize.num_codes=64"], "do not fit a vector of 17 floats"),
        (["--set", "data={path: gone.parquet, categorical: [a]}"], "gone.parquet"),
        (["--runner", "docker"], "the docker runner needs an image"),
        (["--runner", "docker", "--set", "image=mec:1"], "no container engine answers"),
        (["--runner", "kubernetes"], "'kubernetes' is not one of"),
        (["--out", "config.yaml/x"], "cannot write to --out"),
        (["--out", "."], "holds files, but no earlier run"),
    ],
)
def test_wrong_input_ends_with_2_and_leaves_nothing(config, tmp_path, monkeypatch, arguments, message):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    done = mec("run", config, *arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml"]


def test_debug_shows_the_traceback(config, tmp_path):
    done = mec("run", config, "--set", "seed=-1", "--debug", cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_disk_is_said_without_a_traceback(config):
    command = [sys.executable, "-c", "from mec.cli import main; main()", "config", config]
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 2
    assert ended.stderr.startswith(
        "error: a file cannot be written: no space left on device, or over the quota; found: "
    )
    assert "Traceback" not in ended.stderr


def test_a_missing_config_is_named(tmp_path):
    done = mec("run", "nope.yaml", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: no config file nope.yaml; fix: ")


def test_config_prints_what_a_run_would_use(config):
    output = CliRunner().invoke(main, ["config", str(config), "--set", "seed=3"]).output
    printed = RunConfig.model_validate(yaml.safe_load(output))
    assert (printed.name, printed.seed, printed.quantize) == ("tiny", 3, RunConfig().quantize)


@pytest.mark.parametrize(
    ("section", "lines"),
    [
        ("all", ["quantize", "    more: mec config --explain quantize"]),
        ("quantize", ["quantize.num_codes", "    integer, >= 1, <= 64, default 1"]),
        ("quantize", ["    product | residual, default residual"]),
        ("data", ["    a list; more: mec config --explain data.sequence", "    text | null, default null"]),
        ("data.categorical", ["data.categorical.name", "    text, required"]),
        ("data.split.kind", ["data.split.kind", "    column | random | time, default random"]),
        ("train", ["    mapping, default {}"]),
    ],
)
def test_explain_teaches_the_settings(section, lines):
    output = CliRunner().invoke(main, ["config", "--explain", section]).output
    assert set(lines) <= set(output.splitlines())


def test_every_setting_is_described():
    missing = []

    def visit(section: str) -> None:
        lines = CliRunner().invoke(main, ["config", "--explain", section]).output.splitlines()
        for line, after in zip(lines, [*lines[1:], ""], strict=True):
            if "more: mec config --explain " in line:
                visit(line.split()[-1])
            elif line and not line.startswith(" ") and after.startswith("    ") and ", default " in after:
                missing.append(line)

    visit("all")
    assert missing == []


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("quantise", "no setting 'quantise'; found: quantise; fix: use one of name, seed"),
        ("quantize.codes", "fix: use one of budget, structure, num_codes"),
        ("seed.x", "seed is a plain setting"),
    ],
)
def test_explain_of_an_unknown_setting_lists_the_known(section, message):
    result = CliRunner().invoke(main, ["config", "--explain", section])
    assert result.exit_code == 2
    assert message in result.stderr


def test_config_needs_a_file_or_a_section(config):
    for arguments in ([], [str(config), "--explain", "all"]):
        result = CliRunner().invoke(main, ["config", *arguments])
        assert result.exit_code == 2
        assert "name a CONFIG to print, or a section to --explain" in result.stderr


def test_compile_writes_the_yaml(tmp_path):
    image = "registry.example/mec@sha256:" + "0" * 64
    result = CliRunner().invoke(main, ["compile", "--image", image, "--out", str(tmp_path)])
    paths = [tmp_path / f"{name}.yaml" for name in ("train", "train_backbones", "refresh", "bakeoff")]
    assert (result.exit_code, result.output.splitlines()) == (0, [str(path) for path in paths])
    for path in paths:
        assert path.read_bytes() == (ROOT / "pipelines" / "compiled" / path.name).read_bytes()


def test_compiling_a_bakeoff_says_what_has_no_effect(config, tmp_path):
    image = f"registry.example/mec@sha256:{64 * '0'}"
    changes = ["store=/mnt", 'bakeoff.methods=["qr"]', "bakeoff.settings.qr.collisions=9", "bakeoff.parallelism=2"]
    arguments = [part for change in changes for part in ("--set", change)]
    result = CliRunner().invoke(main, ["compile", str(config), *arguments, "--image", image, "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert result.stderr == "note: bakeoff.settings.qr.collisions has no effect: budgets decide sizes\n"


def test_compile_takes_the_image_of_the_config(config, tmp_path):
    image = "registry.example/mec@sha256:" + "1" * 64
    arguments = ["compile", str(config), "--set", f"image={image}", "--set", "store=/mnt", "--out", str(tmp_path)]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    assert (tmp_path / "train.yaml").read_text(encoding="utf-8").count(image) == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--image", "mec:latest"], "named by its digest"),
        ([], "no image"),
        (["--set", "seed=1"], "name one"),
    ],
)
def test_compile_refuses(tmp_path, arguments, message):
    result = CliRunner().invoke(main, ["compile", *arguments, "--out", str(tmp_path / "build")])
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "build").exists()


def test_synth_writes_rows(tmp_path):
    import pyarrow.parquet as pq

    out = tmp_path / "clicks.parquet"
    result = CliRunner().invoke(main, ["synth", str(out), "--rows", "500", "--set", "field_sizes=[50, 5]"])
    assert result.exit_code == 0
    assert "500 rows, 2 fields; no model can beat AUC 0." in result.output
    assert pq.read_table(out).num_rows == 500


def test_synth_refuses_an_unknown_setting(tmp_path):
    result = CliRunner().invoke(main, ["synth", str(tmp_path / "x.parquet"), "--set", "rows=5"])
    assert result.exit_code == 2
    assert "data.synthetic.rows: unknown key" in result.stderr


def test_version():
    from mec import __version__

    assert CliRunner().invoke(main, ["version"]).output == f"mec {__version__}\n"
    assert CliRunner().invoke(main, ["--version"]).output == f"mec {__version__}\n"


if __name__ == "__main__":
    for name in COMMANDS:
        (GOLDEN / f"help{'-' if name else ''}{name}.txt").write_text(golden_help(name), encoding="utf-8")
