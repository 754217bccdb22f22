"""The feature repo mec makes for itself where no other is given: sqlite, under the run's store."""

from __future__ import annotations

from pathlib import Path

from mec.errors import PublishError
from mec.publish.store import STORE_YAML

DEFINITIONS = "definitions.py"

_YAML = """\
# Made by mec. Paths are relative to this directory, so it can be moved as a whole.
project: mec
provider: local
registry:
  path: data/registry.db
  cache_ttl_seconds: 0
online_store:
  type: sqlite
  path: data/online.db
offline_store:
  type: file
entity_key_serialization_version: 3
"""

_DEFINITIONS = '''\
"""What `feast apply` declares in this repo: every codebook's codes that mec has published to it.

Add your own entities and feature views below, or in other files beside this one. Feast deletes what a
repo no longer declares, tables included: keep this file as long as a scorer reads from this store.
"""

from pathlib import Path

from mec.publish.definitions import published_definitions

globals().update(published_definitions(Path(__file__).parent))
'''


def embedded_repo(store: Path) -> Path:
    """Make the embedded feature repo, unless it is there, and return its absolute path.

    Args:
        store: Directory of the embedded stores; the repo is its ``feast`` directory.

    Raises:
        PublishError: The directory cannot be written to.
    """
    repo = Path(store).resolve() / "feast"
    try:
        (repo / "data").mkdir(parents=True, exist_ok=True)
        for name, text in ((DEFINITIONS, _DEFINITIONS), (STORE_YAML, _YAML)):
            if not (repo / name).exists():
                temporary = repo / f".{name}.part"
                temporary.write_text(text, encoding="utf-8")
                temporary.replace(repo / name)
    except OSError as error:
        raise PublishError(
            f"cannot make the embedded feature repo {repo}",
            found=error.strerror,
            fix="set `store` to a directory that you may write to, with space left",
        ) from error
    return repo
