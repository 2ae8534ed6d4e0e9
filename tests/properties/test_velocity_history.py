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


def history(events: list[tuple[pd.Timedelta, int, int, int, int]]) -> pd.DataFrame:
    """Transactions some steps after one another; their file ends with their day, or comes days later."""
    moment, records = START, []
    for number, (step, customer, terminal, amount, late) in enumerate(events):
        moment = moment + step
        records.append(
            {
                "day": moment.date(),
                "transaction_id": number,
                "event_time": moment,
                "customer_id": customer,
                "terminal_id": terminal,
                "amount_minor": amount,
                "available_at": moment.floor("D") + pd.Timedelta(days=1 + late),
                "file_day": moment.date() + timedelta(days=late),
            }
        )
    return pa.Table.from_pylist(records, schema=TRANSACTIONS.schema).to_pandas()


# without shrinking: each example is a Spark query
@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
)
@given(events=EVENTS, pick=st.integers(0, 24))
def test_velocity_is_what_brute_force_counts_just_before_each_event(
    spark_remote: str, events: list[tuple[pd.Timedelta, int, int, int, int]], pick: int
) -> None:
    transactions = history(events)
    first = transactions["day"].iloc[min(pick, len(transactions) - 1)]
    days = sorted({day for day in transactions["day"] if day >= first})
    rows = spark_session(Settings(spark_remote=spark_remote)).createDataFrame(
        pa.Table.from_pandas(transactions, TRANSACTIONS.schema)
    )
    found = velocity_features(rows, days).toPandas().set_index("transaction_id")
    wanted = brute_force_velocity(transactions)
    asked = transactions.loc[transactions["day"] >= first, "transaction_id"]
    assert sorted(found.index) == sorted(asked)
    for number in asked:
        assert dict(found.loc[number, list(VELOCITY_FEATURES)]) == pytest.approx(
            wanted[number], nan_ok=True, rel=1e-9, abs=1e-9
        ), number
