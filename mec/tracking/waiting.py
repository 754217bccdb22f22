"""Rows that no version has learned from: those of refreshes that were not promoted.

Such a refresh leaves a tag ``waiting.…`` with the version that stayed in service: where its rows are and why they were
not learned from. They are read again together with the next ones, and have waited long enough once a version was
refreshed on every place that the tag names.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
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
        when: ISO 8601, UTC.
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
    *, version: str, data_version: str, content: str, paths: Sequence[str], decision: str, reason: str, run: str
) -> dict[str, str]:
    """The tag that such a refresh leaves with ``version``; the same rows again replace it."""
    when = datetime.now(UTC).isoformat(timespec="seconds")
    short = reason if len(reason) <= _REASON_CHARACTERS else reason[: _REASON_CHARACTERS - 1] + "…"
    facts = Waiting(version, data_version, content, tuple(paths), when, decision, short, run)
    key = hashlib.sha256(data_version.encode()).hexdigest()[:16]
    return {_TAG + key: json.dumps({name: value for name, value in asdict(facts).items() if name != "learned_by"})}


def waiting_rows(registry: ModelRegistry, version: Version) -> list[Waiting]:
    """What was not learned from when it came, since the training that a version goes back to, oldest first.

    Args:
        registry: Of the model.
        version: Whoever is asked what it has learned from since.
    """
    line = lineage(registry, version)[::-1]
    found = []
    for holder in registry.versions():
        for name, text in holder.tags.items():
            if name.startswith(_TAG):
                facts = json.loads(text)
                rows = Waiting(**(facts | {"paths": tuple(facts["paths"]), "learned_by": None}))
                if rows.when >= line[0].registered:
                    learned = next((v.number for v in line[1:] if _has_learned(v, rows)), None)
                    found.append(Waiting(**(asdict(rows) | {"learned_by": learned})))
    return sorted(found, key=lambda rows: (rows.when, rows.data_version))


def _has_learned(version: Version, rows: Waiting) -> bool:
    """Whether a refreshed version learned from the rows: it is of these, or read all of their places later."""
    if version.tags.get(REFRESHED_ON) == rows.data_version:
        return True
    return version.registered >= rows.when and set(rows.paths) <= set(json.loads(version.tags.get(READ_TAG, "[]")))
