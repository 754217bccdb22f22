"""One publisher at a time per online store, one refresh at a time per model."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from mec.errors import PublishError

if TYPE_CHECKING:
    from feast.repo_config import RepoConfig

LOCK_WAIT_S = 10.0


def refresh_lock(store: Path, model: str) -> Path:
    """The lock file of whatever changes what a model serves."""
    return Path(store) / f"refresh-{model}.lock"


@contextmanager
def publisher_lock(path: Path, *, wait_s: float | None = None, who: str = "publisher") -> Iterator[None]:
    """Hold the store's lock file; the operating system frees it when the holder dies.

    The holder's pid, host and start stand in ``<path>.json``, for the error another one gets.

    Args:
        path: The lock file.
        wait_s: Seconds to wait for another publisher, ``LOCK_WAIT_S`` by default.
        who: What holders of this file do, for the error.

    Raises:
        PublishError: Another publisher holds the lock (it is named), or the file cannot be made.
    """
    wait_s = LOCK_WAIT_S if wait_s is None else wait_s
    holder = path.with_name(path.name + ".json")
    lock = FileLock(str(path), timeout=wait_s)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise PublishError(
            f"another {who} holds {path}, after {wait_s:g} s of waiting",
            found=_read_holder(holder),
            fix="wait until it ends, then run this again",
        ) from None
    except OSError as error:
        raise PublishError(
            f"cannot make the {who}'s lock file {path}",
            found=error.strerror,
            fix="make its directory writable for the user that runs this",
        ) from error
    try:
        me = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        holder.write_text(json.dumps(me), encoding="utf-8")
        yield
    finally:
        with suppress(OSError):
            holder.unlink()
        lock.release()


def lock_path(config: RepoConfig) -> Path:
    """Where the lock of a store lies: beside an sqlite database, else in the machine's temporary directory.

    Publishers to a networked store from several machines are kept apart by their schedule
    (``max_concurrency`` 1), and their order by the generation check.
    """
    online = config.online_store
    if online.type == "sqlite":
        return database_path(config).with_suffix(".publish.lock")
    identity = hashlib.sha256(f"{config.project} {online.model_dump_json()}".encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"mec-publish-{identity}.lock"


def database_path(config: RepoConfig) -> Path:
    """The sqlite file of an sqlite online store."""
    path = Path(config.online_store.path)
    return path if path.is_absolute() or config.repo_path is None else Path(config.repo_path) / path


def _read_holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        return f"pid {holder['pid']} on {holder['host']}, since {holder['since']}"
    except (OSError, ValueError, KeyError):
        return "a process that has not written its name yet"
