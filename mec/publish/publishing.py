"""The publish step: codes of all coded vocabularies to the online store, read back on a sample."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mec.bundle import Bundle, open_bundle, write_bundle, write_json
from mec.config import PublishConfig
from mec.data.vocabulary import Vocabularies
from mec.errors import BundleError, PublishError, SpaceError
from mec.progress import Progress, note
from mec.publish.definitions import Published, build_definitions, next_publication, read_published
from mec.publish.embedded import embedded_repo
from mec.publish.locking import lock_path, publisher_lock
from mec.publish.online_value import encode, encode_head, feature_name
from mec.publish.reader import CodesReader
from mec.publish.store import feast_errors, open_store, retry_while_locked
from mec.publish.value_rows import CodesFiles, ValueRows
from mec.publish.writer import check_bulk, open_writer
from mec.steps import step

if TYPE_CHECKING:
    from feast import FeatureStore

STEP = "publish"
PUBLICATION = "publication.json"
_VERIFY_SEED = 0x6D6563


def publish_step(
    *, publish: PublishConfig, store: Path, vocabulary: Path, codebook: Path, codes: Path, out: Path
) -> None:
    """Publish a codes bundle to a Feast online store, and write the "publication" bundle.

    Args:
        publish: Where to and how.
        store: Directory of the embedded stores, used where ``publish.feature_repo`` is null.
        vocabulary: "vocabulary" bundle that the codes are for.
        codebook: "codebook" bundle that the codes index.
        codes: "codes" bundle.
        out: Where the "publication" bundle goes.

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
        if publish.enabled:
            repo = Path(publish.feature_repo).resolve() if publish.feature_repo else embedded_repo(store)
            facts |= publish_rows(rows, repo, publish)
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


@dataclass(frozen=True)
class OnlineRow:
    """One sampled row, as it must stand in the store."""

    key: str
    value: bytes


class OnlineRows:
    """The online rows of a codes bundle, made one vocabulary at a time.

    Raises:
        SpaceError: The codes index another codebook, or belong to another vocabulary.
        BundleError: Vocabulary and codes differ in size.
    """

    def __init__(self, codes: Bundle, codebook: Bundle, vocabulary: Bundle) -> None:
        if codes.extra["codebook"] != codebook.uuid:
            raise SpaceError(
                f"the codes in {codes.path} index another codebook than {codebook.uuid}",
                found=codes.extra["codebook"],
                fix="pass the codebook that these codes were made with",
            )
        parent = codes.manifest.parents.get("vocabulary", vocabulary.uuid)
        if parent != vocabulary.uuid:
            raise SpaceError(
                f"the codes in {codes.path} were made for another vocabulary than {vocabulary.uuid}",
                found=parent,
                fix="pass the vocabulary that these codes were made for",
            )
        self.codebook = codebook.uuid
        self.codes = codes.uuid
        self.generation = int(codes.extra["generation"])
        self._files = CodesFiles(codes)
        self._sizes = self._files.sizes
        self._vocabularies = Vocabularies(vocabulary)
        for name, size in self._sizes.items():
            if self._vocabularies.sizes.get(name) != size:
                raise BundleError(
                    f"{codes.path} holds codes of {size} values of vocabulary {name!r}",
                    found=f"{self._vocabularies.sizes.get(name, 'no')} values in {vocabulary.path}",
                    fix="run the quantize step again for this vocabulary",
                )

    def __len__(self) -> int:
        return sum(self._sizes.values())

    def batches(self, batch_rows: int) -> Iterator[tuple[list[str], list[bytes]]]:
        """Keys and values, each vocabulary's keys in the order of the store's index."""
        for name, size in self._sizes.items():
            keys = self._vocabularies.keys(name)
            rows = self._files.rows(name)
            lengths = pc.binary_length(keys)
            order = pc.sort_indices(
                pa.table({"length": lengths, "key": keys}), sort_keys=[("length", "ascending"), ("key", "ascending")]
            )
            order = order.to_numpy().astype(np.int64)
            for start in range(0, size, batch_rows):
                ids = order[start : start + batch_rows]
                yield keys.take(pa.array(ids)).to_pylist(), self._values(rows, ids)

    def sample(self, num_rows: int) -> list[OnlineRow]:
        """At most ``num_rows`` rows drawn with a fixed seed."""
        total = len(self)
        drawn = np.sort(
            np.random.default_rng(_VERIFY_SEED).choice(total, min(num_rows, total), replace=False, shuffle=False)
        )
        rows: list[OnlineRow] = []
        offset = 0
        for name, size in self._sizes.items():
            ids = drawn[(drawn >= offset) & (drawn < offset + size)] - offset
            offset += size
            if len(ids):
                keys = self._vocabularies.keys(name).take(pa.array(ids)).to_pylist()
                rows += map(OnlineRow, keys, self._values(self._files.rows(name), ids))
        return rows

    def _values(self, rows: ValueRows, ids: NDArray[np.int64]) -> list[bytes]:
        """Online values of ids (N,) of one vocabulary."""
        values = encode(self.codebook, rows.codes[rows.places(ids)])
        of_head = np.flatnonzero(rows.in_head(ids))
        for place, value in zip(of_head, encode_head(self.codebook, rows.head[ids[of_head] - 1]), strict=True):
            values[place] = value
        return values


def publish_rows(rows: OnlineRows, repo: Path, publish: PublishConfig) -> dict[str, Any]:
    """Apply definitions, write, read back; alone on this store while it lasts.

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
        writing = next_publication(
            before, codebook=rows.codebook, codes=rows.codes, generation=rows.generation, rows=len(rows)
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
        _apply(store, repo, writing)
        _write(store, repo, rows, publish, datetime.fromisoformat(writing.event_time))
        wrong = _first_difference(CodesReader(repo, name, rows.codebook), sample)
        if wrong is not None:
            raise PublishError(
                f"the online store of {repo} does not return the codes just written to {name}",
                found=wrong,
                fix="check that nothing else writes to this store and that its disk is sound, then publish again",
            )
        _apply(store, repo, writing.completed())
    return facts | {"written_rows": len(rows), "verified_rows": len(sample)}


def _apply(store: FeatureStore, repo: Path, published: Published) -> None:
    with feast_errors(
        f"cannot apply definitions to the Feast store of {repo}", fix="make registry and online store writable"
    ):
        retry_while_locked(lambda: store.apply(build_definitions(published)))


def _write(store: FeatureStore, repo: Path, rows: OnlineRows, publish: PublishConfig, event_time: datetime) -> None:
    name = feature_name(rows.codebook)
    progress = Progress(STEP, len(rows))
    with feast_errors(
        f"cannot write codes of {name} to the online store of {repo}",
        fix="make the store reachable and writable, then run this step again: it starts over safely",
    ):
        writer = open_writer(publish.writer, store, name, event_time)
        for keys, values in rows.batches(publish.batch_rows):
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
