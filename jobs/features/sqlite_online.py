"""Feast's SQLite online store with one more rule: an older row never overwrites a newer one.

Days may then be materialised in any order and again, with the same result as in their own order. Written in
one transaction beside a write-ahead log, so readers neither wait nor see half a day.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from datetime import datetime
from typing import Any

from feast.feature_view import FeatureView
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.helpers import compute_table_id
from feast.infra.online_stores.sqlite import SqliteOnlineStore, SqliteOnlineStoreConfig
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import RepoConfig
from feast.utils import to_naive_utc

BUSY_SECONDS = 30


class NewestSqliteOnlineStoreConfig(SqliteOnlineStoreConfig):  # type: ignore[misc]
    """Configuration of the store: `path` of the database."""

    type: str = "jobs.features.sqlite_online.NewestSqliteOnlineStore"


class NewestSqliteOnlineStore(SqliteOnlineStore):  # type: ignore[misc]
    """SQLite, where the newest row of an entity wins."""

    def _get_conn(self, config: RepoConfig) -> sqlite3.Connection:
        if not self._conn:
            connection: sqlite3.Connection = super()._get_conn(config)
            connection.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
        found: sqlite3.Connection = super()._get_conn(config)
        return found

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[tuple[EntityKey, dict[str, Value], datetime, datetime | None]],
        progress: Callable[[int], Any] | None,
    ) -> None:
        versioned = config.registry.enable_online_feature_view_versioning
        name = compute_table_id(config.project, table, versioned)
        statement = (
            f'INSERT INTO "{name}" (entity_key, feature_name, value, event_ts) '  # noqa: S608
            "VALUES (?, ?, ?, ?) ON CONFLICT (entity_key, feature_name) DO UPDATE SET "
            "value = excluded.value, event_ts = excluded.event_ts "
            "WHERE excluded.event_ts >= event_ts"
        )
        rows = []
        for key, values, moment, _created in data:
            encoded = serialize_entity_key(key, config.entity_key_serialization_version)
            naive = to_naive_utc(moment)
            rows += [
                (encoded, feature, value.SerializeToString(), naive) for feature, value in values.items()
            ]
        connection = self._get_conn(config)
        with connection:
            connection.executemany(statement, rows)
        if progress:
            progress(len(data))
