"""Steps as forks of one process: each is as alone as a new Python would be, and what becomes of it is told."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from kfp.local import subprocess_task_handler

from components.count.component import count
from pipelines.containers import REFUSED
from pipelines.step_processes import StepProcesses
from pipelines.step_server import LENGTH_BYTES

HEADER = "import os, signal, sys, time, atexit\n"


def command(body: str, tmp_path: Path) -> list[str]:
    """What Kubeflow runs for a component of this body."""
    spec = count.component_spec.implementation.container
    assert spec is not None
    code = HEADER + "def step():\n" + "".join(f"    {line}\n" for line in body.split("\n"))
    given = json.dumps({"inputs": {}, "outputs": {"outputFile": str(tmp_path / "output.json")}})
    return [*spec.command[:3], code, "--executor_input", given, "--function_to_execute", "step"]


@pytest.fixture(scope="module")
def processes() -> Iterator[StepProcesses]:
    with StepProcesses("colorsys") as processes:
        yield processes


def test_a_step_does_its_work_and_says_what_it_prints(processes, tmp_path, capsys):
    assert processes.run(command("print('né', file=sys.stderr)\nprint('two')", tmp_path)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line in ("né", "two")] == ["né", "two"]
    assert "Looking for component `step`" in lines[0]


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        ("raise ValueError('seven')", 1, "ValueError: seven"),
        ("sys.exit(3)", 3, ""),
        ("sys.exit(0)", 0, ""),
        ("sys.exit()", 0, ""),
        ("sys.exit('eight')", 1, "eight"),
        ("os._exit(7)", 7, ""),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, ""),
        ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)", -signal.SIGTERM, ""),
        ("os.write(1, bytes([255, 10])); os._exit(4)", 4, "�"),
    ],
)
def test_how_a_step_ended_is_its_exit_code(processes, tmp_path, capsys, body, code, words):
    assert processes.run(command(body, tmp_path)) == code
    assert words in capsys.readouterr().out
    assert processes.run(command("pass", tmp_path)) == 0, "and the next one starts"


def test_steps_see_nothing_of_each_other(processes, tmp_path, capsys):
    leave = "sys.modules['json'].left = 1\nos.environ['LEFT'] = '1'\nos.chdir('/')"
    look = (
        "import json\nprint('left', hasattr(json, 'left'), 'LEFT' in os.environ, os.getcwd(), os.environ.get('GIVEN'))"
    )
    assert processes.run(command(leave, tmp_path)) == 0
    assert processes.run(command(look, tmp_path), {"GIVEN": "yes"}) == 0
    assert processes.run(command(look, tmp_path)) == 0
    found = [line for line in capsys.readouterr().out.splitlines() if line.startswith("left")]
    assert found == [f"left False False {Path.cwd()} yes", f"left False False {Path.cwd()} None"]


def test_a_step_has_the_environment_of_its_time(processes, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("HOME")
    body = "import tempfile\nprint('has', tempfile.gettempdir(), 'HOME' in os.environ, 'colorsys' in sys.modules)"
    assert processes.run(command(body, tmp_path)) == 0
    assert f"has {tmp_path} False True" in capsys.readouterr().out.splitlines()


def test_what_is_to_be_done_at_exit_is_done(processes, tmp_path):
    file = tmp_path / "done"
    assert processes.run(command(f"atexit.register(open, {str(file)!r}, 'w')", tmp_path)) == 0
    assert file.exists()


def test_generators_without_a_seed_differ_between_steps(processes, tmp_path, capsys):
    for _ in range(2):
        processes.run(command("import random\nprint('drawn', random.random())", tmp_path))
        processes.run(command("import numpy\nprint('drawn', numpy.random.random())", tmp_path))
    assert len({line for line in capsys.readouterr().out.splitlines() if line.startswith("drawn")}) == 4


def test_a_component_that_installs_packages_is_not_run(processes, tmp_path, capsys):
    shell, option, script, *rest = command("pass", tmp_path)
    assert processes.run([shell, option, "python3 -m pip install x\n" + script, *rest]) == REFUSED
    assert "not the command of a component that installs nothing" in capsys.readouterr().out


def test_every_component_has_such_a_command():
    from pipelines.compiling import PIPELINES

    tasks = [executor for pipeline in PIPELINES.values() for executor in _executors(pipeline)]
    assert len(tasks) > 30
    for container in tasks:
        script = container["command"][2]
        assert container["command"][0] == "sh"
        assert "-m kfp.dsl.executor_main" in script
        assert "pip install" not in script


def _executors(pipeline) -> list[dict]:
    found = pipeline.pipeline_spec.deployment_spec["executors"]
    return [dict(executor["container"]) for executor in found.values()]


def test_kubeflows_own_function_is_back_after_the_block(tmp_path):
    before = subprocess_task_handler.run_local_subprocess
    with StepProcesses() as processes:
        assert subprocess_task_handler.run_local_subprocess == processes.run
    assert subprocess_task_handler.run_local_subprocess is before


def test_leaving_does_not_wait_for_the_imports(tmp_path, monkeypatch):
    (tmp_path / "slow_to_import.py").write_text(
        f"import time, pathlib\npathlib.Path({str(tmp_path / 'begun')!r}).touch()\n"
        f"time.sleep(30)\npathlib.Path({str(tmp_path / 'imported')!r}).touch()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with StepProcesses("slow_to_import"):
        deadline = time.monotonic() + 60
        while not (tmp_path / "begun").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert not (tmp_path / "imported").exists()


def test_a_step_whose_server_is_gone_is_told(tmp_path, capsys):
    with StepProcesses() as processes:
        processes._server.kill()
        processes._server.wait()
        assert processes.run(command("pass", tmp_path)) == REFUSED
    assert "the process that steps are forked from has ended" in capsys.readouterr().out


def test_sigterm_ends_the_server_after_its_step(tmp_path, capsys):
    body = "os.kill(os.getppid(), signal.SIGTERM)\ntime.sleep(.5)\nos._exit(5)"
    with StepProcesses() as processes:
        assert processes.run(command(body, tmp_path)) == 5
        assert processes._server.wait(timeout=30) == 0


def test_polars_works_in_a_step_that_was_forked_after_its_import(tmp_path, capsys):
    body = "import polars\nrows = polars.DataFrame({'a': range(10**6)})\n"
    body += "print('sum', rows.group_by((polars.col('a') % 7).alias('k')).sum()['a'].sum())"
    with StepProcesses("mlflow", "polars") as processes:
        assert processes.run(command(body, tmp_path)) == 0
    assert f"sum {10**6 * (10**6 - 1) // 2}" in capsys.readouterr().out.splitlines()


def test_half_a_request_ends_the_server(tmp_path):
    with StepProcesses() as processes:
        output, theirs = os.pipe()
        socket.send_fds(processes._requests, [(100).to_bytes(LENGTH_BYTES)], [theirs, theirs])
        processes._requests.sendall(b"{")
        processes._requests.shutdown(socket.SHUT_RDWR)
        assert processes._server.wait(timeout=60) == 0
        os.close(output)
        os.close(theirs)


@pytest.mark.parametrize("ready", [True, False])
def test_nothing_outlives_a_runner_that_is_killed(tmp_path, ready):
    done = tmp_path / "done"
    work = command(f"open({str(done)!r}, 'w')", tmp_path)
    program = (
        "import time\n"
        "from pipelines.step_processes import StepProcesses\n"
        "with StepProcesses() as processes:\n"
        + (f"    processes.run({command('pass', tmp_path)!r})\n" if ready else "")
        + "    print(processes._server.pid, flush=True)\n"
        + ("" if ready else f"    processes.run({work!r})\n")
        + "    time.sleep(600)\n"
    )
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    runner = subprocess.Popen([sys.executable, "-uc", program], stdout=subprocess.PIPE, text=True, env=environment)
    assert runner.stdout is not None
    server = next(int(line) for line in runner.stdout if line.strip().isdigit())
    if not ready:
        time.sleep(0.5)  # its request is on the way, and the server still imports
    runner.kill()
    runner.communicate()
    deadline = time.monotonic() + 60
    while psutil.pid_exists(server) and psutil.Process(server).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the server is still there"
        time.sleep(0.1)
    assert not done.exists(), "a step began for a runner that was dead"
    assert list(tmp_path.glob("mec-*")) == []
