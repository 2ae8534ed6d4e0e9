"""Stored and velocity features in one round trip to Redis: the same values as each store gives by itself."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from redis import Redis

from jobs.conf.settings import Settings
from jobs.features.declarations import STORED_FEATURES, VELOCITY_FEATURES
from jobs.features.online import OnlineFeatures
from jobs.features.redis_client import connect
from jobs.features.redis_wire import Wire
from jobs.features.request import assemble
from jobs.features.velocity_redis import RedisVelocityStore
from jobs.features.velocity_store import Event
from jobs.serving.request_features import StoredFeatures
from tests.jobs.test_serving_features import SPOILED
from tests.jobs.test_serving_process import publish_features
from tests.redis_server import RedisServer

pytest_plugins = ("tests.redis_server",)

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def event(number: int, seconds: float = 0.0, customer: int = 5, terminal: int = 5) -> Event:
    """Transaction `number`, so many seconds after noon; a 5 has a stored row of the midnight before."""
    return Event(number, NOON + timedelta(seconds=seconds), customer, terminal, 20_00 + number)


def vector_of(features: StoredFeatures, asked: Event) -> list[float]:
    """From a loop of its own."""
    return asyncio.run(features.vector(asked))


@pytest.fixture(scope="module")
def settings(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    home: Path = tmp_path_factory.mktemp("one_trip")
    made = Settings(home=home, online_store="redis", redis_url=redis_server.url)
    publish_features(made)
    return made


@pytest.fixture
def client(settings: Settings) -> Iterator[Redis]:
    with connect(settings.redis_url) as client:
        for key in client.scan_iter("velocity:*"):
            client.delete(key)
        yield client


@pytest.fixture
def features(settings: Settings, client: Redis) -> StoredFeatures:
    source = StoredFeatures(settings)
    source.connect()
    return source


def test_one_trip_gives_what_both_stores_give_by_themselves(
    settings: Settings, features: StoredFeatures
) -> None:
    alone, velocity = OnlineFeatures(settings), RedisVelocityStore(settings.redis_url)
    seconds = (0, 0.000001, 5, 5, 400, 4000, 90_000, 3 * 86_400, -86_400)
    for number, second in enumerate(seconds):
        for customer, terminal in ((5, 5), (5, 6), (7, 5), (8, 9)):
            asked = event(10 * number + customer, second, customer, terminal)
            stored = alone.read(customer, terminal, asked.event_time)
            expected = assemble(asked.amount_minor, asked.event_time, stored, velocity.peek(asked))
            np.testing.assert_array_equal(asyncio.run(features.peek(asked)), expected)
            np.testing.assert_array_equal(vector_of(features, asked), expected)
    named = dict(zip(features.names, vector_of(features, event(999, 30_000)), strict=True))
    assert named["customer_amount_mean_7d"] == 2.0
    assert named["customer_count_24h"] > 5


def test_a_redis_that_forgot_the_scripts_is_taught_them_again(
    features: StoredFeatures, client: Redis
) -> None:
    vector_of(features, event(1))
    client.script_flush()
    named = dict(zip(features.names, vector_of(features, event(2, 1)), strict=True))
    assert (named["customer_count_5m"], named["customer_missing"], named["velocity_missing"]) == (
        1.0,
        0.0,
        0.0,
    )


def test_a_connection_that_was_cut_is_opened_again_at_once(features: StoredFeatures, client: Redis) -> None:
    vector_of(features, event(1))
    client.client_kill_filter(_type="normal", skipme=True)
    named = dict(zip(features.names, vector_of(features, event(2, 1)), strict=True))
    assert (named["customer_count_5m"], named["velocity_missing"]) == (1.0, 0.0)


@pytest.mark.parametrize("key", ["events", "known", "sums"])
def test_where_one_customers_keys_are_spoiled_he_alone_has_no_velocity(
    features: StoredFeatures, client: Redis, caplog: pytest.LogCaptureFixture, key: str
) -> None:
    spoiled = f"velocity:{{customer:5}}:{key}"
    client.set(spoiled, "what no Sluice wrote")
    named = dict(zip(features.names, vector_of(features, event(1)), strict=True))
    assert named["velocity_missing"] == 1.0
    assert all(math.isnan(named[name]) for name in VELOCITY_FEATURES)
    assert {named[name] for name in STORED_FEATURES} == {2.0}
    assert "velocity:{customer:5}:* are deleted" in caplog.text
    assert features.troubles() == {"online": "", "velocity": ""}
    for asked, missing in ((event(2, 1, customer=7, terminal=6), 0.0), (event(3, 2), 1.0)):
        named = dict(zip(features.names, vector_of(features, asked), strict=True))
        assert named["velocity_missing"] == missing
    client.delete(spoiled)
    assert dict(zip(features.names, vector_of(features, event(4, 3)), strict=True))["velocity_missing"] == 0.0


@pytest.mark.parametrize("size", [2, 12, 15])
def test_where_a_member_of_one_customers_is_cut_short_he_alone_has_no_velocity(
    features: StoredFeatures, client: Redis, size: int
) -> None:
    vector_of(features, event(1))
    events = "velocity:{customer:5}:events"
    (member,) = client.zrange(events, 0, -1)
    client.zadd(events, {bytes(member)[:size]: 0})
    for asked, missing in ((event(2, 1), 1.0), (event(3, 2, customer=7, terminal=6), 0.0)):
        named = dict(zip(features.names, vector_of(features, asked), strict=True))
        assert named["velocity_missing"] == missing
        assert features.troubles() == {"online": "", "velocity": ""}


def test_where_the_sums_of_one_customer_are_spoiled_he_alone_has_no_velocity(
    features: StoredFeatures, client: Redis
) -> None:
    vector_of(features, event(1))
    sums = "velocity:{customer:5}:sums"
    for bucket in client.hkeys(sums):
        client.hset(sums, bucket, b"half")
    for asked, missing in ((event(2, 1), 1.0), (event(3, 2, customer=7, terminal=6), 0.0)):
        named = dict(zip(features.names, vector_of(features, asked), strict=True))
        assert named["velocity_missing"] == missing
        assert features.troubles() == {"online": "", "velocity": ""}


@pytest.mark.parametrize("how", SPOILED)
def test_where_one_customers_stored_row_is_spoiled_he_alone_has_none(
    settings: Settings, features: StoredFeatures, client: Redis, how: str
) -> None:
    assert features._reader is not None
    address = features._reader.keys(5, 5)[0]
    row = bytes(client.get(address) or b"")
    client.set(address, SPOILED[how](row))
    try:
        for _ in range(2):  # in one trip with the velocity, and alone while that is away
            spoiled = dict(zip(features.names, vector_of(features, event(1)), strict=True))
            assert (spoiled["customer_missing"], spoiled["terminal_missing"]) == (1.0, 0.0)
            assert features.troubles()["online"] == ""
            features._velocity = None
    finally:
        client.set(address, row)


def test_where_a_stored_row_lies_something_else_it_is_a_gap(
    settings: Settings, features: StoredFeatures, client: Redis
) -> None:
    assert features._reader is not None
    address = features._reader.keys(5, 5)[0]
    row = bytes(client.get(address) or b"")
    client.delete(address)
    client.lpush(address, "what no Sluice wrote")
    try:
        spoiled = dict(zip(features.names, vector_of(features, event(1)), strict=True))
        assert (spoiled["customer_missing"], spoiled["velocity_missing"]) == (1.0, 0.0)
        assert features.troubles() == {"online": "", "velocity": ""}
    finally:
        client.delete(address)
        client.set(address, row)


def test_where_redis_refuses_to_record_the_stored_features_are_still_there(
    settings: Settings, features: StoredFeatures, client: Redis
) -> None:
    client.config_set("min-replicas-to-write", 1)  # what a Redis does that has lost its replicas
    try:
        named = dict(zip(features.names, vector_of(features, event(1)), strict=True))
        assert named["velocity_missing"] == 1.0
        assert {named[name] for name in STORED_FEATURES} == {2.0}
        assert "NOREPLICAS" in features.troubles()["velocity"]
    finally:
        client.config_set("min-replicas-to-write", 0)
    features.connect()
    assert dict(zip(features.names, vector_of(features, event(2, 1)), strict=True))["velocity_missing"] == 0.0


def test_an_answer_that_is_an_error_leaves_the_others_in_their_places(settings: Settings) -> None:
    wire = Wire(settings.redis_url, 0.5)
    first, second, third = wire.ask([("SET", "a", b"1"), ("LPUSH", "a", b"x"), ("GET", "a")])
    assert (first, third) == (b"OK", b"1")
    assert isinstance(second, Exception)
    assert wire.ask([("GET", "a")]) == [b"1"]
    wire.close()
    assert wire.ask([("GET", "a")]) == [b"1"]
