"""The load client counts what it sent, and a stall of the server shows in every request that it held up."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.benchmarks.serving_load import Client, Server, why_not

pytestmark = pytest.mark.skipif(bool(why_not()), reason=f"no load client: {why_not()}")


class Answering(asyncio.Protocol):
    """Answers 200; every `wrong`-th answer is 503, and answer 50 comes 300 ms late, with all behind it."""

    seen: list[bytes]
    wrong: int

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.seen.append(data)
        if len(self.seen) == 50:
            threading.Event().wait(0.3)
        status = b"503 Busy" if self.wrong and len(self.seen) % self.wrong == 0 else b"200 OK"
        self.transport.write(b"HTTP/1.1 %b\r\nContent-Length: 12\r\n\r\n" % status + b'{"score": 1}')


@contextmanager
def answering(wrong: int = 0) -> Iterator[tuple[Server, list[bytes]]]:
    """Such a server in a thread; this process stands for its own."""
    seen: list[bytes] = []
    kind = type("Kind", (Answering,), {"seen": seen, "wrong": wrong})
    loop = asyncio.new_event_loop()
    listening = loop.run_until_complete(loop.create_server(kind, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    process = subprocess.Popen(["sleep", "60"])
    try:
        yield Server(process, listening.sockets[0].getsockname()[1]), seen
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(asyncio.sleep(0))
        process.kill()
        process.wait()


@pytest.fixture
def client(tmp_path: Path) -> Client:
    return Client(tmp_path, 1_772_442_000_000_000, customers=9, terminals=5)


def test_each_due_request_is_sent_once_and_a_stall_counts_for_all_that_were_due(client: Client) -> None:
    with answering() as (server, seen):
        found = client.run(server, rate=200, seconds=1, connections=4, expect='"score"')
    assert (found.requests, found.errors, len(seen)) == (200, 0, 200)
    # 60 of 200 requests were due in the 300 ms; with latency from sending only 4 would show it
    assert found.p99 >= 250
    assert found.p50 <= 100


def test_the_requests_are_fresh_transactions_in_order_of_time(client: Client) -> None:
    with answering() as (server, seen):
        client.run(server, rate=100, seconds=1, connections=1, headers=["X-Client: a", "X-Client: b"])
    bodies = [request.partition(b"\r\n\r\n")[2].decode() for request in seen]
    ids = [int(body.partition(":")[2].partition(",")[0]) for body in bodies]
    moments = [body.partition('"event_time":"')[2][:27] for body in bodies]
    assert ids == list(range(10_000_000, 10_000_100))
    assert moments[:2] == ["2026-03-02T09:00:00.000000Z", "2026-03-02T09:00:00.010000Z"]
    assert moments == sorted(moments)
    assert sum(b"X-Client: a" in request for request in seen) == 50


def test_answers_that_are_refused_or_not_as_expected_are_errors(client: Client) -> None:
    with answering(wrong=10) as (server, _):
        assert client.run(server, rate=0, seconds=1, connections=1).errors > 0
    with answering() as (server, _):
        found = client.run(server, rate=100, seconds=1, expect="champion")
    assert (found.requests, found.errors) == (100, 100)
    assert found.example == "{'score': 1}"


def test_processor_time_is_that_of_the_server_and_its_children() -> None:
    process = subprocess.Popen(["bash", "-c", "while :; do :; done & wait"], start_new_session=True)
    try:
        server = Server(process, 0)
        end = time.monotonic() + 20
        while (len(server.family) < 2 or server.processor_seconds() == 0) and time.monotonic() < end:
            time.sleep(0.02)
        assert len(server.family) == 2
        assert server.processor_seconds() > 0
        assert 1 < server.memory_mb() < 100
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
