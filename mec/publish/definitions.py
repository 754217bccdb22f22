"""What mec declares in a Feast registry: per codebook one FeatureView and one FeatureService.

The FeatureView's tags are the record of what was published: which codes, of which generation, and
whether the last publisher finished. ``feature_repo/definitions.py`` declares the same objects again,
so that ``feast apply`` in a repo that mec publishes to neither drops nor changes them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mec.errors import PublishError
from mec.publish.online_value import feature_name

if TYPE_CHECKING:
    from feast import FeatureStore

ENTITY = "value"
JOIN_KEY = "value_key"
FEATURE = "code"
TIMESTAMP = "event_timestamp"


@dataclass(frozen=True)
class Published:
    """State of one codebook's codes in the online store, kept in its FeatureView's tags."""

    codebook: str
    codes: str  # uuid of the codes bundle written last
    generation: int
    rows: int
    state: Literal["writing", "complete"]
    event_time: str  # ISO 8601, UTC, whole seconds; rises with every attempt to publish

    def to_tags(self) -> dict[str, str]:
        return {name: str(value) for name, value in asdict(self).items()}

    @classmethod
    def from_tags(cls, view: str, tags: dict[str, str]) -> Published:
        """Read the tags back.

        Raises:
            PublishError: The view was not made by mec, or its tags were changed.
        """
        try:
            state = tags["state"]
            if state not in ("writing", "complete"):
                raise ValueError(f"state {state!r}")
            datetime.fromisoformat(tags["event_time"])
            return cls(
                codebook=tags["codebook"],
                codes=tags["codes"],
                generation=int(tags["generation"]),
                rows=int(tags["rows"]),
                state="complete" if state == "complete" else "writing",
                event_time=tags["event_time"],
            )
        except (KeyError, ValueError):
            raise PublishError(
                f"the FeatureView {view} does not carry the tags that mec writes",
                found=dict(tags),
                fix=f"delete it (feast delete {view}) and publish again",
            ) from None

    def completed(self) -> Published:
        """The same codes, all written."""
        return replace(self, state="complete")


def next_publication(
    published: Published | None, *, codebook: str, codes: str, generation: int, rows: int
) -> Published:
    """What the tags say while these codes are being written.

    Some online stores let an older timestamp overwrite a newer one, so the order of generations is kept
    here. Others (Redis) skip rows that are not newer than what they hold, so timestamps always rise.

    Raises:
        PublishError: Newer codes of this codebook are in the store.
    """
    now = datetime.now(UTC).replace(microsecond=0)
    if published is not None:
        name = feature_name(codebook)
        if published.codebook != codebook:
            raise PublishError(
                f"{name} already holds the codes of another codebook whose uuid begins alike",
                found=published.codebook,
                fix="publish to another feature repo, or quantize with another seed",
            )
        if published.generation > generation:
            raise PublishError(
                f"the online store holds generation {published.generation} of {name}; older must not overwrite it",
                found=f"generation {generation}",
                fix=f"publish generation {published.generation} or a newer one",
            )
        now = max(now, datetime.fromisoformat(published.event_time) + timedelta(seconds=1))
    return Published(codebook, codes, generation, rows, "writing", now.isoformat())


def build_definitions(published: Published) -> list[Any]:
    """Entity, FeatureView and FeatureService of one codebook."""
    from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
    from feast.types import Bytes, String

    name = feature_name(published.codebook)
    entity = Entity(
        name=ENTITY,
        join_keys=[JOIN_KEY],
        value_type=ValueType.STRING,
        description="a value of a vocabulary, as vocabulary=value",
    )
    source = FileSource(  # Feast takes the timestamp column's name from it; the file is never read or written
        name=name,
        path=f"{name}.parquet",
        timestamp_field=TIMESTAMP,
        description="no file: mec writes codes straight to the online store",
    )
    view = FeatureView(
        name=name,
        entities=[entity],
        schema=[Field(name=JOIN_KEY, dtype=String), Field(name=FEATURE, dtype=Bytes)],
        source=source,
        ttl=timedelta(0),
        online=True,
        description=f"codes of codebook {published.codebook}",
        tags=published.to_tags(),
    )
    service = FeatureService(
        name=name,
        features=[view],
        description=f"codes of codebook {published.codebook}",
        tags={"codebook": published.codebook},
    )
    return [entity, view, service]


def read_published(store: FeatureStore, codebook: str) -> Published | None:
    """What the registry says of one codebook's codes; None when they were never published."""
    from feast.errors import FeatureViewNotFoundException

    name = feature_name(codebook)
    try:
        view = store.get_feature_view(name)
    except FeatureViewNotFoundException:
        return None
    return Published.from_tags(name, dict(view.tags))


def published_definitions(repo: Path) -> dict[str, Any]:
    """Everything mec has published to a feature repo, by variable name, for its ``definitions.py``."""
    from mec.publish.store import open_store

    definitions: dict[str, Any] = {}
    for view in open_store(repo).list_feature_views():
        if view.name.startswith("codes_"):
            entity, again, service = build_definitions(Published.from_tags(view.name, dict(view.tags)))
            definitions |= {ENTITY: entity, f"{view.name}_view": again, f"{view.name}_service": service}
    return definitions
