"""Redis from an event loop: each request has its own answers, and none waits for another one's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop
from redis import Redis
from redis.exceptions import ConnectionError as Unconnected
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as Silent

from jobs.features.redis_client import connect
from jobs.features.redis_loop import LoopWire
from tests.fake_redis import echoes, encrypted
from tests.redis_server import RedisServer

pytest_plugins = ("tests.redis_server",)
WAITS = 0.5


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[Redis]:
    with connect(redis_server.url) as client:
        yield client


@pytest.fixture
def wire(redis_server: RedisServer) -> LoopWire:
    return LoopWire(redis_server.url, WAITS)


def test_an_answer_that_is_an_error_leaves_the_others_in_their_places(wire: LoopWire) -> None:
    async def asked() -> None:
        first, second, third = await wire.ask([("SET", "a", b"1"), ("LPUSH", "a", b"x"), ("GET", "a")])
        assert (first, third) == (b"OK", b"1")
        assert isinstance(second, ResponseError)

    uvloop.run(asked())


def test_requests_that_are_on_their_way_together_have_each_their_own_answers(wire: LoopWire) -> None:
    async def one(number: int) -> None:
        name = f"many:{number}"
        answers = await wire.ask([("SET", name, number), ("GET", name), ("MGET", name, "many:nobody")])
        assert answers == [b"OK", b"%d" % number, [b"%d" % number, None]]

    async def asked() -> None:
        await asyncio.gather(*map(one, range(500)))

    uvloop.run(asked())


def test_a_request_that_is_given_up_takes_no_answer_of_another_one(wire: LoopWire) -> None:
    async def asked() -> None:
        given_up = asyncio.ensure_future(wire.ask([("SET", "b", b"2")]))
        await asyncio.sleep(0)
        given_up.cancel()
        assert await wire.ask([("ECHO", "next")]) == [b"next"]

    uvloop.run(asked())


def test_a_question_larger_than_the_sockets_buffers_goes_out_in_parts(wire: LoopWire) -> None:
    large = bytes(range(256)) * 65_536

    async def asked() -> None:
        kept, small, found = await asyncio.gather(
            wire.ask([("SET", "large", large)]), wire.ask([("ECHO", "small")]), wire.ask([("GET", "large")])
        )
        assert (kept, small) == ([b"OK"], [b"small"])
        assert found == [large]

    uvloop.run(asked())


def test_a_connection_that_was_cut_is_opened_again_at_once(wire: LoopWire, client: Redis) -> None:
    async def asked() -> None:
        await wire.ask([("ECHO", "before")])
        client.client_kill_filter(_type="normal", skipme=True)
        assert await asyncio.gather(*(wire.ask([("ECHO", "after")]) for _ in range(5))) == [[b"after"]] * 5

    uvloop.run(asked())


def test_a_silent_redis_is_asked_once_and_everybody_told_in_time(wire: LoopWire, client: Redis) -> None:
    async def asked() -> None:
        await wire.ask([("ECHO", "before")])
        client.client_pause(1500, all=True)
        start = time.monotonic()
        told = await asyncio.gather(*(wire.ask([("ECHO", "x")]) for _ in range(3)), return_exceptions=True)
        assert [type(each) for each in told] == [Silent] * 3
        assert time.monotonic() - start < 2 * WAITS
        client.client_unpause()
        assert await wire.ask([("ECHO", "after")]) == [b"after"]

    uvloop.run(asked())


def test_another_loop_has_a_connection_of_its_own(wire: LoopWire) -> None:
    async def asked() -> list[object]:
        return await wire.ask([("ECHO", "here")])

    assert [uvloop.run(asked()), uvloop.run(asked())] == [[b"here"]] * 2


def test_closing_tells_who_waits(wire: LoopWire, client: Redis) -> None:
    async def asked() -> None:
        await wire.ask([("ECHO", "before")])
        client.client_pause(400, all=True)
        waiting = asyncio.ensure_future(wire.ask([("ECHO", "x")]))
        await asyncio.sleep(0.05)
        await asyncio.to_thread(wire.close)
        with pytest.raises((Unconnected, Silent)):
            await waiting

    uvloop.run(asked())


def test_a_loop_that_was_held_up_is_no_silence_of_redis(wire: LoopWire, client: Redis) -> None:
    client.set("long", b"x" * 1500)

    async def asked() -> None:
        await wire.ask([("ECHO", "before")])
        waiting = [asyncio.ensure_future(wire.ask([("GET", "long")])) for _ in range(200)]
        await asyncio.sleep(0)
        time.sleep(WAITS + 0.1)
        assert await asyncio.gather(*waiting) == [[b"x" * 1500]] * 200

    uvloop.run(asked())


def test_what_nobody_asked_for_is_no_answer_to_the_next_one() -> None:
    words = ["one", "two", "three", "four"]

    async def asked(port: int) -> None:
        wire = LoopWire(f"127.0.0.1:{port}", WAITS)
        for word in words:
            assert await wire.ask([("ECHO", word)]) == [word.encode()]
            await asyncio.sleep(0.05)
        wire.close()

    for unasked in (b"+what nobody asked\r\n", b">2\r\n+MIGRATING\r\n:5\r\n"):
        with echoes(unasked) as port:
            uvloop.run(asked(port))


def test_an_encrypted_redis_that_hangs_holds_up_nobody_else(
    redis_server: RedisServer, client: Redis, tmp_path: Path
) -> None:
    gaps: list[float] = []

    async def ticking() -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            gaps.append(time.monotonic() - before)

    async def asked(address: str) -> None:
        wire = LoopWire(f"{address},password={redis_server.password}", WAITS)
        assert await wire.ask([("ECHO", "before")]) == [b"before"]
        client.client_pause(3000, all=True)
        others = asyncio.ensure_future(ticking())
        waiting = [asyncio.ensure_future(wire.ask([("ECHO", "x")])) for _ in range(20)]
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        wire.close()  # as its owner does at the first failure
        start = time.monotonic()
        told = await asyncio.gather(*waiting, return_exceptions=True)
        assert time.monotonic() - start < 4 * WAITS
        others.cancel()
        assert {type(each) for each in told} <= {Silent, Unconnected}
        assert [type(each.exception()) for each in done] == [Silent]

    with encrypted(redis_server.port, tmp_path, []) as address:
        uvloop.run(asked(address))
    client.client_unpause()
    assert max(gaps) < WAITS / 2


def test_an_encrypted_connection_is_kept_too(redis_server: RedisServer, tmp_path: Path) -> None:
    connections: list[int] = []

    async def asked(address: str) -> None:
        wire = LoopWire(f"{address},password={redis_server.password},max_connections=3", 5.0)
        for number in range(10):
            assert await wire.ask([("ECHO", f"{number}")]) == [b"%d" % number]
        wire.close()

    with encrypted(redis_server.port, tmp_path, connections) as address:
        uvloop.run(asked(address))
    assert len(connections) == 1
