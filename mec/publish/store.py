"""A feature repo opened, and Feast's many exceptions turned into one.

``import feast`` takes five seconds, whatever one imports from it: its ``__init__`` pulls in BigQuery,
torch, FastAPI and SQLAlchemy. So it is imported inside functions only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mec.errors import MecError, PublishError

if TYPE_CHECKING:
    from feast import FeatureStore

STORE_YAML = "feature_store.yaml"
LOCKED_ATTEMPTS = 5
LOCKED_WAIT_S = 0.5

T = TypeVar("T")


def open_store(repo: Path) -> FeatureStore:
    """Open the Feast store of a feature repo.

    Raises:
        PublishError: No ``feature_store.yaml``, or Feast cannot read it or reach what it names.
    """
    repo = Path(repo).resolve()
    yaml = store_file(repo)
    from feast import FeatureStore

    with feast_errors(f"cannot open the Feast store of {yaml}", fix="correct it; feature_repo/ has a working example"):
        return retry_while_locked(lambda: FeatureStore(repo_path=str(repo)))


def store_file(repo: Path) -> Path:
    """The settings file of a feature repo.

    Raises:
        PublishError: There is none.
    """
    file = repo / STORE_YAML
    if not file.is_file():
        raise PublishError(
            f"no {STORE_YAML} in the feature repo {repo}",
            fix="set publish.feature_repo to a directory that holds one, or to null for an embedded store",
        )
    return file


@contextmanager
def feast_errors(problem: str, *, fix: str) -> Iterator[None]:
    """Raise whatever Feast and its store raise inside the block as one ``PublishError``."""
    try:
        yield
    except MecError:
        raise
    except Exception as error:  # any online store is a plug-in with exceptions of its own
        found = f"{type(error).__name__}: {' '.join(str(error).split())}"
        if is_locked(error):
            fix = "another process writes to this store; wait for it or stop it, then run again"
        raise PublishError(problem, found=found[:500], fix=fix) from error


def is_locked(error: BaseException) -> bool:
    """Whether sqlite, or SQLAlchemy above it, gave up waiting for another writer."""
    text = str(error)
    return "database is locked" in text or "database table is locked" in text


def retry_while_locked(action: Callable[[], T], *, attempts: int | None = None, wait_s: float | None = None) -> T:
    """Call ``action`` again while the database is locked, waiting twice as long each time.

    sqlite itself waits 5 s per attempt.

    Args:
        action: What to do; it must be safe to repeat.
        attempts: Calls in all, ``LOCKED_ATTEMPTS`` by default.
        wait_s: Seconds before the second call, ``LOCKED_WAIT_S`` by default.
    """
    attempts = LOCKED_ATTEMPTS if attempts is None else attempts
    wait_s = LOCKED_WAIT_S if wait_s is None else wait_s
    for attempt in range(attempts - 1):
        try:
            return action()
        except Exception as error:
            if not is_locked(error):
                raise
            time.sleep(wait_s * 2**attempt)
    return action()
