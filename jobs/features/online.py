"""Stored features of one request, in process from Feast's online store: a fraction of a millisecond.

Reads the store itself and not FeatureStore.get_online_features, which costs several times as much and leaves
out the time of a row; the numbers are the same.
"""

from __future__ import annotations

from datetime import UTC, datetime

from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from jobs.conf.settings import Settings
from jobs.features.declarations import STORED_FEATURES, Entity, stored_features
from jobs.features.definitions import TICK, VIEWS, time_to_live
from jobs.features.store import feature_store


class OnlineFeatures:
    """Reads of the online store; one per process, safe to share between threads."""

    def __init__(self, settings: Settings) -> None:
        self._store = feature_store(settings)
        self._config = self._store.config
        self._online = self._store._get_provider().online_store
        self._views = {entity: self._store.get_feature_view(name) for entity, name in VIEWS.items()}
        self._names = {entity: [feature.name for feature in stored_features(entity)] for entity in VIEWS}
        self._ttl = time_to_live(settings)

    def read(self, customer_id: int, terminal_id: int, at: datetime | None = None) -> dict[str, float | None]:
        """Every stored feature by name; None where the entity has no row or the value is null.

        Args:
            customer_id: the card holder.
            terminal_id: the terminal.
            at: time of the event. A row serves it only when it is older than the event and within its
                ttl, as in training; without a time the newest row serves, however old.
        """
        found: dict[str, float | None] = dict.fromkeys(STORED_FEATURES)
        self._add(found, "customer", customer_id, at)
        self._add(found, "terminal", terminal_id, at)
        return found

    def row(self, entity: Entity, key: int) -> tuple[datetime | None, dict[str, float | None]]:
        """The stored row of an entity: its as_of, None where there is no row, and its features."""
        as_of, values = self._row(entity, key)
        return as_of, {name: _number(values, name) for name in self._names[entity]}

    def _add(self, found: dict[str, float | None], entity: Entity, key: int, at: datetime | None) -> None:
        as_of, values = self._row(entity, key)
        if as_of is None:
            return
        if at is not None and not as_of <= at.astimezone(UTC) - TICK <= as_of + self._ttl:
            return
        for name in self._names[entity]:
            found[name] = _number(values, name)

    def _row(self, entity: Entity, key: int) -> tuple[datetime | None, dict[str, Value]]:
        entity_key = EntityKey(join_keys=[f"{entity}_id"], entity_values=[Value(int64_val=key)])
        rows = self._online.online_read(self._config, self._views[entity], [entity_key], self._names[entity])
        as_of, values = rows[0]
        return as_of, values or {}


def _number(values: dict[str, Value], name: str) -> float | None:
    value = values.get(name)
    if value is None or not value.HasField("double_val"):
        return None
    number: float = value.double_val
    return number
