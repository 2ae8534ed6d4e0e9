"""Live traffic: a day's transactions, sent one by one over HTTP to the scoring service."""

from __future__ import annotations

import http.client
import json
import queue
import threading
import time
from collections.abc import Callable
from datetime import date
from urllib.parse import urlsplit

from jobs.conf.contract import STANDARD_COLUMNS, Contract
from jobs.ingest.sources import open_source, read_day
from jobs.quality.feeds import transactions_feed
from jobs.quality.parse import parse, read_text

CONNECTIONS = 3
TOO_MANY = 429  # of one client a second; the answer says when to come again


def requests_of(contract: Contract, source_uri: str, day: date) -> list[bytes]:
    """The day's transactions in order of time, as bodies of POST /score.

    A row that cannot be read or comes twice is not sent: a card terminal would not have sent it either.
    """
    feed = transactions_feed(contract)
    data = read_day(open_source(source_uri), contract.transactions.file, day).data
    rows = parse(read_text(data, feed.format, source_uri), feed, day, source_uri)
    rows = rows[rows["copy_number"] == 0]
    values = rows[[f"{name}_value" for name in STANDARD_COLUMNS]].dropna()
    values = values.set_axis(list(STANDARD_COLUMNS), axis=1)
    values = values.sort_values("event_time", kind="stable")
    return [
        json.dumps({**{name: int(value) for name, value in row.items()}, "event_time": moment}).encode()
        for row, moment in zip(
            values.drop(columns="event_time").to_dict("records"),
            values["event_time"].dt.strftime("%Y-%m-%dT%H:%M:%SZ"),
            strict=True,
        )
    ]


def send(
    address: str, bodies: list[bytes], per_second: float | None, stop: Callable[[], bool] = lambda: False
) -> int:
    """Send bodies over a few connections, not faster than `per_second`; gives how many were answered 200."""
    waiting: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    answered = [0] * CONNECTIONS

    def worker(place: int) -> None:
        parts = urlsplit(address)
        connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port, timeout=30)
        while (body := waiting.get()) is not None:
            while True:
                connection.request("POST", "/score", body, {"Content-Type": "application/json"})
                response = connection.getresponse()
                response.read()
                if response.status != TOO_MANY:
                    break
                time.sleep(float(response.headers["Retry-After"]))
            answered[place] += response.status == 200
        connection.close()

    threads = [threading.Thread(target=worker, args=(place,), daemon=True) for place in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    start = time.monotonic()
    for number, body in enumerate(bodies):
        if stop():
            break
        if per_second:
            time.sleep(max(0.0, start + number / per_second - time.monotonic()))
        waiting.put(body)
    for _ in threads:
        waiting.put(None)
    for thread in threads:
        thread.join()
    return sum(answered)
