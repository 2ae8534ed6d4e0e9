"""Features of any history, built for many days at once: what a person counts by hand as of each of them."""

from __future__ import annotations

from datetime import date, timedelta

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from jobs.conf.settings import Settings
from jobs.features.check import active_keys
from jobs.features.declarations import Entity, longest_window
from jobs.features.windows import LABEL_SCHEMA, customer_features, terminal_features
from jobs.lake.tables import LABELS, TRANSACTIONS
from jobs.spark import spark_session
from tests.features_data import DAY, brute_force

pytest_plugins = ("tests.spark_server",)
DELAY = 2
START = pd.Timestamp(DAY, tz="UTC")
# half days from DAY on, so that midnights and ties are hit often; the longest window is 32 days
HALF_DAYS = st.integers(-70, 12)
LATE = st.sampled_from([0, 0, 0, 1, 2, 3, 5])  # half days after the event's day
KEYS = st.integers(1, 9)
MOST = 120
ROWS = st.lists(st.tuples(HALF_DAYS, LATE, KEYS, KEYS, st.integers(1, 99_999)), min_size=60, max_size=MOST)
# a label: of which transaction, when, how many days later its file comes, and what it says
KNOWN = st.lists(
    st.tuples(st.integers(0, MOST - 1), HALF_DAYS, st.sampled_from([0, 0, 1, 4]), st.integers(0, 1)),
    max_size=MOST,
)
DAYS = st.sets(st.integers(-1, 6), min_size=1, max_size=6)


def history(rows: list[tuple[int, int, int, int, int]]) -> pd.DataFrame:
    """Transactions whose files end with their day, or come some half days after it."""
    records = []
    for number, (half_days, late, customer, terminal, amount) in enumerate(rows):
        moment = START + pd.Timedelta(hours=12 * half_days)
        next_day = moment.floor("D") + pd.Timedelta(days=1)
        records.append(
            {
                "day": moment.date(),
                "transaction_id": number,
                "event_time": moment,
                "customer_id": customer,
                "terminal_id": terminal,
                "amount_minor": amount,
                "available_at": next_day + pd.Timedelta(hours=12 * late),
                "file_day": moment.date(),
            }
        )
    return pa.Table.from_pylist(records, schema=TRANSACTIONS.schema).to_pandas()


def chargebacks(known: list[tuple[int, int, int, int]]) -> pd.DataFrame:
    """Labels in the partition of the day on which their file came."""
    records = []
    for number, half_days, later, is_fraud in known:
        moment = START + pd.Timedelta(hours=12 * half_days)
        day = moment.date() + timedelta(days=later)
        records.append({"day": day, "transaction_id": number, "available_at": moment, "is_fraud": is_fraud})
    return pa.Table.from_pylist(records, schema=LABELS.schema).to_pandas()


def as_of_day(
    transactions: pd.DataFrame, labels: pd.DataFrame, entity: Entity, day: date
) -> dict[int, dict[str, float]]:
    """The features of a day by brute force, from what had come by then."""
    as_of = pd.Timestamp(day + timedelta(days=1), tz="UTC")
    there = transactions[transactions["available_at"] <= as_of]
    customers, terminals = brute_force(there, labels[labels["day"] <= day], as_of, DELAY)
    found = customers if entity == "customer" else terminals
    return {key: found[key] for key in active_keys(there, entity, as_of, longest_window(entity, DELAY))}


# without shrinking: each example is two Spark queries, of the histories of nine customers and terminals
@settings(
    max_examples=3,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
)
@given(rows=ROWS, known=KNOWN, offsets=DAYS)
def test_days_built_together_are_what_brute_force_counts_as_of_each(
    spark_remote: str,
    rows: list[tuple[int, int, int, int, int]],
    known: list[tuple[int, int, int, int]],
    offsets: set[int],
) -> None:
    transactions, labels = history(rows), chargebacks(known)
    session = spark_session(Settings(spark_remote=spark_remote))
    spark_rows = session.createDataFrame(pa.Table.from_pandas(transactions, TRANSACTIONS.schema))
    spark_labels = session.createDataFrame([], LABEL_SCHEMA)
    if known:
        spark_labels = session.createDataFrame(pa.Table.from_pandas(labels, LABELS.schema))
    days = [DAY + timedelta(days=offset) for offset in offsets]
    answers: dict[Entity, pd.DataFrame] = {
        "customer": customer_features(spark_rows, days).toPandas(),
        "terminal": terminal_features(spark_rows, spark_labels, days, DELAY).toPandas(),
    }
    for entity, answer in answers.items():
        assert set(answer["day"]) <= set(days)
        assert not answer.duplicated(["day", f"{entity}_id"]).any()
        for day in days:
            found = answer[answer["day"] == day].set_index(f"{entity}_id").drop(columns="day")
            expected = as_of_day(transactions, labels, entity, day)
            assert set(found.index) == set(expected)
            for key, features in expected.items():
                assert dict(found.loc[key]) == pytest.approx(features, nan_ok=True), (day, key)
