"""Real servers that tests start for themselves, on free ports and in directories that are theirs."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

POSTGRES_PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))


def free_port() -> int:
    """A TCP port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int, server: subprocess.Popen[bytes], seconds: float) -> None:
    """Return when something accepts connections on the port; fail when its process ended or the time is up."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert server.poll() is None, f"the server ended with code {server.returncode}"
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError(f"no answer on port {port} within {seconds:g} s")


@contextmanager
def running(arguments: list[str], folder: Path, port: int, seconds: float) -> Iterator[None]:
    """A server process, until the block ends; what it prints goes to ``server.log`` of the folder."""
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(arguments, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_for(port, server, seconds)
            yield
        finally:
            server.terminate()
            server.wait()


@contextmanager
def running_postgres() -> Iterator[Callable[[str], str]]:
    """A Postgres cluster; name of a database -> its address without a driver, ``//user@host:port/name``.

    Postgres refuses to run as root, who hands its directory and its processes to the package's user.
    """
    import psycopg

    programs = POSTGRES_PROGRAMS[-1].parent
    folder = Path(tempfile.mkdtemp(prefix="mec-postgres-"))  # not below pytest's own, which others may not enter
    as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    if as_user:
        shutil.chown(folder, "postgres")

    def call(program: str, *arguments: str) -> None:
        command = [*as_user, str(programs / program), "-D", str(folder / "data"), *arguments]
        subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    port = free_port()
    address = f"//mec@127.0.0.1:{port}"
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    try:
        call("initdb", "-U", "mec", "--auth=trust", "--no-sync", "-E", "UTF8", "--locale=C")
        call("pg_ctl", "start", "-w", "-l", str(folder / "server.log"), "-o", options)
        try:

            def create(name: str) -> str:
                with psycopg.connect(f"postgresql:{address}/postgres", autocommit=True) as connection:
                    connection.execute(f'CREATE DATABASE "{name}"'.encode())
                return f"{address}/{name}"

            yield create
        finally:
            call("pg_ctl", "stop", "-m", "immediate")
    finally:
        shutil.rmtree(folder)
