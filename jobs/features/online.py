"""Stored features of one request, in process from Feast's online store: some ten microseconds.

Reads the packed rows themselves and not by FeatureStore.get_online_features, which costs several times as
much and leaves out the time of a row; the numbers are the same. In Redis both entities are one round trip.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from typing import cast

from jobs.conf.settings import Settings
from jobs.features.declarations import STORED_FEATURES, Entity
from jobs.features.definitions import TICK, VIEWS, time_to_live
from jobs.features.packed import EPOCH, Layout, Row, layout_of
from jobs.features.packed_store import PackedOnlineStore
from jobs.features.store import feature_store

MICROSECOND = timedelta(microseconds=1)


class OnlineFeatures:
    """Reads of the online store; one per process, safe to share between threads."""

    def __init__(self, settings: Settings) -> None:
        store = feature_store(settings)
        self._config = store.config
        self._online = cast(PackedOnlineStore, store._get_provider().online_store)
        self._layouts: dict[Entity, Layout] = {
            entity: layout_of(self._config, store.get_feature_view(name)) for entity, name in VIEWS.items()
        }
        self._ttl = time_to_live(settings)
        self._ttl_micros = self._ttl // MICROSECOND
        joined = [name for layout in self._layouts.values() for name in layout.names]
        self._order = itemgetter(*(joined.index(name) for name in STORED_FEATURES))
        self._gaps = {entity: (math.nan,) * len(layout.names) for entity, layout in self._layouts.items()}
        self._rows([("customer", 0)])  # a store that does not answer is noticed here, not by a request

    def read(self, customer_id: int, terminal_id: int, at: datetime | None = None) -> dict[str, float | None]:
        """Every stored feature by name; None where the entity has no row or the value is null.

        Args:
            customer_id: the card holder.
            terminal_id: the terminal.
            at: time of the event. A row serves it only when it is older than the event and within its
                ttl, as in training; without a time the newest row serves, however old.
        """
        found: dict[str, float | None] = dict.fromkeys(STORED_FEATURES)
        latest = at.astimezone(UTC) - TICK if at is not None else None
        for row in self._rows([("customer", customer_id), ("terminal", terminal_id)]):
            if row is not None and (latest is None or row.as_of <= latest <= row.as_of + self._ttl):
                found.update(row.values)
        return found

    def keys(self, customer_id: int, terminal_id: int) -> list[str]:
        """Where Redis has the rows of a request, for who reads them beside something else."""
        layouts = self._layouts
        return [layouts["customer"].address(customer_id), layouts["terminal"].address(terminal_id)]

    def values(self, rows: Sequence[bytes | None], at: datetime) -> tuple[float, ...]:
        """STORED_FEATURES, in their order and NaN for null, of the rows of a request, as `read` has them."""
        latest = (at - EPOCH) // MICROSECOND - 1
        joined: list[float] = []
        for (entity, layout), stored in zip(self._layouts.items(), rows, strict=True):
            row = layout.numbers(stored)
            fresh = row is not None and row[0] <= latest <= row[0] + self._ttl_micros
            joined += row[1] if row is not None and fresh else self._gaps[entity]
        found: tuple[float, ...] = self._order(joined)
        return found

    def row(self, entity: Entity, key: int) -> tuple[datetime | None, dict[str, float | None]]:
        """The stored row of an entity: its as_of, None where there is no row, and its features."""
        (row,) = self._rows([(entity, key)])
        return row or (None, dict.fromkeys(self._layouts[entity].names))

    def newest(self, entity: Entity) -> datetime | None:
        """The newest as_of among the rows of an entity; None where there is no row."""
        return self._online.newest(self._config, self._layouts[entity])

    def _rows(self, wanted: list[tuple[Entity, int]]) -> list[Row | None]:
        layouts = [(self._layouts[entity], key) for entity, key in wanted]
        stored = self._online.read_rows(self._config, layouts)
        return [layout.unpack(found) for (layout, _), found in zip(layouts, stored, strict=True)]
