"""A client that sends at a steady rate over several connections and counts every request and every answer.

In: addresses of scoring services, requests a second. Out: one `Exchange` for each request that was sent. A
request whose connection broke, that got no answer in time, or that was answered with another status than 200
is lost: nothing is sent twice.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import numpy as np

CUSTOMERS = 600
TERMINALS = 400
WAITS = 10.0  # seconds for an answer
DAY_STARTS = datetime(2026, 1, 31, 8, tzinfo=UTC)
NIGHT_STARTS = datetime(2026, 1, 31, 1, tzinfo=UTC)
LATE_SHARE = 0.01  # of answers for which a busy machine's model may come too late
DRAWN = 50_000  # customers and amounts are drawn once and used again and again


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and what came of it."""

    number: int  # id of the transaction
    customer: int
    address: str
    sent: float  # seconds since the epoch
    seconds: float
    status: int  # 0 where no answer came
    answer: dict[str, Any] = field(default_factory=dict)
    trouble: str = ""

    @property
    def lost(self) -> bool:
        return self.status != 200

    @property
    def answered(self) -> float:
        """When the answer was there."""
        return self.sent + self.seconds


def in_time(exchanges: Sequence[Exchange]) -> tuple[list[Exchange], list[str]]:
    """Those whose model was not too late; a problem where too many were: the rules answered for it."""
    found = [each for each in exchanges if each.answer.get("degraded") != "too_late"]
    late = len(exchanges) - len(found)
    few = late <= max(LATE_SHARE * len(exchanges), 1)
    return found, [] if few else [f"the model came too late for {late} of {len(exchanges)} answers"]


def drawn(seed: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Customers, and amounts in minor units, of the requests of a seed."""
    generator = np.random.default_rng(seed)
    customers = generator.integers(0, CUSTOMERS, DRAWN)
    return customers, (generator.gamma(2.0, 1.0, DRAWN) * 100).astype(np.int64)


class Load:
    """Requests at a steady rate while the block runs."""

    def __init__(
        self,
        addresses: Sequence[str],
        *,
        rate: float = 100,
        connections: int = 8,
        first: int = 1,
        seed: int = 5,
    ) -> None:
        self.night = False  # requests of the night are what some models cannot bear
        self.addresses = list(addresses)
        self._rate, self._first = rate, first
        self._customers, self._amounts = drawn(seed)
        self._stop = threading.Event()
        self._found: list[list[Exchange]] = [[] for _ in range(connections)]
        self._threads = [
            threading.Thread(target=self._send, args=(place, connections), daemon=True)
            for place in range(connections)
        ]

    def __enter__(self) -> Load:
        self._begun = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(WAITS + 5)

    def exchanges(self, *, since: float = 0.0) -> list[Exchange]:
        """What was sent after an instant and has ended, in the order of sending."""
        found = [each for mine in self._found for each in list(mine) if each.sent >= since]
        return sorted(found, key=lambda each: each.sent)

    def transaction(self, number: int) -> dict[str, Any]:
        """The request of a number: later ones happened later."""
        start, length = (NIGHT_STARTS, 18_000) if self.night else (DAY_STARTS, 36_000)
        place = number % DRAWN
        return {
            "transaction_id": number,
            "event_time": (start + timedelta(seconds=number % length)).isoformat(),
            "customer_id": int(self._customers[place]),
            "terminal_id": number % TERMINALS,
            "amount_minor": int(self._amounts[place]),
        }

    def _send(self, place: int, connections: int) -> None:
        address = self.addresses[place % len(self.addresses)]
        parts = urlsplit(address)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=WAITS)
        turn = place
        while True:
            due = self._begun + turn / self._rate
            if self._stop.wait(max(due - time.monotonic(), 0.0)):
                connection.close()
                return
            self._found[place].append(exchange(connection, address, self.transaction(self._first + turn)))
            turn += connections
            # whoever fell behind, behind a service that does not answer, does not catch up in a burst
            late = int((time.monotonic() - due) * self._rate / connections) - 1
            turn += max(late, 0) * connections


def exchange(connection: http.client.HTTPConnection, address: str, body: dict[str, Any]) -> Exchange:
    """Send one request and wait for its answer."""
    sent, started = time.time(), time.perf_counter()
    status, answer, trouble = 0, {}, ""
    try:
        connection.request("POST", "/score", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        text = response.read()
        status = response.status
        if status == 200:
            answer = json.loads(text)
        else:
            trouble = f"{status}: {text[:200]!r}"
    except (OSError, http.client.HTTPException) as error:
        trouble = f"{type(error).__name__}: {error}"
        connection.close()  # the next request opens it again
    seconds = time.perf_counter() - started
    return Exchange(
        body["transaction_id"], body["customer_id"], address, sent, seconds, status, answer, trouble
    )
