"""Take a codebook's codes out of a feature repo: its FeatureService, its FeatureView and its online rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mec.publish.definitions import ENTITY, Published, build_definitions, read_published
from mec.publish.locking import lock_path, publisher_lock
from mec.publish.online_value import feature_name
from mec.publish.store import feast_errors, open_store, retry_while_locked

if TYPE_CHECKING:
    from feast import FeatureStore

_LONG_AGO = "1970-01-01T00:00:00+00:00"


def find_published(repo: Path, codebooks: Iterable[str]) -> dict[str, int]:
    """Those codebooks whose codes are in a feature repo.

    Args:
        repo: Directory with ``feature_store.yaml``.
        codebooks: uuids.

    Returns:
        uuid -> rows that were published.

    Raises:
        PublishError: The repo cannot be opened, or its registry not be read.
    """
    store = open_store(repo)
    found = {}
    for codebook in codebooks:
        published = _read(store, repo, codebook)
        if published is not None and published.codebook == codebook:  # not another one's whose uuid begins alike
            found[codebook] = published.rows
    return found


def retire(repo: Path, codebook: str) -> None:
    """Delete a codebook's service, view and online rows, whatever is left of them.

    They are declared once more first: Feast forgets a view before it deletes the rows, so rows that a killed attempt
    left would not be found again.

    Args:
        repo: Directory with ``feature_store.yaml``.
        codebook: uuid.

    Raises:
        PublishError: The store cannot be opened or written to, or is being published to by another process.
    """
    store = open_store(repo)
    with publisher_lock(lock_path(store.config)):
        published = _read(store, repo, codebook)
        if published is not None and published.codebook != codebook:
            return
        if published is None:
            published = Published(codebook, codes="", generation=0, rows=0, state="writing", event_time=_LONG_AGO)
        definitions = build_definitions(replace(published, state="writing"))
        with feast_errors(
            f"cannot delete {feature_name(codebook)} from the Feast store of {repo}",
            fix="make registry and online store reachable and writable, then prune again: it goes on",
        ):
            retry_while_locked(partial(store.apply, definitions))
            going = [made for made in definitions if made.name != ENTITY]  # which all views share
            going.append(definitions[1].batch_source)
            retry_while_locked(partial(store.apply, [], objects_to_delete=going, partial=False))


def _read(store: FeatureStore, repo: Path, codebook: str) -> Published | None:
    with feast_errors(f"cannot read the Feast registry of {repo}", fix="check registry in feature_store.yaml"):
        return retry_while_locked(partial(read_published, store, codebook))
