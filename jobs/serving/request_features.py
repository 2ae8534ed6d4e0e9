"""Features of one request: stored and velocity features read in process, its own computed from it.

In: an event. Out: one value per name, NaN for a gap; the event is recorded for those that come after it.
An event that the contract would not let into the tables is scored and not recorded: it counts in no window
offline either. Without the velocity store its features are gaps and a flag says so; the customer's last known
ones serve the rules for a minute, the policy's velocity_ttl_minutes, and no model.
Errors: SluiceError while the online store is not readable; the caller then answers by rules alone. The event
is recorded even so.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Protocol, cast

from jobs.conf.contract import Contract, contract_of
from jobs.conf.policy import policy_of
from jobs.conf.settings import Settings
from jobs.core import SluiceError
from jobs.features.declarations import FEATURE_VERSION, MODEL_FEATURES, VELOCITY, VELOCITY_FEATURES
from jobs.features.request import assemble, assemble_values
from jobs.features.velocity_store import (
    Event,
    UnreadableError,
    VelocityStore,
    longest_memory,
    open_velocity_store,
)

if TYPE_CHECKING:
    from jobs.features.online import OnlineFeatures
    from jobs.features.velocity_redis import RedisVelocityStore

LOGGER = logging.getLogger("sluice.serving")
FORGET_SECONDS = 10.0
# velocity and stored features, as far as they came
Asked = tuple[list[float] | None, tuple[float, ...] | None]
MINOR_UNITS = 100
BOUNDED = {"transaction_id": 1, "customer_id": 1, "terminal_id": 1, "amount_minor": MINOR_UNITS}


class FeatureSource(Protocol):
    """What the service needs to know about features."""

    names: tuple[str, ...]
    version: str

    def connect(self) -> None:
        """Open the stores that are not open; called again and again from the background."""

    async def vector(self, event: Event) -> list[float]:
        """The values in the order of `names`; the event is recorded, so this is asked once a request."""

    async def peek(self, event: Event) -> list[float]:
        """The same values, and nothing is recorded: for what is no transaction of its own."""

    def last_known(self, event: Event) -> list[float] | None:
        """What was known of the customer's velocity a moment ago, everything else NaN; None for nothing."""

    def troubles(self) -> dict[str, str]:
        """Each store by name, with why it does not answer; empty where it does."""

    def close(self) -> None:
        """Let go of the stores."""


class LastKnown:
    """The velocity of the customers that were seen last: what rules may use while its store is away.

    A pair's newness is of one terminal, so it is left out: what is not known fires no rule.
    The values lie in arrays, which the garbage collector does not look through: ten thousand lists of them
    held every thread up for 5 to 17 ms, each few seconds.
    """

    def __init__(self, customers: int, lifetime: timedelta) -> None:
        self._most = customers
        self._lifetime = lifetime
        self._found: OrderedDict[int, tuple[datetime, array[float]]] = OrderedDict()

    def keep(self, event: Event, velocity: list[float]) -> None:
        """Remember what an event's customer looked like."""
        found = self._found
        found[event.customer_id] = (event.event_time, array("d", velocity))
        found.move_to_end(event.customer_id)
        if len(found) > self._most:
            found.popitem(last=False)

    def of(self, event: Event) -> Sequence[float] | None:
        """The last velocity of the event's customer, where it is young enough and not of the future."""
        kept = self._found.get(event.customer_id)
        if kept is None or not timedelta(0) <= event.event_time - kept[0] <= self._lifetime:
            return None
        return kept[1]


class Admission:
    """Which events the contract lets into the tables, by the bounds of its columns."""

    def __init__(self, contract: Contract) -> None:
        columns = contract.transactions.columns
        self._bounds = [
            (
                name,
                _scaled(columns[name].minimum, units, -math.inf),
                _scaled(columns[name].maximum, units, math.inf),
            )
            for name, units in BOUNDED.items()
        ]

    def admits(self, event: Event) -> bool:
        return all(low <= getattr(event, name) <= high for name, low, high in self._bounds)


class StoredFeatures:
    """Feast's online store and the velocity store in this process."""

    def __init__(self, settings: Settings) -> None:
        self.names: tuple[str, ...] = MODEL_FEATURES
        self.version: str = FEATURE_VERSION
        self._settings = settings
        self._admission = Admission(contract_of(settings))
        self._reader: OnlineFeatures | None = None
        self._trouble = "not opened yet"
        self._velocity: VelocityStore | None = None
        self._velocity_trouble = ""
        self._forgot = -math.inf
        self._one_redis = settings.online_store == "redis"
        policy = policy_of(settings)
        self._last = LastKnown(
            policy.serving.last_known_customers, timedelta(minutes=policy.features.velocity_ttl_minutes)
        )

    def connect(self) -> None:
        """Open the stores, or open them again after a read failed; trouble is kept for `vector` to tell."""
        self._connect_velocity()
        if self._reader is not None:
            return
        try:
            from jobs.features.online import OnlineFeatures

            self._reader = OnlineFeatures(self._settings)
        except Exception as error:  # the store's libraries raise kinds of their own
            if str(error) != self._trouble:
                LOGGER.warning("online store: %s", error)
            self._trouble = str(error)

    async def vector(self, event: Event) -> list[float]:
        """The values in the order of `names`; other requests have their turn while Redis answers.

        Raises:
            SluiceError: the online store cannot be read now.
        """
        velocity, stored = await self._asked(event, record=self._admission.admits(event))
        if velocity is not None:
            self._last.keep(event, velocity)
        return await self._assembled(event, velocity, stored)

    async def peek(self, event: Event) -> list[float]:
        """The same values without a record.

        Raises:
            SluiceError: the online store cannot be read now.
        """
        return await self._assembled(event, *await self._asked(event, record=False))

    def last_known(self, event: Event) -> list[float] | None:
        """The customer's last velocity in the order of `names`, for the rules; None where it is too old."""
        kept = self._last.of(event)
        if kept is None:
            return None
        values = [math.nan] * len(self.names)
        for place, number in CUSTOMERS_OWN:
            values[place] = kept[number]
        return values

    def troubles(self) -> dict[str, str]:
        """Both stores; a store that is not open has a reason."""
        return {
            "online": "" if self._reader is not None else self._trouble,
            "velocity": "" if self._velocity is not None else self._velocity_trouble or "not opened yet",
        }

    async def _assembled(
        self, event: Event, velocity: list[float] | None, stored: tuple[float, ...] | None
    ) -> list[float]:
        if stored is not None:
            return assemble_values(event.amount_minor, event.event_time, stored, velocity)
        if self._one_redis and self._reader is not None:
            found = await asyncio.to_thread(self._read, event)  # a client that waits
        else:
            found = self._read(event)
        return assemble(event.amount_minor, event.event_time, found, velocity)

    def _read(self, event: Event) -> dict[str, float | None]:
        reader = self._reader
        if reader is None:
            raise SluiceError(f"online store: {self._trouble}")
        try:
            return reader.read(event.customer_id, event.terminal_id, event.event_time)
        except Exception as error:
            self._reader = None  # the background opens it again
            self._trouble = str(error)
            raise SluiceError(f"online store: {error}") from error

    def close(self) -> None:
        """Let go of the velocity store."""
        store, self._velocity = self._velocity, None
        if store is not None:
            store.close()

    async def _asked(self, event: Event, *, record: bool) -> Asked:
        """The velocity features, None while their store does not answer.

        Where both stores are one Redis, the stored features come with them, in one round trip.
        """
        store, reader = self._velocity, self._reader
        if store is None:
            return None, None
        stored = None
        try:
            if self._one_redis:
                redis = cast("RedisVelocityStore", store)
                beside = reader.keys(event.customer_id, event.terminal_id) if reader is not None else []
                velocity, rows = await redis.ask_in_loop(event, record=record, beside=beside)
                stored = reader.values(rows, event.event_time) if reader is not None else None
            else:
                velocity = store.take(event) if record else store.peek(event)
        except Exception as error:  # sqlite3's and redis's kinds; the answer is worth more than the cause
            return self._gone(store, error)
        self._velocity_trouble = ""
        return velocity, stored

    def _gone(self, store: VelocityStore, error: Exception) -> Asked:
        """Let go of a store that failed; the background opens it again."""
        if isinstance(error, UnreadableError):  # nobody else is to miss the store for that
            LOGGER.warning("velocity store: %s", error)
            return None, None
        if self._velocity is store:  # and not one that was opened while others waited for this one
            self._velocity = None
            self._note(error)
        with contextlib.suppress(Exception):
            store.close()
        return None, None

    def _connect_velocity(self) -> None:
        try:
            store = self._velocity
            if store is None:
                store = open_velocity_store(self._settings)
                self._velocity = store
            if time.monotonic() - self._forgot > FORGET_SECONDS:
                self._forgot = time.monotonic()
                store.forget(datetime.now(UTC) - longest_memory())
        except Exception as error:
            self._note(error)

    def _note(self, error: Exception) -> None:
        """Log a trouble of the velocity store once, however many requests meet it."""
        if str(error) != self._velocity_trouble:
            LOGGER.warning("velocity store: %s", error)
        self._velocity_trouble = str(error)


# (place among the model's features, place among the velocity features) of the customer's own
CUSTOMERS_OWN = [
    (MODEL_FEATURES.index(feature.name), VELOCITY_FEATURES.index(feature.name))
    for feature in VELOCITY
    if feature.entity == "customer"
]


def _scaled(bound: float | None, units: int, absent: float) -> float:
    # through its decimal text: 0.29 * 100 is below 29
    return absent if bound is None else float(Decimal(str(bound)) * units)
