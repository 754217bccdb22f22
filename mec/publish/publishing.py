"""The publish step: codes of all coded vocabularies to the online store, read back on a sample."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mec.bundle import open_bundle, write_bundle, write_json
from mec.config import PublishConfig
from mec.errors import PublishError
from mec.progress import Progress, note
from mec.publish.definitions import Published, build_definitions, next_publication, read_published
from mec.publish.difference import count_rows
from mec.publish.embedded import embedded_repo
from mec.publish.locking import lock_path, publisher_lock
from mec.publish.online_rows import Change, OnlineRow, OnlineRows
from mec.publish.online_value import feature_name
from mec.publish.reader import CodesReader
from mec.publish.store import feast_errors, open_store, retry_while_locked
from mec.publish.writer import check_bulk, open_writer
from mec.steps import step

if TYPE_CHECKING:
    from feast import FeatureStore

STEP = "publish"
PUBLICATION = "publication.json"


def publish_step(
    *,
    publish: PublishConfig,
    store: Path,
    vocabulary: Path,
    codebook: Path,
    codes: Path,
    out: Path,
    online_codes: Path | None = None,
    online_vocabulary: Path | None = None,
    rollback: bool = False,
) -> None:
    """Publish a codes bundle to a Feast online store, and write the "publication" bundle.

    With the generation that is online, only rows that differ are written, if the store says that it holds just that
    one, complete; else all. ``rows_rewritten`` and ``rows_added`` count what differs between the two generations,
    however much of it had to be written.

    Args:
        publish: Where to and how.
        store: Directory of the embedded stores, used where ``publish.feature_repo`` is null.
        vocabulary: "vocabulary" bundle that the codes are for.
        codebook: "codebook" bundle that the codes index.
        codes: "codes" bundle.
        out: Where the "publication" bundle goes.
        online_codes: "codes" bundle that is in the store; None where there is none.
        online_vocabulary: "vocabulary" bundle of ``online_codes``.
        rollback: Whether an older generation may replace a newer one. Values that only the newer one knows get the
            code of rare values.

    Raises:
        PublishError: The store cannot be opened, written to or read, is being published to by
            another process, holds a newer generation, or returns other codes than were written.
        SpaceError: The codes belong to another codebook, or the vocabulary to other codes.
        ConfigError: ``publish.writer`` cannot write to this store.
    """
    with step(STEP, out) as record:
        start = time.monotonic()
        codebook_bundle = open_bundle(codebook, "codebook")
        codes_bundle = open_bundle(codes, "codes")
        vocabulary_bundle = open_bundle(vocabulary, "vocabulary")
        rows = OnlineRows(codes_bundle, codebook_bundle, vocabulary_bundle)
        facts: dict[str, Any] = {"codebook": rows.codebook, "generation": rows.generation}
        change = None
        if online_codes is not None and online_vocabulary is not None:
            change = Change(open_bundle(online_codes, "codes"), open_bundle(online_vocabulary, "vocabulary"), rows)
            facts |= count_rows(change.differences)
        if publish.enabled:
            repo = Path(publish.feature_repo).resolve() if publish.feature_repo else embedded_repo(store)
            facts |= publish_rows(rows, repo, publish, change, rollback=rollback)
            record.summary = (
                f"{facts['published_rows']:,} codes in {facts['feature_service']} ({facts['online_store']}), "
                f"{facts['written_rows']:,} written, {facts['verified_rows']:,} read back and compared"
            )
        else:
            nowhere = ("feature_view", "feature_service", "repo", "online_store")
            facts |= dict.fromkeys(nowhere) | {"published_rows": 0, "written_rows": 0, "verified_rows": 0}
            record.summary = "nothing published: publish.enabled is false"
        facts["seconds"] = round(time.monotonic() - start, 3)
        parents = {"codebook": codebook_bundle, "codes": codes_bundle, "vocabulary": vocabulary_bundle}
        with write_bundle(out, "publication", parents=parents, config=publish.model_dump(mode="json")) as draft:
            write_json(draft.path / PUBLICATION, facts)


def publish_rows(
    rows: OnlineRows, repo: Path, publish: PublishConfig, change: Change | None = None, *, rollback: bool = False
) -> dict[str, Any]:
    """Apply definitions, write, read back; alone on this store while it lasts.

    Args:
        rows: What is to be online.
        repo: Directory with ``feature_store.yaml``.
        publish: How.
        change: From what is online, where that is known.
        rollback: Whether an older generation may replace a newer one.

    Returns:
        The entries of ``publication.json`` that depend on the store.
    """
    store = open_store(repo)
    name = feature_name(rows.codebook)
    if publish.writer == "bulk":
        check_bulk(store)
    facts = {
        "feature_view": name,
        "feature_service": name,
        "repo": str(repo),
        "online_store": str(store.config.online_store.type),
        "published_rows": len(rows),
    }
    with publisher_lock(lock_path(store.config)):
        with feast_errors(f"cannot read the Feast registry of {repo}", fix="check registry in feature_store.yaml"):
            before = retry_while_locked(partial(read_published, store, rows.codebook))
        allowed = before
        if rollback and before is not None:
            allowed = replace(before, generation=min(before.generation, rows.generation))
        writing = next_publication(
            allowed, codebook=rows.codebook, codes=rows.codes, generation=rows.generation, rows=len(rows)
        )
        sample = rows.sample(publish.verify_rows)
        if before is not None and before.state == "complete" and before.codes == rows.codes:
            _apply(store, repo, before)  # makes the online table again where it was lost
            wrong = _first_difference(CodesReader(repo, name, rows.codebook), sample)
            if wrong is None:
                note(STEP, f"{name} already holds generation {rows.generation} of these codes: nothing to write")
                return facts | {"written_rows": 0, "verified_rows": len(sample)}
            note(STEP, f"{name} should hold these codes already but does not ({wrong}): writing them again")
        elif before is not None and before.generation == rows.generation and before.codes != rows.codes:
            note(STEP, f"{name} holds other codes of generation {rows.generation}: overwriting them")
        batches, num_rows = rows.batches(publish.batch_rows), len(rows)
        if change is not None and change.in_place:
            if before is not None and before.state == "complete" and before.codes == change.online:
                batches, num_rows = change.batches(publish.batch_rows), len(change)
            else:  # whatever is there, a later generation may have left values that this one does not know
                num_rows += sum(len(d.retired) for d in change.differences.values())
                batches = chain(batches, change.retired_batches(publish.batch_rows))
        _apply(store, repo, writing)
        _write(store, repo, feature_name(rows.codebook), batches, num_rows, publish, writing)
        wrong = _first_difference(CodesReader(repo, name, rows.codebook), sample)
        if wrong is not None:
            raise PublishError(
                f"the online store of {repo} does not return the codes just written to {name}",
                found=wrong,
                fix="check that nothing else writes to this store and that its disk is sound, then publish again",
            )
        _apply(store, repo, writing.completed())
    return facts | {"written_rows": num_rows, "verified_rows": len(sample)}


def _apply(store: FeatureStore, repo: Path, published: Published) -> None:
    with feast_errors(
        f"cannot apply definitions to the Feast store of {repo}", fix="make registry and online store writable"
    ):
        retry_while_locked(lambda: store.apply(build_definitions(published)))


def _write(
    store: FeatureStore,
    repo: Path,
    name: str,
    batches: Iterable[tuple[list[str], list[bytes]]],
    num_rows: int,
    publish: PublishConfig,
    writing: Published,
) -> None:
    progress = Progress(STEP, num_rows)
    with feast_errors(
        f"cannot write codes of {name} to the online store of {repo}",
        fix="make the store reachable and writable, then run this step again: it starts over safely",
    ):
        writer = open_writer(publish.writer, store, name, datetime.fromisoformat(writing.event_time))
        for keys, values in batches:
            retry_while_locked(partial(writer.write, keys, values))
            progress.update(len(keys), f"codes to {name}")


def _first_difference(reader: CodesReader, sample: list[OnlineRow]) -> str | None:
    """Compare the store with the sample; a sentence on the first key that differs."""
    found = reader.fetch_values([row.key for row in sample])
    for row, value in zip(sample, found, strict=True):
        if value != row.value:
            shown = "no value" if value is None else value.hex()
            return f"key {row.key!r}: expected {row.value.hex()}, got {shown}"
    return None
