"""Two ways to write the same rows: Feast's own writer, and sqlite in bulk.

Feast spends its time on Python objects per row. The bulk writer puts the bytes Feast would have
written into the table Feast made, one transaction per batch; ``tests/publish/test_writer.py`` holds
the two equal.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from datetime import datetime
from typing import TYPE_CHECKING, Literal, Protocol

from mec.errors import ConfigError
from mec.publish.definitions import FEATURE, JOIN_KEY, TIMESTAMP
from mec.publish.locking import database_path

if TYPE_CHECKING:
    from feast import FeatureStore


class Writer(Protocol):
    """Writes rows of one FeatureView, a key that is there already being overwritten."""

    def write(self, keys: Sequence[str], values: Sequence[bytes]) -> None:
        """Write one batch, all of it or nothing where the store has transactions."""


class FeastWriter:
    """``FeatureStore.write_to_online_store``: works with every online store.

    Args:
        store: The opened store, definitions applied.
        view: Name of the FeatureView.
        event_time: Timestamp of every row, UTC.
    """

    def __init__(self, store: FeatureStore, view: str, event_time: datetime) -> None:
        self._store = store
        self._view = view
        self._event_time = event_time

    def write(self, keys: Sequence[str], values: Sequence[bytes]) -> None:
        import pandas as pd

        frame = pd.DataFrame({JOIN_KEY: list(keys), FEATURE: list(values), TIMESTAMP: pd.Timestamp(self._event_time)})
        self._store.write_to_online_store(self._view, frame)


class BulkSqliteWriter:
    """The same rows as Feast's writer, by ``executemany`` into an sqlite online store.

    Args:
        store: The opened store, definitions applied.
        view: Name of the FeatureView.
        event_time: Timestamp of every row, UTC.

    Raises:
        ConfigError: The online store is not a plain sqlite one.
    """

    def __init__(self, store: FeatureStore, view: str, event_time: datetime) -> None:
        config = store.config
        check_bulk(store)
        from feast.infra.key_encoding_utils import serialize_entity_key_prefix
        from feast.infra.online_stores.helpers import compute_table_id
        from feast.infra.online_stores.sqlite import adapt_datetime_epoch
        from feast.utils import to_naive_utc

        versioned = config.registry.enable_online_feature_view_versioning
        table = compute_table_id(config.project, store.get_feature_view(view), versioned).replace('"', '""')
        self._path = database_path(config)
        self._key_head = serialize_entity_key_prefix([JOIN_KEY], config.entity_key_serialization_version)
        self._event_ts = adapt_datetime_epoch(to_naive_utc(event_time))
        self._sql = (
            f'INSERT INTO "{table}" (entity_key, feature_name, value, value_text, event_ts, created_ts) '
            f"VALUES (?, '{FEATURE}', ?, NULL, {int(self._event_ts)}, NULL) "
            "ON CONFLICT(entity_key, feature_name) DO UPDATE SET value = excluded.value, "
            "value_text = excluded.value_text, event_ts = excluded.event_ts, created_ts = excluded.created_ts"
        )

    def write(self, keys: Sequence[str], values: Sequence[bytes]) -> None:
        from feast.protos.feast.types.Value_pb2 import Value, ValueType

        kind = ValueType.STRING.to_bytes(4, "little")
        heads: dict[int, bytes] = {}  # length of a value -> the protobuf bytes before it
        rows = []
        for key, value in zip(keys, values, strict=True):
            text = key.encode()
            head = heads.get(len(value))
            if head is None:
                head = Value(bytes_val=value).SerializeToString()[: -len(value)]
                heads[len(value)] = head
            rows.append((self._key_head + kind + len(text).to_bytes(4, "little") + text, head + value))
        with closing(sqlite3.connect(self._path)) as connection, connection:
            connection.executemany(self._sql, rows)


def check_bulk(store: FeatureStore) -> None:
    """Refuse a store that the bulk writer was not made for.

    Raises:
        ConfigError: Not sqlite, with vectors, or with another key serialization.
    """
    config = store.config
    online = config.online_store
    fix = "set publish.writer to feast"
    if online.type != "sqlite":
        raise ConfigError("publish.writer=bulk writes to an sqlite online store only", found=online.type, fix=fix)
    if online.vector_enabled:
        raise ConfigError("publish.writer=bulk does not write vectors", found="vector_enabled: true", fix=fix)
    if config.entity_key_serialization_version != 3:
        raise ConfigError(
            "publish.writer=bulk needs entity_key_serialization_version: 3",
            found=config.entity_key_serialization_version,
            fix=fix,
        )


def open_writer(kind: Literal["feast", "bulk"], store: FeatureStore, view: str, event_time: datetime) -> Writer:
    """The writer that ``publish.writer`` names."""
    return (BulkSqliteWriter if kind == "bulk" else FeastWriter)(store, view, event_time)
