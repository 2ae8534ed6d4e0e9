"""The prediction log: every answer and every shadow score once, without ever holding up a request.

In: `Prediction`s from the request path. Out: rows of the table `predictions`, partitioned by the event's
day, appended by one background thread at most once an interval.
A full queue drops the row and counts it. A lake that cannot be written keeps the rows waiting, up to the
capacity. A graceful stop writes what waits; a killed process loses at most what was put in since the
last append began.
"""

from __future__ import annotations

import json
import logging
import math
import threading
from collections import deque
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from jobs.lake.store import Lake
from jobs.lake.tables import PREDICTIONS

LOGGER = logging.getLogger("sluice.serving")


@dataclass(frozen=True, slots=True)
class Prediction:
    """One answer, or one shadow score; units as in the table."""

    request_id: str
    transaction_id: int
    event_time: datetime
    customer_id: int
    terminal_id: int
    amount_minor: int
    model_version: str
    variant: str
    step: str
    score: float | None
    decision: str
    rule: str
    error: str
    latency_ms: float
    served_at: float  # seconds since the epoch
    names: tuple[str, ...]
    features: list[float] | None  # in the order of names; encoded only when it is written
    feature_version: str = ""
    would_be: str = ""  # the decision before it was let through; "" elsewhere


class PredictionLog:
    """A bounded queue with a writer behind it."""

    def __init__(self, lake: Lake, *, capacity: int = 20_000, interval: float = 1.0) -> None:
        self._lake = lake
        self._capacity = capacity
        self._interval = interval
        self._waiting: deque[Prediction] = deque()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self.queued = 0
        self.written = 0
        self.dropped = 0
        self.last_error = ""

    def put(self, prediction: Prediction) -> None:
        """Hand over one row; never blocks on the lake, never raises."""
        with self._lock:
            if len(self._waiting) >= self._capacity:
                self.dropped += 1
                return
            self._waiting.append(prediction)
            self.queued += 1

    def counters(self) -> dict[str, int | str]:
        """What happened so far: queued = written + waiting, in quiet times."""
        return {
            "queued": self.queued,
            "written": self.written,
            "waiting": len(self._waiting),
            "dropped": self.dropped,
            "last_error": self.last_error,
        }

    def start(self) -> None:
        self._thread = threading.Thread(target=self._work, name="prediction-log", daemon=True)
        self._thread.start()

    def stop(self, timeout: float = 15.0) -> None:
        """Write what waits, then end."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout)
        if self._waiting:
            LOGGER.error("prediction log: %d rows could not be written", len(self._waiting))

    def flush(self) -> bool:
        """Write what waits now; False where the lake refused it."""
        with self._lock:
            batch = list(self._waiting)
        count = len(batch)
        if count == 0:
            return True
        try:
            rows = rows_of(batch)
        except (pa.ArrowException, ValueError, OverflowError) as error:
            LOGGER.warning("prediction log: %d rows cannot be written ever: %s", count, error)
            self._forget(count)
            self.dropped += count
            return True
        try:
            self._lake.append(PREDICTIONS, rows)
        except Exception as error:  # whatever the lake's trouble, requests go on
            if not self.last_error:
                LOGGER.warning("prediction log: %s; %d rows wait", error, count)
            self.last_error = str(error)[:200]
            return False
        self._forget(count)
        self.written += count
        self.last_error = ""
        return True

    def _forget(self, count: int) -> None:
        with self._lock:
            for _ in range(count):
                self._waiting.popleft()

    def _work(self) -> None:
        while not self._stop.wait(self._interval):
            self.flush()
        for _ in range(3):
            if self.flush() and not self._waiting:
                return


def rows_of(batch: list[Prediction]) -> pa.Table:
    """The table's rows of a batch."""
    plain = [field.name for field in fields(Prediction) if field.name in PREDICTIONS.schema.names]
    columns: dict[str, list[Any]] = {
        name: [getattr(row, name) for row in batch] for name in plain if name not in ("served_at", "features")
    }
    columns["day"] = [row.event_time.date() for row in batch]
    columns["served_at"] = [datetime.fromtimestamp(row.served_at, UTC) for row in batch]
    columns["features"] = [features_text(row.names, row.features) for row in batch]
    return pa.table({field.name: pa.array(columns[field.name], field.type) for field in PREDICTIONS.schema})


def features_text(names: tuple[str, ...], values: list[float] | None) -> str:
    """The features as one JSON object; a gap is null, and "" where none could be read."""
    if values is None:
        return ""
    return json.dumps(
        {name: value if math.isfinite(value) else None for name, value in zip(names, values, strict=True)}
    )
