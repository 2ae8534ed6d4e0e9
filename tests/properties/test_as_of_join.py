"""The point-in-time join of any history: what a person finds by looking, row by row."""

from __future__ import annotations

from datetime import timedelta
from operator import itemgetter
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from jobs.conf.settings import Settings
from jobs.features.as_of import as_of_join
from jobs.lake.tables import TIMESTAMP
from jobs.spark import spark_session

pytest_plugins = ("tests.spark_server",)
START = pd.Timestamp("2026-02-01", tz="UTC")
TTL = timedelta(hours=3)
# hours and microseconds around them: instants shared by events and rows, and the edge of the ttl
MOMENTS = st.tuples(st.integers(0, 8), st.sampled_from([-1, 0, 0, 1]))
DELAYS = st.sampled_from([timedelta(0), timedelta(hours=1), timedelta(hours=2)])
KEYS = st.integers(1, 9)
EVENTS = st.lists(st.tuples(MOMENTS, st.integers(1, 11)), min_size=50, max_size=90)
VALUES = st.one_of(st.none(), st.integers(-3, 3).map(float))
# one key and instant may have several rows, and some of these are alike
ROWS = st.lists(st.tuples(MOMENTS, KEYS, VALUES, VALUES), min_size=1, max_size=90)
EVENT_SCHEMA = pa.schema([("place", pa.int64()), ("key", pa.int64()), ("moment", TIMESTAMP)])
ROW_SCHEMA = pa.schema(
    [("key", pa.int64()), ("as_of", TIMESTAMP), ("left", pa.float64()), ("right", pa.float64())]
)


def at(moment: tuple[int, int]) -> pd.Timestamp:
    hours, microseconds = moment
    return START + pd.Timedelta(hours=hours, microseconds=microseconds)


def answer(rows: pd.DataFrame, key: int, moment: pd.Timestamp, delay: timedelta) -> list[float | None] | None:
    """The newest row that was published strictly before the moment, where it still serves."""
    before = rows[(rows["key"] == key) & (rows["as_of"] + delay < moment)]
    if before.empty:
        return None
    newest = before[before["as_of"] == before["as_of"].max()]
    if moment - pd.Timedelta(microseconds=1) > newest["as_of"].iloc[0] + TTL:
        return None
    # of several the greatest, by the first value and then the second; nothing is less than any number
    found = newest[["left", "right"]].astype(object).where(newest[["left", "right"]].notna(), None)
    return max(found.to_numpy().tolist(), key=lambda each: [(v is not None, v or 0.0) for v in each])


def joined(
    spark_remote: str,
    events: list[dict[str, Any]],
    rows: list[dict[str, Any]],
    delay: timedelta = timedelta(0),
) -> pa.Table:
    """What Spark makes of these events and rows."""
    session = spark_session(Settings(spark_remote=spark_remote))
    return as_of_join(
        session.createDataFrame(pa.Table.from_pylist(events, schema=EVENT_SCHEMA)),
        session.createDataFrame(pa.Table.from_pylist(rows, schema=ROW_SCHEMA)),
        key="key",
        moment="moment",
        as_of="as_of",
        values=["left", "right"],
        published_after=delay,
        ttl=TTL,
        into="found",
    ).toArrow()


# without shrinking: each example is a Spark query, of the histories of nine keys
@settings(
    max_examples=4,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
)
@given(events=EVENTS, rows=ROWS, delay=DELAYS)
def test_each_event_gets_what_was_known_before_it(
    spark_remote: str,
    events: list[tuple[tuple[int, int], int]],
    rows: list[tuple[tuple[int, int], int, float | None, float | None]],
    delay: timedelta,
) -> None:
    asked = [{"place": n, "key": key, "moment": at(moment)} for n, (moment, key) in enumerate(events)]
    known = [
        {"key": key, "as_of": at(moment), "left": left, "right": right} for moment, key, left, right in rows
    ]
    found = joined(spark_remote, asked, known, delay)
    assert found.column_names == ["place", "key", "moment", "found"]
    assert sorted(found["place"].to_pylist()) == list(range(len(events))), "no event dropped, none doubled"
    looked_up = pa.Table.from_pylist(known, schema=ROW_SCHEMA).to_pandas()
    for row in found.to_pylist():
        assert row["found"] == answer(looked_up, row["key"], pd.Timestamp(row["moment"]), delay), row


def test_a_row_of_the_same_instant_is_not_before_the_event(spark_remote: str) -> None:
    noon = at((4, 0))
    events = [{"place": n, "key": 1, "moment": noon + pd.Timedelta(microseconds=n)} for n in range(2)]
    rows = [{"key": 1, "as_of": noon, "left": 1.0, "right": None}]
    found = joined(spark_remote, events, rows)
    assert [row["found"] for row in sorted(found.to_pylist(), key=itemgetter("place"))] == [None, [1.0, None]]


def test_a_row_serves_nobody_before_the_hour_of_its_publication(spark_remote: str) -> None:
    published = at((2, 0))
    events = [{"place": n, "key": 1, "moment": published + pd.Timedelta(microseconds=n)} for n in range(2)]
    rows = [{"key": 1, "as_of": at((hour, 0)), "left": float(hour), "right": None} for hour in (-1, 0)]
    found = joined(spark_remote, events, rows, timedelta(hours=2))
    assert [row["found"] for row in sorted(found.to_pylist(), key=itemgetter("place"))] == [
        [-1.0, None],
        [0.0, None],
    ]


@pytest.mark.parametrize("hours", [3, 4])
def test_a_row_serves_to_the_end_of_its_ttl(spark_remote: str, hours: int) -> None:
    events = [{"place": 0, "key": 1, "moment": at((hours, 1))}]
    rows = [{"key": 1, "as_of": at((0, 0)), "left": 1.0, "right": 2.0}]
    # which begins with its as_of, whenever it is published
    found = joined(spark_remote, events, rows, timedelta(hours=1))
    assert found["found"].to_pylist() == [[1.0, 2.0] if hours == 3 else None]
