"""Stored features of one request, in process from Feast's online store: some ten microseconds.

Reads the packed rows themselves and not by FeatureStore.get_online_features, which costs several times as
much and leaves out the time of a row; the numbers are the same. In Redis both entities are one round trip.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from operator import itemgetter
from typing import cast

from jobs.conf.settings import Settings
from jobs.features.declarations import STORED_FEATURES, Entity
from jobs.features.definitions import VIEWS, time_to_live
from jobs.features.packed import EPOCH, Layout, layout_of
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
        self._ttl_micros = time_to_live(settings) // MICROSECOND
        joined = [name for layout in self._layouts.values() for name in layout.names]
        self._order = itemgetter(*(joined.index(name) for name in STORED_FEATURES))
        self._gaps = {entity: (math.nan,) * len(layout.names) for entity, layout in self._layouts.items()}
        self._stored([("customer", 0)])  # a store that does not answer is noticed here, not by a request

    def read(self, customer_id: int, terminal_id: int, at: datetime | None = None) -> dict[str, float | None]:
        """Every stored feature by name; None where the entity has no row or the value is null.

        Args:
            customer_id: the card holder.
            terminal_id: the terminal.
            at: time of the event. A row serves it only when it is older than the event and within its
                ttl, as in training; without a time the newest row serves, however old.
        """
        values = self.values(self._stored([("customer", customer_id), ("terminal", terminal_id)]), at)
        # NaN alone differs from itself
        return {name: None if v != v else v for name, v in zip(STORED_FEATURES, values, strict=True)}

    def keys(self, customer_id: int, terminal_id: int) -> list[str]:
        """Where Redis has the rows of a request, for who reads them beside something else."""
        layouts = self._layouts
        return [layouts["customer"].address(customer_id), layouts["terminal"].address(terminal_id)]

    def values(self, rows: Sequence[bytes | None], at: datetime | None) -> tuple[float, ...]:
        """STORED_FEATURES, in their order and NaN for null, of the rows of a request, as `read` has them.

        Whatever lies there: a row that no Sluice wrote is none, and one of an impossible time serves nobody.
        """
        latest = None if at is None else (at - EPOCH) // MICROSECOND - 1
        joined: list[float] = []
        for (entity, layout), stored in zip(self._layouts.items(), rows, strict=True):
            row = layout.numbers(stored)
            serves = row is not None and (latest is None or row[0] <= latest <= row[0] + self._ttl_micros)
            joined += row[1] if row is not None and serves else self._gaps[entity]
        found: tuple[float, ...] = self._order(joined)
        return found

    def row(self, entity: Entity, key: int) -> tuple[datetime | None, dict[str, float | None]]:
        """The stored row of an entity: its as_of, None where there is no row, and its features."""
        layout = self._layouts[entity]
        return layout.unpack(*self._stored([(entity, key)])) or (None, dict.fromkeys(layout.names))

    def newest(self, entity: Entity) -> datetime | None:
        """The newest as_of among the rows of an entity; None where there is no row."""
        return self._online.newest(self._config, self._layouts[entity])

    def _stored(self, wanted: list[tuple[Entity, int]]) -> list[bytes | None]:
        return self._online.read_rows(self._config, [(self._layouts[entity], key) for entity, key in wanted])
