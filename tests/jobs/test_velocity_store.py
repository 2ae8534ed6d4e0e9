"""The velocity stores against a plain list: what a customer and a terminal did until just before an event."""

from __future__ import annotations

import math
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.conf.settings import Settings
from jobs.features.declarations import SEQUENCE_AMOUNTS, SEQUENCE_SECONDS
from jobs.features.measures import deviation_of
from jobs.features.velocity_redis import RedisVelocityStore
from jobs.features.velocity_store import Event, VelocityStore, open_velocity_store
from tests.velocity_list import NOON, agree, event, expected_of, named, table_of

if TYPE_CHECKING:
    from tests.redis_server import RedisServer

pytest_plugins = ("tests.redis_server",)
ROOT = Path(__file__).parents[2]
OpenStore = Callable[[], VelocityStore]


@pytest.fixture(params=["sqlite", "redis"])
def open_store(request: pytest.FixtureRequest, home: Settings) -> Iterator[OpenStore]:
    """Opens the same empty store again and again."""
    given = {"online_store": request.param}
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        redis.Redis(port=server.port, password=server.password).flushall()
        given["redis_url"] = server.url
    configured = home.model_copy(update=given)
    opened: list[VelocityStore] = []

    def open_one() -> VelocityStore:
        opened.append(open_velocity_store(configured))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


def test_an_event_sees_what_was_before_it(open_store: OpenStore) -> None:
    store = open_store()
    nothing = named(store.take(event(1, timedelta(hours=24), amount_minor=10_00)))
    store.take(event(2, timedelta(minutes=30), terminal=11, amount_minor=20_00))
    store.take(event(3, timedelta(minutes=5), customer=2, amount_minor=40_00))
    store.take(event(4, timedelta(seconds=90), amount_minor=50_00))
    found = named(store.take(event(5, timedelta(0), amount_minor=99_00)))

    assert {nothing[f"customer_count_{label}"] for label in ("5m", "30m", "1h", "24h")} == {0.0}
    assert math.isnan(nothing["customer_seconds_since_last_30d"])
    assert nothing["pair_is_new_30d"] == 1.0

    # windows begin at their first instant: 24 h, 30 min and 5 min ago are inside
    counts = {label: found[f"customer_count_{label}"] for label in ("5m", "30m", "1h", "24h")}
    assert counts == {"5m": 1.0, "30m": 2.0, "1h": 2.0, "24h": 3.0}
    assert found["customer_amount_sum_24h"] == 80.0
    assert found["customer_amount_mean_30m"] == 35.0
    assert found["customer_amount_deviation_30m"] == pytest.approx(21.213203435596427)  # 30 / sqrt(2)
    assert math.isnan(found["customer_amount_deviation_5m"])
    assert found["customer_seconds_since_last_30d"] == 90.0
    # the terminal: 10.00 a day ago, 40.00 of another customer, 50.00
    assert (found["terminal_count_5m"], found["terminal_count_24h"]) == (2.0, 3.0)
    assert found["terminal_amount_sum_24h"] == 100.0
    assert found["terminal_amount_deviation_5m"] == pytest.approx(7.0710678118654755)
    assert found["terminal_seconds_since_last_24h"] == 90.0
    assert found["pair_is_new_30d"] == 0.0


def test_ties_and_what_comes_later_are_not_seen(open_store: OpenStore) -> None:
    store = open_store()
    store.take(event(1, timedelta(0)))
    tie = named(store.take(event(2, timedelta(0))))
    late = named(store.take(event(3, timedelta(microseconds=1))))
    after = named(store.take(event(4, timedelta(microseconds=-1))))
    assert (tie["customer_count_24h"], tie["pair_is_new_30d"]) == (0.0, 1.0)
    assert late["customer_count_24h"] == 0.0
    assert after["customer_count_24h"] == 3.0
    assert after["customer_seconds_since_last_30d"] == 0.000001


def test_a_window_ends_a_microsecond_after_its_length(open_store: OpenStore) -> None:
    store = open_store()
    store.take(event(1, timedelta(days=30)))
    exact = named(store.peek(event(2, timedelta(0))))
    beyond = named(store.peek(event(2, timedelta(microseconds=-1))))
    assert (exact["customer_seconds_since_last_30d"], exact["pair_is_new_30d"]) == (30 * 86_400.0, 0.0)
    assert math.isnan(beyond["customer_seconds_since_last_30d"])
    assert beyond["pair_is_new_30d"] == 1.0
    assert math.isnan(exact["terminal_seconds_since_last_24h"])


def test_the_last_transactions_come_one_by_one_the_newest_first(open_store: OpenStore) -> None:
    store = open_store()
    store.take(event(1, timedelta(days=30), amount_minor=9_00))
    store.take(event(2, timedelta(hours=2), amount_minor=7_00))
    store.take(event(3, timedelta(hours=1), amount_minor=3_00))  # of one instant the larger is the newer
    store.take(event(4, timedelta(hours=1), terminal=11, amount_minor=100_00))
    store.take(event(5, timedelta(hours=1), amount_minor=20_00))
    store.take(event(6, timedelta(minutes=1), customer=2))
    store.take(event(7, timedelta(0), amount_minor=1_00))  # of the event's own instant
    found = store.peek(event(8, timedelta(0)))
    amounts, seconds = (
        [named(found)[name] for name in names] for names in (SEQUENCE_AMOUNTS, SEQUENCE_SECONDS)
    )
    assert amounts[:5] == [100.0, 20.0, 3.0, 7.0, 9.0]
    assert seconds[:5] == [3600.0, 3600.0, 3600.0, 7200.0, 30 * 86_400.0]
    assert all(map(math.isnan, amounts[5:] + seconds[5:]))
    beyond = named(store.peek(event(8, timedelta(microseconds=-1))))
    assert [beyond[name] for name in SEQUENCE_AMOUNTS[:5]] == [1.0, 100.0, 20.0, 3.0, 7.0]
    assert math.isnan(beyond["customer_amount_before_6"])
    for number in range(9, 20):
        store.take(event(number, timedelta(seconds=20 - number), amount_minor=number * 100))
    full = named(store.peek(event(20, timedelta(0))))
    assert [full[name] for name in SEQUENCE_AMOUNTS] == [float(number) for number in range(19, 11, -1)]


def test_a_look_records_nothing(open_store: OpenStore) -> None:
    store = open_store()
    store.peek(event(1, timedelta(minutes=1)))
    assert named(store.peek(event(2, timedelta(0))))["customer_count_5m"] == 0.0


def test_a_transaction_that_is_sent_again_keeps_its_first_record(open_store: OpenStore) -> None:
    store = open_store()
    store.take(event(1, timedelta(minutes=2), amount_minor=10_00))
    store.take(event(1, timedelta(minutes=1), amount_minor=70_00))
    assert store.record_many(table_of([event(1, timedelta(minutes=3)), event(2, timedelta(minutes=4))])) == 1
    found = named(store.peek(event(3, timedelta(0))))
    assert (found["customer_count_5m"], found["customer_amount_sum_5m"]) == (2.0, 20.0)
    assert found["customer_seconds_since_last_30d"] == 120.0


def test_the_largest_amounts_leave_the_other_windows_alone(open_store: OpenStore) -> None:
    store = open_store()
    huge = 2**63 - 1
    for number in range(3):
        values = store.take(event(number, timedelta(hours=2, seconds=-number), amount_minor=huge))
    assert not any(math.isinf(value) for value in values)
    for number in range(3, 6):
        store.take(event(number, timedelta(minutes=8 - number), amount_minor=number * 100))
    found = named(store.peek(event(9, timedelta(0))))
    assert found["customer_amount_sum_5m"] == 12.0
    assert found["customer_amount_deviation_5m"] == 1.0
    assert found["customer_amount_sum_24h"] == pytest.approx(3 * huge / 100)
    assert named(store.peek(event(9, timedelta(hours=-23))))["customer_amount_sum_24h"] == 12.0


@pytest.mark.parametrize("year", [1, 1969, 2300, 9999])
def test_any_instant_is_exact(open_store: OpenStore, year: int) -> None:
    store = open_store()
    moment = datetime(year, 6, 1, 0, 0, 0, 3, tzinfo=UTC)
    store.take(Event(2**63 - 1, moment, 2**63 - 1, 2**63 - 1, 1))
    later = Event(1, moment + timedelta(microseconds=7), 2**63 - 1, 2**63 - 1, 1)
    found = named(store.take(later))
    assert found["customer_seconds_since_last_30d"] == 0.000007
    assert (found["terminal_count_5m"], found["pair_is_new_30d"]) == (1.0, 0.0)


def test_an_event_from_the_future_does_not_push_out_the_present(open_store: OpenStore) -> None:
    store, now = open_store(), datetime.now(UTC)
    store.take(Event(1, now - timedelta(minutes=1), 1, 10, 100))
    store.take(Event(2, datetime(9999, 1, 1, tzinfo=UTC), 1, 10, 100))
    store.forget(now - timedelta(days=31))
    assert named(store.peek(Event(3, now, 1, 10, 100)))["terminal_count_5m"] == 1.0


def test_what_no_window_can_reach_is_forgotten(open_store: OpenStore) -> None:
    store = open_store()
    store.record_many(table_of([event(number, timedelta(days=40, minutes=number)) for number in range(1200)]))
    store.record_many(table_of([event(2000, timedelta(days=29)), event(2001, timedelta(0))]))
    store.forget(NOON)
    days_ago = named(store.peek(event(3, timedelta(days=39))))
    assert math.isnan(days_ago["customer_seconds_since_last_30d"])
    recent = named(store.peek(event(4, timedelta(minutes=-1))))
    assert recent["customer_count_24h"] == 1.0
    assert named(store.peek(event(4, timedelta(days=1))))["customer_seconds_since_last_30d"] == 28 * 86_400.0


def test_a_busy_terminal_counts_like_any_other(open_store: OpenStore) -> None:
    store = open_store()
    past = [
        event(number, timedelta(seconds=83 * number + 7), customer=number % 5, amount_minor=number % 977)
        for number in range(1, 1200)
    ]
    store.record_many(table_of(past))
    for ago in (timedelta(0), timedelta(minutes=11, microseconds=1), timedelta(hours=7)):
        asked = event(5000, ago, customer=2)
        found = store.peek(asked)
        agree(found, expected_of(asked, past))
        # sums of whole numbers are exact, in whatever pieces they were added up
        amounts = [each.amount_minor for each in past if timedelta(0) < asked.event_time - each.event_time
                   <= timedelta(hours=24)]  # fmt: skip
        exact = deviation_of(len(amounts), sum(amounts), sum(each**2 for each in amounts))
        assert named(found)["terminal_amount_deviation_24h"] == exact


def test_a_store_that_is_opened_again_knows_everything(open_store: OpenStore) -> None:
    first = open_store()
    first.take(event(1, timedelta(minutes=1)))
    first.close()
    assert named(open_store().take(event(2, timedelta(0))))["customer_count_5m"] == 1.0


# an event: minutes after the one before, how much later than that it comes, who, where, how much
GAPS = st.sampled_from([0, 0, 1, 4, 5, 25, 30, 60, 600, 1440, 14_400, 43_199])
LATE = st.sampled_from([0, 0, 0, 0, 1, 5, 29, 30, 700, 1440])
AMOUNTS = st.one_of(st.integers(0, 100_000), st.sampled_from([2**53 + 1, 2**63 - 1]))
STEPS = st.lists(
    st.tuples(GAPS, LATE, st.integers(0, 1), st.integers(1, 2), st.integers(10, 11), AMOUNTS,
              st.sampled_from(["take", "take", "take", "again", "peek", "many", "forget"])),
    max_size=25,
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_whatever_happens_in_whatever_order_the_store_says_what_a_list_says(
    open_store: OpenStore,
    request: pytest.FixtureRequest,
    steps: list[tuple[int, int, int, int, int, int, str]],
) -> None:
    store = open_store()
    wipe(store)
    past: dict[int, Event] = {}
    clock = NOON
    for number, (gap, late, tick, customer, terminal, amount, what) in enumerate(steps):
        clock += timedelta(minutes=gap)
        moment = clock - timedelta(minutes=late, microseconds=tick)
        asked = Event(number, moment, customer, terminal, amount)
        if what == "again" and past:
            # the same transaction with another amount, and another time if it is not all too late
            known = past[sorted(past)[number % len(past)]]
            if abs(moment - known.event_time) <= timedelta(days=1):
                asked = known._replace(event_time=moment, amount_minor=amount)
        if what == "many":
            store.record_many(table_of([asked, *past.values(), asked]))
        elif what == "forget":
            store.forget(clock)
            continue
        else:
            found = (store.peek if what == "peek" else store.take)(asked)
            agree(found, expected_of(asked, list(past.values())))
        if what != "peek":
            past.setdefault(asked.transaction_id, asked)
    store.close()


def wipe(store: VelocityStore) -> None:
    if isinstance(store, RedisVelocityStore):
        store._client.flushall()
    else:
        store._connection.execute("DELETE FROM events")  # type: ignore[attr-defined]


def test_redis_keeps_no_more_than_the_windows_need(home: Settings, redis_server: RedisServer) -> None:
    client = redis.Redis(port=redis_server.port, password=redis_server.password)
    client.flushall()
    store = RedisVelocityStore(redis_server.url)
    for number, days in enumerate((40, 30, 3, 1, 0)):
        store.take(event(number, timedelta(days=days)))
    store.close()
    # customers need 30 days and a day of grace, terminals one day and the grace
    for name, kept in (("customer:1", 4), ("terminal:10", 2)):
        tag = f"velocity:{{{name}}}:"
        assert (
            client.zcard(tag + "events") == client.scard(tag + "known") == client.hlen(tag + "sums") == kept
        )
    assert client.zcard("velocity:{customer:1}:pairs") == 4
    assert client.dbsize() == 7
    days_left = {
        key.decode().split(":")[1].strip("{"): client.ttl(key) / 86_400 for key in client.scan_iter()
    }
    assert days_left == pytest.approx({"customer": 31, "terminal": 2}, abs=0.01)


def test_a_redis_that_never_answers_is_given_up_in_about_a_second() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        start = time.monotonic()
        with pytest.raises(redis.RedisError):
            RedisVelocityStore(f"127.0.0.1:{silent.getsockname()[1]}").take(event(1, timedelta(0)))
        assert time.monotonic() - start < 2.0


def test_a_redis_that_has_lost_its_scripts_gets_them_again(redis_server: RedisServer) -> None:
    client = redis.Redis(port=redis_server.port, password=redis_server.password)
    client.flushall()
    store = RedisVelocityStore(redis_server.url)
    store.take(event(1, timedelta(minutes=1)))
    client.script_flush()
    assert named(store.take(event(2, timedelta(0))))["terminal_count_5m"] == 1.0
    store.close()


def test_a_transaction_of_another_customer_under_a_known_id_is_no_new_one(home: Settings) -> None:
    store = open_velocity_store(home)
    store.take(event(1, timedelta(minutes=2), customer=1))
    store.take(event(1, timedelta(minutes=1), customer=2, terminal=12))
    assert named(store.peek(event(2, timedelta(0), customer=2)))["customer_count_5m"] == 0.0
    store.close()


def test_two_processes_share_one_file(home: Settings) -> None:
    program = (
        "import sys; from pathlib import Path; from datetime import datetime, timedelta, UTC\n"
        "from jobs.features.velocity_sqlite import SqliteVelocityStore\n"
        "from jobs.features.velocity_store import Event\n"
        "store = SqliteVelocityStore(Path(sys.argv[1])); first = int(sys.argv[2])\n"
        "for number in range(300):\n"
        "    moment = datetime(2026, 3, 4, 11, tzinfo=UTC) + timedelta(seconds=number)\n"
        "    store.take(Event(first + number, moment, 1, 10, 100))\n"
    )
    path = home.home / "feast" / "velocity.db"
    command = [sys.executable, "-c", program, str(path)]
    running = [subprocess.Popen([*command, str(first)], cwd=ROOT) for first in (0, 1000)]
    assert [process.wait(60) for process in running] == [0, 0]
    store = open_velocity_store(home)
    assert named(store.peek(event(9999, timedelta(0))))["customer_count_24h"] == 600.0
    store.close()


def test_requests_are_answered_while_a_month_is_recorded(open_store: OpenStore) -> None:
    store, other = open_store(), open_store()
    past = table_of(
        [event(number, timedelta(minutes=number), customer=number % 50) for number in range(6000)]
    )
    answered = threading.Event()

    def record_again_and_again() -> None:
        while not answered.is_set():
            other.record_many(past)

    writing = threading.Thread(target=record_again_and_again)
    writing.start()
    try:
        for number in range(10_000, 10_020):
            store.take(event(number, timedelta(0), customer=51, terminal=12))
            time.sleep(0.001)
    finally:
        answered.set()
        writing.join()
    assert named(store.peek(event(99_999, timedelta(seconds=-1), customer=51)))["customer_count_5m"] == 20.0
    assert sum(named(store.peek(event(99_999, timedelta(0), customer=customer)))["customer_count_24h"]
               for customer in range(50)) == 1440.0  # fmt: skip
