"""Velocity features online: what a customer and a terminal did until just before an event.

In: events one by one from the scoring service, and in bulk. Out: VELOCITY_FEATURES, NaN for null.
An event is seen by those strictly after it only, in whatever order they come, and counts once, however often
it is sent: its first record is kept. Two stores: one SQLite file (velocity_sqlite.py), or Redis where
SLUICE_ONLINE_STORE is redis (velocity_redis.py). Both answer what the declarations say; a new window label
needs no change in them.
Errors: those of sqlite3 and redis; the service then scores without these features.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple, Protocol

from jobs.conf.settings import Settings
from jobs.features.declarations import (
    ENTITIES,
    VELOCITY,
    VELOCITY_FEATURES,
    Entity,
    Feature,
    velocity_memory,
)
from jobs.features.measures import OF_SUMS

if TYPE_CHECKING:
    import pyarrow as pa

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
SECOND = 1_000_000
Row = tuple[int, int, int, int, float]  # transaction, microseconds, customer, terminal, minor units
OF_ONE = ("seconds_since_last", "amount_before", "seconds_before")  # measures of one earlier event
GRACE = timedelta(days=1)  # how much later than a newer one an event may come and still find all of its past


class Event(NamedTuple):
    """One transaction, as far as velocity goes; `event_time` knows its zone."""

    transaction_id: int
    event_time: datetime
    customer_id: int
    terminal_id: int
    amount_minor: int


class UnreadableError(Exception):
    """What is kept of one customer or terminal cannot be read; the store answers for all others."""


class VelocityStore(Protocol):
    """What a store does; safe to share between threads."""

    def take(self, event: Event) -> list[float]:
        """The features of an event, in the order of VELOCITY_FEATURES, and then the event is recorded."""

    def peek(self, event: Event) -> list[float]:
        """The features of an event; nothing is recorded."""

    def record_many(self, events: pa.Table) -> int:
        """Record events in short steps, so that `take` is not held up; how many were not known before.

        Args:
            events: transaction_id, event_time (UTC), customer_id, terminal_id, amount_minor.
        """

    def forget(self, before: datetime) -> int:
        """Drop events before an instant, but none that the newest ones could need; how many went.

        Called again and again: one call may leave some to the next.
        """

    def close(self) -> None:
        """Let go of files and connections."""


class Sums(NamedTuple):
    """What a store finds of one entity before an event, times in microseconds since 1970.

    `rings` has (count, sum, sum of squares) of each stretch between two window starts, the nearest first;
    `latest` has (time, amount) of the last events, the newest first and of one instant the larger first.
    """

    rings: Iterable[tuple[float, float, float]]
    latest: list[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class EntityPlan:
    """What has to be read of an entity."""

    entity: Entity
    windows: tuple[int, ...]  # of the sums in microseconds, the shortest first
    latest: int  # how many of the last events matter
    lookback: int  # microseconds in which they do
    memory: int  # microseconds that are kept before the newest event

    def bounds(self, moment: int) -> list[int]:
        """The window starts of an event, the nearest first."""
        return [moment - window for window in self.windows]


def microseconds(moment: datetime) -> int:
    """Microseconds since 1970 of an instant."""
    return (moment - EPOCH) // MICROSECOND


def kept_from(newest: int, now: int, memory: int) -> int:
    """Before which nothing is needed any more; an event from the future does not push out the present."""
    return min(newest, now) - memory


def longest_memory() -> timedelta:
    """How long an event may matter to any feature."""
    return max(velocity_memory(entity) for entity in ENTITIES) + GRACE


def _width(window: timedelta) -> int:
    return window // MICROSECOND


def _turn(feature: Feature) -> int:
    """Which of the last events a feature tells of, 0 the newest."""
    return max(feature.place - 1, 0)


def _plan(entity: Entity) -> EntityPlan:
    own = [feature for feature in VELOCITY if feature.entity == entity]
    last = [feature for feature in own if feature.measure in OF_ONE]
    return EntityPlan(
        entity=entity,
        windows=tuple(sorted({_width(feature.window) for feature in own if feature.measure not in OF_ONE})),
        latest=max((_turn(feature) + 1 for feature in last), default=0),
        lookback=max((_width(feature.window) for feature in last), default=0),
        memory=_width(velocity_memory(entity) + GRACE),
    )


PLANS: dict[Entity, EntityPlan] = {entity: _plan(entity) for entity in ENTITIES}
PLACES = {name: place for place, name in enumerate(VELOCITY_FEATURES)}
# (place in the answer, measure) of each window of an entity, the shortest first
SUMS = {
    entity: [
        [
            (PLACES[feature.name], OF_SUMS[feature.measure])
            for feature in VELOCITY
            if feature.entity == entity and feature.measure not in OF_ONE and _width(feature.window) == width
        ]
        for width in plan.windows
    ]
    for entity, plan in PLANS.items()
}
# (place in the answer, which of the last events, whether its amount is asked for, how far back)
LAST = {
    entity: [
        (PLACES[feature.name], _turn(feature), feature.measure == "amount_before", _width(feature.window))
        for feature in VELOCITY
        if feature.entity == entity and feature.measure in OF_ONE
    ]
    for entity in ENTITIES
}
NEW = [(PLACES[feature.name], _width(feature.window)) for feature in VELOCITY if feature.measure == "is_new"]
PAIR_LOOKBACK: int = max((width for _, width in NEW), default=0)


def velocity_of(moment: int, found: dict[Entity, Sums], newest_of_pair: int | None) -> list[float]:
    """The features of an event at `moment` from what a store found before it."""
    values = [math.nan] * len(VELOCITY_FEATURES)
    for entity, sums in found.items():
        count = total = squares = 0.0
        for (more, amounts, of_squares), wanted in zip(sums.rings, SUMS[entity], strict=True):
            count, total, squares = count + more, total + amounts, squares + of_squares
            for place, measure in wanted:
                values[place] = measure(count, total, squares)
        latest = sums.latest
        for place, turn, of_amount, width in LAST[entity]:
            if turn < len(latest):
                time, amount = latest[turn]
                if moment - time <= width:
                    values[place] = amount / 100 if of_amount else (moment - time) / SECOND
    for place, width in NEW:
        values[place] = float(newest_of_pair is None or moment - newest_of_pair > width)
    return values


def row_of(event: Event) -> Row:
    """The event as stores write it; an amount of any size is a double."""
    return (
        event.transaction_id,
        microseconds(event.event_time),
        event.customer_id,
        event.terminal_id,
        float(event.amount_minor),
    )


def chunks_of(events: pa.Table, size: int) -> Iterator[list[Row]]:
    """The rows of a table of events, so many at a time."""
    import pyarrow as pa

    columns = [
        events["transaction_id"],
        events["event_time"].cast(pa.timestamp("us", "UTC")).cast(pa.int64()),
        events["customer_id"],
        events["terminal_id"],
        events["amount_minor"].cast(pa.float64(), safe=False),
    ]
    for start in range(0, events.num_rows, size):
        yield list(zip(*(column.slice(start, size).to_pylist() for column in columns), strict=True))


def open_velocity_store(settings: Settings) -> VelocityStore:
    """The store of an installation, made where there is none yet."""
    if settings.online_store == "redis":
        from jobs.features.velocity_redis import RedisVelocityStore

        return RedisVelocityStore(settings.redis_url)
    from jobs.features.velocity_sqlite import SqliteVelocityStore

    return SqliteVelocityStore(settings.home / "feast" / "velocity.db")
