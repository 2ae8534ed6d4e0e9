"""Velocity features in one SQLite file, for the scoring service of one machine.

In: events. Out: velocity features as of each. State: the file, beside a write-ahead log; several processes
may use it at once. Reading and recording are one transaction; bulk writes are many short ones with pauses
between, in which a waiting request gets its turn. A power cut may take the last events, never the file.
Errors: sqlite3.Error where the file cannot be read or written, or stays locked.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.features.declarations import Entity
from jobs.features.velocity_store import (
    MICROSECOND,
    PAIR_LOOKBACK,
    PLANS,
    Event,
    Row,
    Sums,
    chunks_of,
    longest_memory,
    microseconds,
    row_of,
    velocity_of,
)
from jobs.locks import file_lock

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    transaction_id INTEGER PRIMARY KEY,
    time INTEGER NOT NULL, -- microseconds since 1970
    customer_id INTEGER NOT NULL,
    terminal_id INTEGER NOT NULL,
    amount REAL NOT NULL -- minor units
);
CREATE INDEX IF NOT EXISTS events_customer ON events (customer_id, time, amount);
CREATE INDEX IF NOT EXISTS events_terminal ON events (terminal_id, time, amount);
CREATE INDEX IF NOT EXISTS events_pair ON events (customer_id, terminal_id, time);
CREATE INDEX IF NOT EXISTS events_time ON events (time);
"""
RECORD = (
    "INSERT INTO events (transaction_id, time, customer_id, terminal_id, amount) "
    "VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
)
FORGET = (
    "DELETE FROM events WHERE transaction_id IN "
    "(SELECT transaction_id FROM events WHERE time < ? ORDER BY time LIMIT ?)"
)
REQUEST_WAITS = 0.5  # seconds that a request waits for another writer
BULK_WAITS = 60.0
CHUNK = 500  # rows of one bulk transaction: a few milliseconds
FORGET_CHUNKS = 100  # of one call, which takes a second or two then; the next call goes on
LOG_PAGES = 16_000  # of the write-ahead log before a request copies it back: 64 MB
CACHE_KIB = 65_536


def _query() -> str:
    """One statement for everything about an event: three numbers per ring, the pair's newest time, and then
    time, amount and the entity's number of each of the last events, as many as there are.

    Parameters: 1 customer, 2 terminal, 3 the event's time, then each entity's window starts and lookback.
    """
    parts, latest = [], []
    place = 4
    for number, (key, plan) in enumerate(
        zip(("customer_id = ?1", "terminal_id = ?2"), PLANS.values(), strict=True)
    ):
        end = 3
        for _ in plan.windows:
            parts.append(
                "SELECT count(*), total(amount), total(amount * amount) FROM events "  # noqa: S608
                f"WHERE {key} AND time >= ?{place} AND time < ?{end}"
            )
            end, place = place, place + 1
        latest.append(
            f"SELECT * FROM (SELECT time, amount, {number} FROM events WHERE {key} "  # noqa: S608
            f"AND time >= ?{place} AND time < ?3 ORDER BY time DESC, amount DESC LIMIT {plan.latest})"
        )
        place += 1
    parts.append(
        "SELECT max(time), 0, 0 FROM events WHERE customer_id = ?1 AND terminal_id = ?2 "  # noqa: S608
        f"AND time >= ?{place} AND time < ?3"
    )
    return " UNION ALL ".join([*parts, *latest])


QUERY = _query()


class SqliteVelocityStore:
    """The embedded store."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._lock = threading.Lock()
        with file_lock(path.with_suffix(".lock")):  # two who make the file at once would find it locked
            self._connection = self._connect(REQUEST_WAITS)
            self._connection.executescript(SCHEMA)
        # copied back by `forget` beside the requests; in a request only where nobody calls that
        self._connection.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")

    def take(self, event: Event) -> list[float]:
        """See VelocityStore."""
        row = row_of(event)
        with self._lock:
            execute = self._connection.execute
            execute("BEGIN IMMEDIATE")
            try:
                found = execute(QUERY, _arguments(row)).fetchall()
                execute(RECORD, row)
                execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    execute("ROLLBACK")
                raise
        return _features(row[1], found)

    def peek(self, event: Event) -> list[float]:
        """See VelocityStore."""
        row = row_of(event)
        with self._lock:
            found = self._connection.execute(QUERY, _arguments(row)).fetchall()
        return _features(row[1], found)

    def record_many(self, events: pa.Table) -> int:
        """See VelocityStore."""
        with closing(self._connect(BULK_WAITS)) as connection:
            return sum(_in_turn(connection, RECORD, chunk) for chunk in chunks_of(events, CHUNK))

    def forget(self, before: datetime) -> int:
        """See VelocityStore."""
        gone = 0
        with closing(self._connect(BULK_WAITS)) as connection:
            newest = connection.execute("SELECT max(time) FROM events").fetchone()[0]
            if newest is None:
                return 0
            bound = min(microseconds(before), newest - longest_memory() // MICROSECOND)
            for _ in range(FORGET_CHUNKS):
                dropped = _in_turn(connection, FORGET, [(bound, CHUNK)])
                gone += dropped
                if dropped < CHUNK:
                    break
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        return gone

    def close(self) -> None:
        """See VelocityStore."""
        with self._lock:
            self._connection.close()

    def _connect(self, waits: float) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=waits, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        return connection


def _arguments(row: Row) -> list[int]:
    _, moment, customer, terminal, _ = row
    arguments = [customer, terminal, moment]
    for plan in PLANS.values():
        arguments += plan.bounds(moment)
        arguments.append(moment - plan.lookback)
    arguments.append(moment - PAIR_LOOKBACK)
    return arguments


def _features(moment: int, rows: list[tuple[Any, ...]]) -> list[float]:
    found: dict[Entity, Sums] = {}
    place = 0
    for entity, plan in PLANS.items():
        found[entity] = Sums(rows[place : place + len(plan.windows)], [])
        place += len(plan.windows)
    latest = [sums.latest for sums in found.values()]
    for time_before, amount, number in rows[place + 1 :]:
        latest[number].append((time_before, amount))
    return velocity_of(moment, found, rows[place][0])


def _in_turn(connection: sqlite3.Connection, statement: str, rows: Sequence[tuple[float, ...]]) -> int:
    """One short transaction, then a pause as long as it took; how many rows it changed."""
    connection.execute("BEGIN IMMEDIATE")
    started = time.perf_counter()
    try:
        changed = connection.executemany(statement, rows).rowcount
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    time.sleep(time.perf_counter() - started)
    return changed
