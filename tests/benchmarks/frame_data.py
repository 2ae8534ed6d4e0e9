"""What a point-in-time frame is measured on: made-up feature rows and events, and the right answer.

An entity has about one row a day, at a moment of that day of its own, and no two of one moment: what Feast
does with such ties is chance. Some events have no entity, some come when its last row has expired, and some
at the very moment of a row, which does not serve them: a row has to be older than the event.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import duckdb

from tests.benchmarks.features_equal import one_row

KEY, MOMENT, AS_OF = "customer_id", "event_time", "as_of"
VALUES = tuple(f"feature_{number}" for number in range(1, 9))
TTL = timedelta(hours=48)
DAYS = 64
LEFT_OUT = 0.35  # of the days of an entity, so that its rows expire now and then
STRANGERS = 20  # one event in so many is of an entity without rows
EXACT = 50  # one event in so many comes at the moment of a row
START = "TIMESTAMPTZ '2026-01-01 00:00:00+00'"
DAY_MICROSECONDS = 86_400_000_000

FEATURE_ROWS = f"""
SELECT {KEY}, {START} + to_microseconds(day * {DAY_MICROSECONDS} + moment) AS {AS_OF},
    {{values}}
FROM (
    SELECT entity AS {KEY}, day, (hash(entity, day, 'moment') % {DAY_MICROSECONDS})::BIGINT AS moment
    FROM range({{entities}}) AS entities(entity), range({DAYS}) AS days(day)
    WHERE hash(entity, day) % 1000 >= {int(LEFT_OUT * 1000)}
)
LIMIT {{rows}}
"""
VALUE = "(hash({key}, day, {number}) % 1000000)::DOUBLE / 997"
EVENT_ROWS = f"""
WITH asked AS (
    SELECT event_id, CASE WHEN event_id % {STRANGERS} = 0 THEN {{entities}} ELSE 0 END
        + (hash(event_id) % {{entities}})::BIGINT AS {KEY},
        {START} + to_microseconds((hash(event_id, 'moment') % {DAYS * DAY_MICROSECONDS})::BIGINT) AS moment
    FROM range({{events}}) AS events(event_id)
), exact AS (
    SELECT asked.*, later.{AS_OF} FROM asked ASOF LEFT JOIN '{{features}}' AS later
    ON asked.{KEY} = later.{KEY} AND asked.moment <= later.{AS_OF}
)
SELECT event_id, {KEY},
    CASE WHEN event_id % {EXACT} = 1 AND {AS_OF} IS NOT NULL THEN {AS_OF} ELSE moment END AS {MOMENT}
FROM exact ORDER BY event_id
"""
ANSWER = f"""
SELECT event_id, events.{KEY}, events.{MOMENT}, {{values}}
FROM '{{events}}' AS events ASOF LEFT JOIN '{{features}}' AS rows
ON events.{KEY} = rows.{KEY} AND events.{MOMENT} > rows.{AS_OF}
"""
SERVES = (
    f"rows.{AS_OF} + INTERVAL {int(TTL.total_seconds())} SECONDS >= events.{MOMENT} - INTERVAL 1 MICROSECOND"
)


def write_frame(folder: Path, events: int, features: int) -> Path:
    """`events.parquet`, `features.parquet` and the right answer to them, `answer.parquet`."""
    folder.mkdir(parents=True)
    entities = int(1.01 * features / DAYS / (1 - LEFT_OUT)) + 50  # chance leaves out a few more
    values = ", ".join(
        VALUE.format(key=KEY, number=place) + f" AS {name}" for place, name in enumerate(VALUES)
    )
    served = ", ".join(f"CASE WHEN {SERVES} THEN rows.{name} END AS {name}" for name in VALUES)
    places = {name: folder / f"{name}.parquet" for name in ("events", "features", "answer")}
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    for name, query in (
        ("features", FEATURE_ROWS.format(entities=entities, rows=features, values=values)),
        ("events", EVENT_ROWS.format(entities=entities, events=events, features=places["features"])),
        ("answer", ANSWER.format(values=served, events=places["events"], features=places["features"])),
    ):
        connection.execute(f"COPY ({query}) TO '{places[name]}'")
    for name, rows in (("features", features), ("events", events), ("answer", events)):
        assert one_row(f"SELECT count(*) FROM '{places[name]}'") == (rows,), f"{name}: not {rows} rows"
    return folder


def wrong_rows(folder: Path, target: Path) -> dict[str, int]:
    """Events that a way left out, answered more than once, or answered wrongly.

    Numbers are compared as they are: a way only copies them. A value may come back as NaN for null.
    """
    differs = " OR ".join(
        f"a.{name} IS DISTINCT FROM (CASE WHEN isnan(t.{name}) THEN NULL ELSE t.{name} END)"
        for name in VALUES
    )
    found = one_row(f"""
        WITH answered AS (
            SELECT event_id, count(*) AS times, {", ".join(f"any_value({name}) AS {name}" for name in VALUES)}
            FROM '{target}/*.parquet' GROUP BY event_id
        )
        SELECT count(*) FILTER (t.event_id IS NULL), count(*) FILTER (t.times > 1),
            count(*) FILTER (t.event_id IS NOT NULL AND ({differs})),
            (SELECT count(*) FROM answered) - count(t.event_id)
        FROM '{folder / "answer.parquet"}' a LEFT JOIN answered t USING (event_id)
    """)
    return dict(zip(("missing", "doubled", "wrong", "of nobody"), map(int, found), strict=True))


def kinds_of_events(folder: Path) -> dict[str, int]:
    """How many events there are, are served, have an entity without rows, and come at the moment of a row."""
    found = one_row(f"""
        SELECT count(*), count({VALUES[0]}),
            count(*) FILTER ({KEY} NOT IN (SELECT {KEY} FROM '{folder / "features.parquet"}')),
            count(*) FILTER (({KEY}, {MOMENT}) IN
                (SELECT ({KEY}, {AS_OF}) FROM '{folder / "features.parquet"}'))
        FROM '{folder / "answer.parquet"}'
    """)
    return dict(zip(("events", "served", "strangers", "exact"), map(int, found), strict=True))
