"""Clients that take their time, and a service that does: over real sockets, nothing is held for ever."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import uvicorn

from jobs.conf.settings import Settings
from jobs.features.velocity_store import Event
from jobs.lake.store import lake_of
from jobs.lake.tables import PREDICTIONS
from jobs.serving.app import create_app
from jobs.serving.server import Server
from tests.jobs.test_serving_requests import BODY, serving
from tests.served_bundles import PlainFeatures

HEAD = b"POST /score HTTP/1.1\r\nHost: here\r\nContent-Length: 200\r\n"
SECONDS = 0.6
SYSTEM_BYTES = 65_536  # of an answer that the system holds for its reader; the rest waits in the service
LATE = 5.0  # of a machine that is busy; uvicorn's own time-out, if it were that one, comes after 75


class SlowFeatures(PlainFeatures):
    """Each transaction's features take a while."""

    async def vector(self, event: Event) -> list[float]:
        await asyncio.sleep(0.05)
        return await super().vector(event)


@contextmanager
def listening(home: Settings, features: PlainFeatures, **changes: Any) -> Iterator[str]:
    """The service's own server in a thread; gives its address."""
    settings = home.model_copy(update={"mlflow_uri": "http://127.0.0.1:9"})
    policy = serving(request_seconds=SECONDS, drain_seconds=0.1, **changes)
    app = create_app(settings, policy=policy, features=features)
    options = uvicorn.Config(app, http="httptools", access_log=False, timeout_keep_alive=75)
    server = Server(options, app.state.service, policy.serving)
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SYSTEM_BYTES)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        deadline = time.monotonic() + 60
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.01)
        yield address
    finally:
        server.should_exit = True
        thread.join(60)


@pytest.fixture
def address(home: Settings) -> Iterator[str]:
    with listening(home, PlainFeatures()) as address:
        yield address


def connected(address: str) -> socket.socket:
    url = httpx.URL(address)
    line = socket.socket()
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SYSTEM_BYTES)
    line.settimeout(LATE)
    line.connect((url.host, url.port or 80))
    return line


def seconds_until_closed(line: socket.socket, *, trickle: bytes = b"") -> float:
    """How long the server keeps the connection, while one more byte comes each twentieth of a second."""
    start = time.monotonic()
    line.settimeout(0.05)
    sent = 0
    while (waited := time.monotonic() - start) < LATE:
        try:
            if sent < len(trickle):
                line.sendall(trickle[sent : sent + 1])
                sent += 1
            if line.recv(1000) == b"":
                return waited
        except TimeoutError:
            continue
        except ConnectionError:
            return waited
    return LATE


def test_a_connection_on_which_nothing_comes_is_closed(address: str) -> None:
    with connected(address) as line:
        assert SECONDS * 0.5 < seconds_until_closed(line) < LATE


def test_a_head_that_comes_byte_by_byte_is_given_up(address: str) -> None:
    with connected(address) as line:
        assert SECONDS * 0.5 < seconds_until_closed(line, trickle=HEAD * 10) < LATE


def test_so_is_the_second_head_of_a_connection_and_one_that_is_idle_between_two_stays(address: str) -> None:
    with connected(address) as line:
        line.sendall(b"GET /health HTTP/1.1\r\nHost: here\r\n\r\n")
        assert b"200 OK" in line.recv(1000)
        time.sleep(SECONDS * 3)
        line.sendall(b"GET /health HTTP/1.1\r\nHost: here\r\n\r\n")
        assert b"200 OK" in line.recv(1000)
        line.sendall(b"GET /health HT")
        assert seconds_until_closed(line) < LATE


def test_a_body_that_trickles_in_behind_its_answer_holds_no_connection(address: str) -> None:
    with connected(address) as line:
        line.sendall(b"GET /health HTTP/1.1\r\nHost: here\r\nContent-Length: 100000\r\n\r\n")
        assert b"200 OK" in line.recv(1000)
        assert seconds_until_closed(line, trickle=b" " * 10_000) < LATE


def test_an_answer_that_nobody_reads_holds_no_connection(address: str) -> None:
    script = "/static-offline-docs/swagger-ui-bundle.js"
    length = len(httpx.get(address + script).content)
    with connected(address) as line:
        line.sendall(f"GET {script} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
        time.sleep(SECONDS + 3.0)
        found = 0
        with contextlib.suppress(ConnectionError):
            while part := line.recv(1_000_000):
                found += len(part)
    assert found < length


def test_an_answer_that_is_read_slowly_comes_whole(address: str) -> None:
    script = "/static-offline-docs/swagger-ui-bundle.js"
    length = len(httpx.get(address + script).content)
    with connected(address) as line:
        line.sendall(f"GET {script} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n".encode())
        found = 0
        while part := line.recv(20_000):
            found += len(part)
            time.sleep(0.02)
    assert found > length


def test_a_client_above_its_rate_keeps_its_connection(home: Settings) -> None:
    body = json.dumps(BODY).encode()
    with listening(home, PlainFeatures(), requests_per_second=1) as address, connected(address) as line:
        for status in (b"200", b"429"):
            head = f"POST /score HTTP/1.1\r\nHost: here\r\nContent-Length: {len(body)}\r\n\r\n"
            line.sendall(head.encode())
            time.sleep(0.1)  # the body comes behind its head
            line.sendall(body)
            assert b" " + status + b" " in line.recv(10_000)
        time.sleep(SECONDS * 3)
        line.sendall(b"GET /health HTTP/1.1\r\nHost: here\r\n\r\n")
        assert b"200 OK" in line.recv(1000)


def test_an_answer_that_takes_longer_than_a_head_may_is_waited_for(home: Settings) -> None:
    rows = [BODY | {"transaction_id": number} for number in range(30)]
    with listening(home, SlowFeatures()) as address, httpx.Client(timeout=60) as client:
        start = time.monotonic()
        answer = client.post(f"{address}/score/batch", json={"transactions": rows})
        assert time.monotonic() - start > SECONDS * 2
    assert answer.status_code == 200


def test_a_batch_that_takes_too_long_says_what_was_scored_and_that_is_logged(home: Settings) -> None:
    rows = [BODY | {"transaction_id": number} for number in range(1, 101)]
    features = SlowFeatures()
    with listening(home, features, batch_seconds=0.4) as address, httpx.Client(timeout=60) as client:
        answer = client.post(f"{address}/score/batch", json={"transactions": rows})
        alone = client.post(f"{address}/score", content=json.dumps(BODY | {"transaction_id": 500}))
        scored = [event.transaction_id for event in features.asked]
    assert answer.status_code == 504
    done = len(scored) - 1  # and the one alone
    assert 0 < done < 100
    assert answer.json()["detail"].startswith(f"{done} of 100 transactions were scored within 0.4 seconds")
    assert "send them all again in smaller batches" in answer.json()["detail"]
    assert alone.status_code == 200
    logged = lake_of(home).read(PREDICTIONS, columns=["transaction_id"])["transaction_id"].to_pylist()
    assert sorted(logged) == scored == [*range(1, done + 1), 500]
