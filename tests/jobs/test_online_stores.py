"""Both online stores by the same sentences, over a SQLite file and a real Redis."""

from __future__ import annotations

import math
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as how
from hypothesis import strategies as st

from jobs.conf.settings import PROJECT_ROOT, Settings
from jobs.core import SluiceError, midnight
from jobs.features import materialize, redis_rows
from jobs.features.declarations import (
    MODEL_FEATURES,
    PRESENCE,
    STORED_FEATURES,
    stored_features,
    version_of,
)
from jobs.features.definitions import feature_view
from jobs.features.engine import write_from_spark
from jobs.features.online import OnlineFeatures
from jobs.features.packed import Layout, layout_of
from jobs.features.packed_store import PackedOnlineStore
from jobs.features.request import assemble
from jobs.features.store import feast_home, feature_store, repo_config
from tests.features_data import DAY, put_features

if TYPE_CHECKING:
    from tests.redis_server import RedisServer

pytest_plugins = ("tests.redis_server", "tests.spark_server")

BEFORE = DAY - timedelta(days=1)
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
Rows = list[tuple[int, int, float | None]]  # entity, hours since EPOCH, the value of every feature


@pytest.fixture(params=["sqlite", "redis"])
def online_home(request: pytest.FixtureRequest, home: Settings) -> Iterator[Settings]:
    """An installation whose online store is empty."""
    if request.param == "sqlite":
        yield home
        return
    server: RedisServer = request.getfixturevalue("redis_server")
    redis_rows.connect(server.url).flushall()
    yield home.model_copy(update={"online_store": "redis", "redis_url": server.url})


class Store:
    """The store of an installation and the customers' view, without what Feast lays over them."""

    def __init__(self, settings: Settings) -> None:
        self.config, self.view = repo_config(settings), feature_view("customer", settings)
        self.layout = layout_of(self.config, self.view)
        self.online: PackedOnlineStore = feature_store(settings)._get_provider().online_store

    def write(self, *rows: tuple[int, int, float | None]) -> int:
        batch = self.layout.batch(
            [
                (key, EPOCH + timedelta(hours=hours), dict.fromkeys(self.layout.names, value))
                for key, hours, value in rows
            ]
        )
        return self.online.write_arrow(self.config, self.view, batch)

    def read(self, *keys: int) -> list[tuple[int, float | None] | None]:
        found = self.online.read_rows(self.config, [(self.layout, key) for key in keys])
        rows = [self.layout.unpack(stored) for stored in found]
        return [row and (_hours(row.as_of), row.values[self.layout.names[0]]) for row in rows]

    def clear(self) -> None:
        self.online.teardown(self.config, [self.view], [])


def _hours(moment: datetime) -> int:
    return int((moment - EPOCH).total_seconds()) // 3600


def two_days(home: Settings) -> None:
    put_features(home, "customer", [(BEFORE, 1, 1.0), (BEFORE, 2, 7.0), (DAY, 1, 2.0)])
    put_features(home, "terminal", [(BEFORE, 10, 0.25), (DAY, 10, 0.5)])


def materialized(home: Settings, *days: Any) -> Any:
    return [materialize.run(materialize.Params(day=day), home) for day in days][-1]


BATCHES = st.lists(
    st.lists(
        st.tuples(st.integers(1, 4), st.integers(0, 5), st.one_of(st.none(), st.floats(-1e9, 1e9))),
        min_size=1,
        max_size=8,
    ),
    max_size=6,
)


@given(batches=BATCHES)
@how(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_of_each_entity_the_newest_row_is_left_whatever_came_first(
    online_home: Settings, batches: list[Rows]
) -> None:
    store, model = Store(online_home), dict[int, tuple[int, float | None]]()
    store.clear()
    for batch in batches:
        for key, hours, value in batch:
            if key not in model or hours >= model[key][0]:
                model[key] = (hours, value)
        taken = store.write(*batch)
        assert 0 <= taken <= len(batch)
    assert store.read(1, 2, 3, 4) == [model.get(key) for key in (1, 2, 3, 4)]
    newest = store.online.newest(store.config, store.layout)
    assert (newest and _hours(newest)) == max((hours for hours, _ in model.values()), default=None)


def test_the_same_rows_again_change_nothing_and_older_ones_are_not_stored(online_home: Settings) -> None:
    store = Store(online_home)
    rows: Rows = [(key, 5, float(key)) for key in range(1, 6000)]
    assert store.write(*rows) == len(rows)
    assert store.write(*rows) == len(rows)
    assert store.write((1, 4, 9.0), (2, 6, 9.0)) == 1
    assert store.read(1, 2, 5999, 6000) == [(5, 1.0), (6, 9.0), (5, 5999.0), None]


def test_keys_may_be_negative_or_as_large_as_an_int64_and_values_infinite(online_home: Settings) -> None:
    store = Store(online_home)
    low, high = -(2**63), 2**63 - 1
    store.write((low, 0, math.inf), (high, 0, -0.0))
    assert store.read(low, high) == [(0, math.inf), (0, 0.0)]


def test_a_row_of_other_features_is_no_row_and_gives_way_to_an_older_one(online_home: Settings) -> None:
    store = Store(online_home)
    store.write((1, 5, 1.0))
    first, second, *more = store.layout.names
    other = replace(store.layout, names=(second, first, *more))
    (stored,) = store.online.read_rows(store.config, [(store.layout, 1)])
    assert store.layout.unpack(stored) is not None
    assert other.unpack(stored) is None
    assert replace(store.layout, names=(first, second)).unpack(stored) is None
    store.view.tags = {"feature_version": version_of(stored_features("customer")[:1])}
    assert layout_of(store.config, store.view).unpack(stored) is None
    assert store.online.newest(store.config, other) is None
    renamed = store.view.features[:]
    store.view.features = [renamed[1], renamed[0], *renamed[2:]]
    store.layout = layout_of(store.config, store.view)
    assert store.read(1) == [None]
    assert store.write((1, 2, 3.0)) == 1
    assert store.read(1) == [(2, 3.0)]


def test_a_null_stays_null_and_is_told_to_whoever_owns_the_data(online_home: Settings) -> None:
    put_features(online_home, "customer", [(DAY, 1, None)])
    put_features(online_home, "terminal", [(DAY, 10, 0.0)])
    receipt = materialized(online_home, DAY)
    found = OnlineFeatures(online_home).read(1, 10)
    assert found["customer_amount_mean_1d"] is None
    assert found["terminal_risk_1d"] == 0.0
    assert (receipt.facts["largest_null_share"], receipt.facts["new_alerts"]) == (1.0, 1)
    (alert,) = (online_home.home / "alerts.jsonl").read_text().splitlines()
    assert "is null in 100.0% of the rows of customer_history" in alert
    assert "customer_amount_mean_1d" not in alert  # of an empty day it is null by its declaration
    assert materialized(online_home, DAY).facts["new_alerts"] == 0


def test_missing_and_expired_rows_come_with_a_flag(online_home: Settings) -> None:
    two_days(online_home)
    materialized(online_home, BEFORE, DAY)
    online, end = OnlineFeatures(online_home), midnight(DAY + timedelta(days=1))

    def flags(customer: int, terminal: int, at: datetime) -> tuple[float, float]:
        stored = online.read(customer, terminal, at)
        assert (stored[PRESENCE["customer"]] is None) == (stored["customer_count_1d"] is None)
        row = dict(zip(MODEL_FEATURES, assemble(2000, at, stored, None), strict=True))
        return row["customer_missing"], row["terminal_missing"]

    tick = timedelta(microseconds=1)
    assert flags(1, 10, end + tick) == (0.0, 0.0)
    assert flags(1, 10, end) == (1.0, 1.0)  # as of its own end a row is not older than the event
    assert flags(404, 10, end + tick) == (1.0, 0.0)
    assert flags(2, 10, end + timedelta(days=1) + tick) == (0.0, 0.0)
    assert flags(2, 10, end + timedelta(days=1) + 2 * tick) == (1.0, 0.0)  # customer 2 has expired


def test_feasts_own_call_gives_the_same_values(online_home: Settings) -> None:
    two_days(online_home)
    materialized(online_home, DAY)
    store, names = feature_store(online_home), list(STORED_FEATURES)
    asked = [{"customer_id": 1, "terminal_id": 10}, {"customer_id": 2, "terminal_id": 404}]
    views = [f"{view.name}:{field.name}" for view in store.list_feature_views() if view.online
             for field in view.features]  # fmt: skip
    answer = store.get_online_features(features=views, entity_rows=asked).to_dict()
    for place, row in enumerate(asked):
        ours = OnlineFeatures(online_home).read(row["customer_id"], row["terminal_id"])
        assert {name: answer[name][place] for name in names} == ours


def test_what_feast_writes_value_by_value_is_read_the_same(online_home: Settings) -> None:
    import pandas as pd

    store, names = feature_store(online_home), [feature.name for feature in stored_features("customer")]
    frame = pd.DataFrame(
        {"customer_id": [5, 6], "as_of": [EPOCH, EPOCH], **{name: [1.5, None] for name in names}}
    )
    store.write_to_online_store("customer_history", frame)
    online = OnlineFeatures(online_home)
    assert online.row("customer", 5) == (EPOCH, dict.fromkeys(names, 1.5))
    assert online.row("customer", 6) == (EPOCH, dict.fromkeys(names))


DIES = """
import os, signal
from jobs.conf.settings import settings
from jobs.features import engine, materialize
engine.BATCH = 300
from jobs.features.store import feature_store
online = type(feature_store(settings())._get_provider().online_store)
whole, calls = online.write_arrow, []
def write_arrow(self, *arguments):
    calls.append(1)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(self, *arguments)
online.write_arrow = write_arrow
materialize.run(materialize.Params(day="{day}"), settings())
"""


def test_killed_in_the_middle_and_run_again_it_leaves_what_one_run_leaves(online_home: Settings) -> None:
    keys = range(1, 1001)
    put_features(
        online_home, "customer", [(BEFORE, key, 1.0) for key in keys] + [(DAY, key, 2.0) for key in keys]
    )
    put_features(online_home, "terminal", [(BEFORE, 10, 0.25), (DAY, 10, 0.5)])
    materialized(online_home, BEFORE)
    given = {
        "SLUICE_HOME": str(online_home.home),
        "SLUICE_ONLINE_STORE": online_home.online_store,
        "SLUICE_REDIS_URL": online_home.redis_url,
    }
    done = subprocess.run(
        [sys.executable, "-c", DIES.format(day=DAY)], cwd=PROJECT_ROOT, env={**os.environ, **given},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    online = OnlineFeatures(online_home)
    counts = [online.row("customer", key)[1]["customer_count_1d"] for key in keys]
    assert (counts.count(2.0), counts.count(1.0)) == (600, 400)
    materialized(online_home, DAY)
    assert {online.row("customer", key)[1]["customer_count_1d"] for key in keys} == {2.0}


def test_a_store_that_lost_its_rows_is_noticed_and_the_newest_day_heals_it(online_home: Settings) -> None:
    two_days(online_home)
    assert materialized(online_home, DAY).facts["newest"]["customer_history"] == "2026-03-01T00:00:00+00:00"
    store = Store(online_home)
    store.online.teardown(store.config, feature_store(online_home).list_feature_views(), [])
    with pytest.raises(SluiceError, match=f"materialize_features --day {DAY}"):
        materialized(online_home, BEFORE)
    materialized(online_home, DAY, BEFORE)
    assert OnlineFeatures(online_home).read(1, 10)["customer_count_1d"] == 2.0


def test_a_view_of_another_shape_is_refused_in_one_sentence(online_home: Settings) -> None:
    from feast import Field
    from feast.types import Int64

    config, view = repo_config(online_home), feature_view("customer", online_home)
    view.features = [*view.features, Field(name="visits", dtype=Int64)]
    online = feature_store(online_home)._get_provider().online_store
    with pytest.raises(SluiceError, match="online features are Float64, visits is not"):
        online.update(config, [], [view], [], [], partial=False)
    view = feature_view("customer", online_home)
    view.entity_columns = [*view.entity_columns, Field(name="card", dtype=Int64)]
    with pytest.raises(SluiceError, match="one join key"):
        online.update(config, [], [view], [], [], partial=False)


def test_a_row_without_a_key_is_refused() -> None:
    layout = Layout("sluice_cards", "card_id", "as_of", ("visits",), "")
    columns = [pa.array([1, None]), pa.array([EPOCH, EPOCH]), pa.array([1.0, 2.0])]
    with pytest.raises(SluiceError, match="no card_id or no as_of"):
        layout.pack(pa.record_batch(columns, layout.columns))
    with pytest.raises(SluiceError, match="column visits is missing"):
        layout.pack(pa.record_batch(columns[:2], layout.columns[:2]))


def test_reading_waits_for_no_writer_of_the_file(home: Settings) -> None:
    store = Store(home)
    store.write((1, 0, 1.0))
    path = feast_home(home) / "online.db"
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    writer.execute('UPDATE "sluice_customer_history_rows" SET as_of = 0')
    assert store.read(1) == [(0, 1.0)]
    writer.execute("ROLLBACK")
    writer.close()


def test_a_file_of_the_release_before_is_taken_over(home: Settings) -> None:
    path = feast_home(home) / "online.db"
    path.parent.mkdir(parents=True)
    old = sqlite3.connect(path)
    old.execute('CREATE TABLE "sluice_customer_history" (entity_key BLOB, feature_name TEXT, value BLOB)')
    old.commit()
    old.close()
    two_days(home)
    materialized(home, DAY)
    assert OnlineFeatures(home).read(1, 10)["customer_count_1d"] == 2.0


def test_no_message_names_the_password(home: Settings) -> None:
    lost = home.model_copy(update={"online_store": "redis", "redis_url": "127.0.0.1:1,password=hidden"})
    assert "hidden" not in repr(repo_config(lost).online_store)
    assert "hidden" not in repr(repo_config(lost))
    config, view = repo_config(lost), feature_view("customer", lost)
    from jobs.features.redis_online import NewestRedisOnlineStore

    with pytest.raises(SluiceError, match=r"Redis at 127\.0\.0\.1:1") as refused:
        NewestRedisOnlineStore().newest(config, layout_of(config, view))
    assert "hidden" not in str(refused.value)
    for wrong in ("hidden", "127.0.0.1,password=hidden", "127.0.0.1:1,hidden", "127.0.0.1:1,hidden=1"):
        with pytest.raises(SluiceError, match="SLUICE_REDIS_URL") as refused:
            redis_rows.connect(wrong)
        assert "hidden=" not in str(refused.value)


def test_a_password_of_digits_stays_a_text(redis_server: RedisServer) -> None:
    client = redis_rows.connect("127.0.0.1:6379,password=0012,db=3,ssl=false")
    options = client.connection_pool.connection_kwargs
    assert (options["password"], options["db"]) == ("0012", 3)


def test_executors_write_what_the_job_writes(
    home: Settings, redis_server: RedisServer, spark_remote: str
) -> None:
    redis_rows.connect(redis_server.url).flushall()
    shared = home.model_copy(
        update={"online_store": "redis", "redis_url": redis_server.url, "spark_remote": spark_remote}
    )
    by_spark = shared.model_copy(
        update={"redis_url": redis_server.database(1), "materialize_on": "spark", "home": home.home / "spark",
                "lake_uri": ""}
    )  # fmt: skip
    for place in (shared, by_spark):
        two_days(place)
        put_features(
            place, "customer", [(BEFORE, key, float(key)) for key in range(3, 500)] + [(BEFORE, 1, None)]
        )
        materialized(place, DAY, BEFORE)
    found = [OnlineFeatures(place) for place in (shared, by_spark)]
    for key in (*range(1, 600), 404):
        assert found[0].row("customer", key) == found[1].row("customer", key)
    assert found[1].read(1, 10)["terminal_risk_7d"] == 0.5
    assert found[1].newest("customer") == midnight(DAY + timedelta(days=1))


def test_a_spark_frame_is_written_where_it_lies_and_counted(
    home: Settings, redis_server: RedisServer, spark_home: Settings
) -> None:
    from jobs.spark import spark_session

    shared = spark_home.model_copy(update={"online_store": "redis", "redis_url": redis_server.database(2)})
    view, names = feature_view("terminal", shared), [f.name for f in stored_features("terminal")]
    rows = spark_session(shared).range(1, 1001).selectExpr(
        "id AS terminal_id", "TIMESTAMP '2026-01-01 00:00:00' AS as_of",
        *(f"CAST(id AS DOUBLE) AS {name}" for name in names), "'left alone' AS note",
    )  # fmt: skip
    assert write_from_spark(rows, view, shared) == 1000
    assert write_from_spark(rows.withColumn("as_of", rows.as_of - _one_hour()), view, shared) == 0
    assert OnlineFeatures(shared).row("terminal", 77) == (EPOCH, dict.fromkeys(names, 77.0))
    with pytest.raises(SluiceError, match="SLUICE_ONLINE_STORE=redis"):
        write_from_spark(rows, view, home)
    with pytest.raises(SluiceError, match="executors do not share a file"):
        materialized(home.model_copy(update={"materialize_on": "spark"}), DAY)


def _one_hour() -> Any:
    from pyspark.sql import functions as F  # noqa: N812

    return F.expr("INTERVAL 1 HOUR")
