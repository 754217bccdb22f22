"""Rows that no version has learned from: those of refreshes that were not promoted.

Such a refresh leaves a tag ``waiting.…`` with the version that stayed in service: where its rows are and why they were
not learned from. They are read again together with the next ones, and have waited long enough once a version was
refreshed on every place that the tag names.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

from mec.tracking.generations import REFRESHED_ON, lineage
from mec.tracking.registry import ModelRegistry, Version

READ_TAG = "refreshed_paths"  # of a version: where the new rows of its refresh were, as a JSON list
_TAG = "waiting."
_REASON_CHARACTERS = 500


@dataclass(frozen=True)
class Waiting:
    """One period of new rows that changed nothing.

    Attributes:
        version: Number of the version that stayed in service.
        data_version: Identity of the rows, as whoever started the refresh named it.
        content: Identity of the rows, as they were read.
        paths: Where they are: files, directories or patterns.
        when: They began to wait, ISO 8601, UTC.
        decision: keep or escalate.
        reason: The first one.
        run: MLflow run of the refresh.
        learned_by: Number of the version, if the asked one or an earlier one of its line, that has learned from them.
    """

    version: str
    data_version: str
    content: str
    paths: tuple[str, ...]
    when: str
    decision: str
    reason: str
    run: str
    learned_by: str | None = None


def waiting_tag(
    *,
    version: Version,
    data_version: str,
    content: str,
    paths: Sequence[str],
    decision: str,
    reason: str,
    run: str,
) -> dict[str, str]:
    """The tag that such a refresh leaves with ``version``; the same rows again replace it, but for when they came."""
    when = datetime.now(UTC).isoformat(timespec="seconds")
    short = reason if len(reason) <= _REASON_CHARACTERS else reason[: _REASON_CHARACTERS - 1] + "…"
    name = _TAG + hashlib.sha256(data_version.encode()).hexdigest()[:16]
    if name in version.tags:
        known = _read(version.tags[name])
        if (known.content, known.paths) == (content, tuple(paths)):
            when = known.when
    facts = Waiting(version.number, data_version, content, tuple(paths), when, decision, short, run)
    return {name: json.dumps({key: value for key, value in asdict(facts).items() if key != "learned_by"})}


def all_waiting(registry: ModelRegistry) -> list[Waiting]:
    """What every refresh left behind that was not promoted, learned from or not; ``learned_by`` says nothing here."""
    versions = registry.versions()
    return [_read(text) for v in versions for name, text in v.tags.items() if name.startswith(_TAG)]


def waiting_rows(registry: ModelRegistry, version: Version) -> list[Waiting]:
    """What was not learned from when it came, since the training that a version goes back to, oldest first.

    Args:
        registry: Of the model.
        version: Whoever is asked what it has learned from since.
    """
    line = lineage(registry, version)[::-1]
    found = []
    for rows in all_waiting(registry):
        if rows.when >= line[0].registered:
            learned = next((v.number for v in line[1:] if _has_learned(v, rows)), None)
            found.append(replace(rows, learned_by=learned))
    return sorted(found, key=lambda rows: (rows.when, rows.data_version))


def _has_learned(version: Version, rows: Waiting) -> bool:
    """Whether a refreshed version learned from the rows: it is of these, or read all of their places later."""
    if version.tags.get(REFRESHED_ON) == rows.data_version:
        return True
    return version.registered >= rows.when and set(rows.paths) <= set(json.loads(version.tags.get(READ_TAG, "[]")))


def _read(text: str) -> Waiting:
    facts = json.loads(text)
    return Waiting(**(facts | {"paths": tuple(facts["paths"])}))
