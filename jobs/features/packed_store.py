"""What Feast asks of an online store, answered with packed rows: common to SQLite and Redis.

In: Feast's protobuf rows, or Arrow batches, which are some twenty times as fast. Out: the rows in the store,
where the newest of an entity wins; what is read comes as Feast expects it.
Errors: SluiceError for a view whose key is not one int64 or whose features are no doubles.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa
from feast.feature_view import FeatureView
from feast.infra.online_stores.online_store import OnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import RepoConfig

from jobs.core import SluiceError
from jobs.features.packed import Layout, layout_of


class PackedOnlineStore(OnlineStore):  # type: ignore[misc]
    """An online store of one packed row per entity and view."""

    @abstractmethod
    def write_arrow(self, config: RepoConfig, view: FeatureView, batch: pa.RecordBatch) -> int:
        """Store the rows of a batch where no newer ones are; gives how many were stored."""

    @abstractmethod
    def read_rows(self, config: RepoConfig, wanted: Sequence[tuple[Layout, int]]) -> list[bytes | None]:
        """The stored rows of some entities, of whatever views; None where there is none."""

    @abstractmethod
    def newest(self, config: RepoConfig, layout: Layout) -> datetime | None:
        """The newest as_of among the rows of these declarations."""

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[tuple[EntityKey, dict[str, Value], datetime, datetime | None]],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Feast's own way in, value by value."""
        rows = [
            (_key(entity), moment, {name: _number(name, value) for name, value in values.items()})
            for entity, values, moment, _created in data
        ]
        self.write_arrow(config, table, layout_of(config, table).batch(rows))
        if progress:
            progress(len(data))

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[tuple[datetime | None, dict[str, Value] | None]]:
        """Feast's own way out: time and values of each entity, None twice where there is no row."""
        layout = layout_of(config, table)
        wanted = requested_features or list(layout.names)
        answer: list[tuple[datetime | None, dict[str, Value] | None]] = []
        for stored in self.read_rows(config, [(layout, _key(entity)) for entity in entity_keys]):
            row = layout.unpack(stored)
            if row is None:
                answer.append((None, None))
            else:
                answer.append((row.as_of, {name: _value(row.values[name]) for name in wanted}))
        return answer


def _key(entity: EntityKey) -> int:
    if len(entity.entity_values) != 1 or not entity.entity_values[0].HasField("int64_val"):
        raise SluiceError("online rows have one join key, an int64")
    key: int = entity.entity_values[0].int64_val
    return key


def _number(name: str, value: Value) -> float | None:
    kind = value.WhichOneof("val")
    if kind not in (None, "null_val", "double_val"):
        raise SluiceError(f"online features are doubles, {name} came as {kind}")
    return value.double_val if kind == "double_val" else None


def _value(number: float | None) -> Value:
    return Value() if number is None else Value(double_val=number)
