"""Feast's online store in Redis, where the newest row of an entity wins.

One string per entity and view with a packed row (jobs/features/redis_rows.py); a script on the server
compares and sets. SLUICE_REDIS_URL names one server, not a cluster.
Errors: SluiceError for a view whose key is not one int64 or whose features are no doubles, and where Redis
cannot be used.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal

import pyarrow as pa
from feast import Entity
from feast.feature_view import FeatureView
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from pydantic import SecretStr
from redis import Redis

from jobs.features import redis_rows
from jobs.features.packed import EPOCH, Layout, layout_of, table_of
from jobs.features.packed_store import PackedOnlineStore
from jobs.features.redis_client import REQUEST_WAITS, connect


class NewestRedisOnlineStoreConfig(FeastConfigBaseModel):  # type: ignore[misc]
    """Configuration of the store: `connection_string` as host:port,password=…; it is never printed."""

    type: Literal["jobs.features.redis_online.NewestRedisOnlineStore"] = (
        "jobs.features.redis_online.NewestRedisOnlineStore"
    )
    connection_string: SecretStr = SecretStr("127.0.0.1:6379")


class NewestRedisOnlineStore(PackedOnlineStore):
    """Redis, where the newest row of an entity wins."""

    _writer: Redis | None = None
    _reader: Redis | None = None

    def write_arrow(self, config: RepoConfig, view: FeatureView, batch: pa.RecordBatch) -> int:
        """Store the rows of a batch where no newer ones are; gives how many were stored."""
        with redis_rows.explained(address(config)):
            return redis_rows.write(self._patient(config), layout_of(config, view), batch)

    def read_rows(self, config: RepoConfig, wanted: Sequence[tuple[Layout, int]]) -> list[bytes | None]:
        """The stored rows of some entities, of whatever views; None where there is none."""
        with redis_rows.explained(address(config)):
            self._reader = self._reader or connect(address(config), REQUEST_WAITS)
            return redis_rows.read(self._reader, wanted)

    def newest(self, config: RepoConfig, layout: Layout) -> datetime | None:
        """The newest as_of that was written for these declarations."""
        with redis_rows.explained(address(config)):
            found = redis_rows.newest(self._patient(config), layout)
        return None if found is None else EPOCH + timedelta(microseconds=found)

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
        partial: bool,
    ) -> None:
        """Refuse views that cannot be stored, and remove the rows of those that are gone."""
        for view in tables_to_keep:
            layout_of(config, view)
        self.teardown(config, tables_to_delete, entities_to_delete)

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:
        """Remove the rows of these views."""
        with redis_rows.explained(address(config)):
            for view in tables:
                redis_rows.remove(self._patient(config), table_of(config, view))

    def _patient(self, config: RepoConfig) -> Redis:
        """The job's client; a request's gives up sooner."""
        self._writer = self._writer or connect(address(config))
        return self._writer


def address(config: RepoConfig) -> str:
    """Where Redis is, its password included."""
    text: str = config.online_store.connection_string.get_secret_value()
    return text
