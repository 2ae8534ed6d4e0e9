"""Velocity features of any history: what a person counts by hand just before each event."""

from __future__ import annotations

from datetime import timedelta

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from jobs.conf.settings import Settings
from jobs.features.declarations import VELOCITY_FEATURES
from jobs.features.velocity import velocity_features
from jobs.lake.tables import TRANSACTIONS
from jobs.spark import spark_session
from tests.features_data import DAY, brute_force_velocity

pytest_plugins = ("tests.spark_server",)
START = pd.Timestamp(DAY, tz="UTC")
# the edges of every window, a microsecond to either side, and ties
STEPS = st.sampled_from(
    [pd.Timedelta(0)]
    + [
        width + pd.Timedelta(microseconds=tick)
        for width in map(pd.Timedelta, ("5min", "30min", "1h", "24h", "30d", "7h"))
        for tick in (-1, 0, 1)
    ]
)
AMOUNTS = st.one_of(st.just(500), st.integers(1, 99_999))
EVENTS = st.lists(
    st.tuples(STEPS, st.integers(1, 2), st.integers(1, 2), AMOUNTS, st.sampled_from([0, 0, 0, 2])),
    min_size=1,
    max_size=25,
)
# histories of customers and terminals of their own, and the event of each whose day is the first asked for
HISTORIES = st.lists(st.tuples(EVENTS, st.integers(0, 24)), min_size=8, max_size=8)


def history(events: list[tuple[pd.Timedelta, int, int, int, int]], pick: int, place: int) -> pd.DataFrame:
    """Transactions some steps after one another, one of them on DAY; a file ends with its day, or is late."""
    moments = START + pd.Series([step for step, *_ in events]).cumsum()
    moments -= moments.iloc[min(pick, len(events) - 1)].floor("D") - START
    records = [
        {
            "day": moment.date(),
            "transaction_id": 100 * place + number,
            "event_time": moment,
            "customer_id": 10 * place + customer,
            "terminal_id": 10 * place + terminal,
            "amount_minor": amount,
            "available_at": moment.floor("D") + pd.Timedelta(days=1 + late),
            "file_day": moment.date() + timedelta(days=late),
        }
        for number, (moment, (_, customer, terminal, amount, late)) in enumerate(
            zip(moments, events, strict=True)
        )
    ]
    return pa.Table.from_pylist(records, schema=TRANSACTIONS.schema).to_pandas()


# without shrinking: each example is two Spark queries
@settings(
    max_examples=3,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
)
@given(histories=HISTORIES)
def test_velocity_is_what_brute_force_counts_just_before_each_event(
    spark_remote: str, histories: list[tuple[list[tuple[pd.Timedelta, int, int, int, int]], int]]
) -> None:
    each = [history(events, pick, place) for place, (events, pick) in enumerate(histories)]
    transactions = pd.concat(each, ignore_index=True)
    wanted: dict[int, dict[str, float]] = {}
    for one in each:
        wanted |= brute_force_velocity(one)
    rows = spark_session(Settings(spark_remote=spark_remote)).createDataFrame(
        pa.Table.from_pandas(transactions, TRANSACTIONS.schema)
    )
    later = {day for day in transactions["day"] if day >= DAY}
    # a range longer than every window is computed in another way than a few days
    for days in (later, {day for day in later if day < DAY + timedelta(days=4)}):
        found = velocity_features(rows, sorted(days)).toPandas().set_index("transaction_id")
        asked = transactions.loc[transactions["day"].isin(days), "transaction_id"]
        assert sorted(found.index) == sorted(asked)
        for number in asked:
            assert dict(found.loc[number, list(VELOCITY_FEATURES)]) == pytest.approx(
                wanted[number], nan_ok=True, rel=1e-9, abs=1e-9
            ), number
