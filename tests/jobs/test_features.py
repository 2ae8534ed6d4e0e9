"""Features: windows by hand, against brute force and DuckDB; the gate."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.conf.settings import PROJECT_ROOT, Settings
from jobs.core import GateClosed, SluiceError, midnight
from jobs.features import build, check, windows
from jobs.features.declarations import longest_window, stored_features
from jobs.features.tables import CUSTOMER_FEATURES, TERMINAL_FEATURES
from jobs.lake.store import lake_of
from jobs.lake.tables import TRANSACTIONS
from jobs.spark import spark_session
from tests.features_data import (
    DAY,
    brute_force,
    brute_force_velocity,
    by_hand,
    label_rows,
    put,
    transaction_rows,
)

pytest_plugins = ("tests.spark_server",)
HANDBOOK = PROJECT_ROOT.parent / "shared" / "data" / "handbook" / "transactions"


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def built(home: Settings, day: date = DAY) -> tuple[pd.DataFrame, pd.DataFrame]:
    build.run(build.Params(day=day), home)
    lake = lake_of(home)
    return (
        lake.read(CUSTOMER_FEATURES, first=day, last=day).to_pandas().set_index("customer_id"),
        lake.read(TERMINAL_FEATURES, first=day, last=day).to_pandas().set_index("terminal_id"),
    )


def test_windows_are_half_open_and_numbers_are_those_worked_by_hand(spark_home: Settings) -> None:
    # as of 2026-03-01 00:00; customer 1 spends at terminal 10
    put(
        spark_home,
        transaction_rows(
            (1, "2026-01-29 23:59:59.999999", 1, 10, 100_00),  # one microsecond before 30 days
            (2, "2026-01-30 00:00:00", 1, 10, 40_00),  # the first instant of 30 days
            (3, "2026-02-21 23:59:59", 1, 10, 20_00),  # just outside 7 days
            (4, "2026-02-22 00:00:00", 1, 10, 30_00),  # the first instant of 7 days
            (5, "2026-02-28 00:00:00", 1, 11, 5_01),  # the first instant of 1 day
            (6, "2026-02-28 23:59:59.999999", 1, 11, 5_02),  # the last instant
            (7, "2026-03-01 00:00:00", 1, 11, 999_00),  # as_of itself: never
        ),
    )
    customers, terminals = built(spark_home)
    assert list(customers.index) == [1]
    row = customers.loc[1]
    assert row["as_of"] == pd.Timestamp("2026-03-01", tz="UTC")
    assert [row[f"customer_count_{w}d"] for w in (1, 7, 30)] == [2, 3, 5]
    means = [row[f"customer_amount_mean_{w}d"] for w in (1, 7, 30)]
    assert means == pytest.approx([5.015, 40.03 / 3, 100.03 / 5])
    assert [terminals.loc[10][f"terminal_count_{w}d"] for w in (1, 7, 30)] == [0, 1, 3]
    assert [terminals.loc[11][f"terminal_count_{w}d"] for w in (1, 7, 30)] == [2, 2, 2]


def test_risk_leaves_out_the_delay_and_takes_the_latest_label_known_before_as_of(
    spark_home: Settings,
) -> None:
    # delay 2 days: the risk of 1 day is [2026-02-26, 2026-02-27)
    put(
        spark_home,
        transaction_rows(
            (1, "2026-02-26 00:00:00", 1, 10, 1_00),  # fraud, known in time
            (2, "2026-02-26 12:00:00", 1, 10, 1_00),  # fraud, corrected in time
            (3, "2026-02-26 13:00:00", 1, 10, 1_00),  # fraud, known at as_of: too late
            (4, "2026-02-26 23:59:59.999999", 1, 10, 1_00),  # fraud, its correction is too late
            (5, "2026-02-27 00:00:00", 1, 10, 1_00),  # fraud, but inside the delay
            (6, "2026-02-28 10:00:00", 2, 11, 1_00),  # nothing in the window: risk 0
        ),
        label_rows(
            (1, "2026-02-27 08:00:00", 1),
            (2, "2026-02-27 08:00:00", 1),
            (2, "2026-02-28 08:00:00", 0),
            (3, "2026-03-01 00:00:00", 1),
            (4, "2026-02-28 09:00:00", 1),
            (4, "2026-03-01 00:00:01", 0),
            (5, "2026-02-28 09:00:00", 1),
        ),
    )
    customers, terminals = built(spark_home)
    assert terminals.loc[10]["terminal_risk_1d"] == pytest.approx(2 / 4)
    assert terminals.loc[11]["terminal_risk_1d"] == 0.0
    assert math.isnan(customers.loc[1]["customer_amount_mean_1d"])
    check.run(check.Params(day=DAY), spark_home)


def test_building_a_day_again_replaces_it_and_leaves_other_days_alone(spark_home: Settings) -> None:
    put(spark_home, transaction_rows((1, "2026-02-27 10:00:00", 1, 10, 1_00)))
    put(spark_home, transaction_rows((2, "2026-02-28 10:00:00", 1, 10, 3_00)))
    day_before = DAY - timedelta(days=1)
    first = build.run(build.Params(day=day_before), spark_home)
    second = build.run(build.Params(day=DAY), spark_home)
    again = build.run(build.Params(day=DAY), spark_home)
    assert again.digest == second.digest
    assert again.rows == second.rows == first.rows == 3  # a customer, a terminal, a transaction
    lake = lake_of(spark_home)
    assert lake.partitions(CUSTOMER_FEATURES) == [str(day_before), str(DAY)]
    assert lake.read(TERMINAL_FEATURES).num_rows == 2


def test_a_feature_that_is_declared_anew_becomes_a_column_with_nulls_in_older_days(
    spark_home: Settings,
) -> None:
    put(spark_home, transaction_rows((1, "2026-02-27 10:00:00", 1, 10, 1_00)))
    put(spark_home, transaction_rows((2, "2026-02-28 10:00:00", 1, 10, 3_00)))
    older = DAY - timedelta(days=40)
    columns = [name for name in CUSTOMER_FEATURES.schema.names if "deviation" not in name]
    before = replace(
        CUSTOMER_FEATURES, schema=pa.schema([CUSTOMER_FEATURES.schema.field(n) for n in columns])
    )
    row = {"day": older, "customer_id": 1, "as_of": midnight(older)} | dict.fromkeys(columns[3:], 1.0)
    lake = lake_of(spark_home)
    lake.replace(before, pa.Table.from_pylist([row], schema=before.schema), older)
    customers, _ = built(spark_home)
    assert customers.loc[1, "customer_amount_deviation_7d"] == pytest.approx(math.sqrt(2))
    (kept,) = lake.read(CUSTOMER_FEATURES, first=older, last=older).to_pylist()
    assert (kept["customer_count_7d"], kept["customer_amount_deviation_7d"]) == (1.0, None)


def test_a_day_without_transactions_is_an_error_for_a_person(home: Settings) -> None:
    with pytest.raises(SluiceError, match="publish_transactions --day 2026-02-28"):
        build.run(build.Params(day=DAY), home)


def test_an_unreachable_spark_server_is_said_at_once(home: Settings) -> None:
    started = datetime.now(UTC)
    with pytest.raises(SluiceError, match=r"no Spark server answers at sc://127\.0\.0\.1:9"):
        spark_session(home.model_copy(update={"spark_remote": "sc://127.0.0.1:9"}))
    assert datetime.now(UTC) - started < timedelta(seconds=4)


AS_OF = pd.Timestamp("2026-03-01", tz="UTC")
HALF_DAYS = st.integers(-1, 70)  # half days before as_of, so that edges are hit often
ROWS = st.lists(
    st.tuples(HALF_DAYS, st.integers(1, 9), st.integers(1, 9), st.integers(1, 99_999)),
    min_size=50,
    max_size=90,
)
KNOWN = st.lists(st.tuples(st.integers(0, 89), HALF_DAYS, st.integers(0, 1)), max_size=60)


# each example is two Spark queries, of the histories of nine customers and terminals
@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=ROWS, known=KNOWN)
def test_spark_counts_what_brute_force_counts(
    spark_remote: str,
    rows: list[tuple[int, int, int, int]],
    known: list[tuple[int, int, int]],
) -> None:
    transactions = pd.DataFrame(
        [
            (n, AS_OF - pd.Timedelta(hours=12 * back), customer, terminal, amount)
            for n, (back, customer, terminal, amount) in enumerate(rows)
        ],
        columns=["transaction_id", "event_time", "customer_id", "terminal_id", "amount_minor"],
    ).astype({"event_time": "datetime64[us, UTC]"})
    transactions["available_at"] = transactions["event_time"].dt.ceil("D")
    labels = pd.DataFrame(
        [(n, AS_OF - pd.Timedelta(hours=12 * back), value) for n, back, value in known],
        columns=["transaction_id", "available_at", "is_fraud"],
    ).astype({"available_at": "datetime64[us, UTC]"})
    labels["day"] = labels["available_at"].dt.date
    session = spark_session(Settings(spark_remote=spark_remote))
    spark_rows = session.createDataFrame(pa.Table.from_pandas(transactions))
    spark_labels = session.createDataFrame([], windows.LABEL_SCHEMA)
    if known:
        spark_labels = session.createDataFrame(pa.Table.from_pandas(labels))
    answers = (
        windows.customer_features(spark_rows, [DAY]).toPandas().set_index("customer_id"),
        windows.terminal_features(spark_rows, spark_labels, [DAY], 2).toPandas().set_index("terminal_id"),
    )
    for answer, expected, key, days in zip(
        answers,
        brute_force(transactions, labels, AS_OF, 2),
        ("customer_id", "terminal_id"),
        (longest_window("customer", 2), longest_window("terminal", 2)),
        strict=True,
    ):
        active = check.active_keys(transactions, key.removesuffix("_id"), AS_OF, days)  # type: ignore[arg-type]
        assert set(answer.index) == active
        for entity in active:
            for name, value in expected[entity].items():
                assert answer.loc[entity, name] == pytest.approx(value, nan_ok=True), name


@pytest.mark.skipif(not HANDBOOK.exists(), reason="the handbook data set is not beside the project")
@pytest.mark.usefixtures("generated_code")
def test_thirty_days_of_the_public_data_agree_with_sql(spark_home: Settings) -> None:
    day = date(2018, 5, 5)
    public = spark_home.model_copy(update={"contract": "handbook"})
    lake = lake_of(public)
    files = [HANDBOOK / f"{date(2018, 4, 1) + timedelta(days=n)}.parquet" for n in range(35)]
    for file in files:
        rows = duckdb.sql(
            f"select '{file.stem}'::date as day, TRANSACTION_ID::bigint as transaction_id, "  # noqa: S608
            "TX_DATETIME at time zone 'UTC' as event_time, CUSTOMER_ID::bigint as customer_id, "
            "TERMINAL_ID::bigint as terminal_id, round(TX_AMOUNT * 100)::bigint as amount_minor, "
            f"('{file.stem}'::timestamp + interval 1 day) at time zone 'UTC' as available_at, "
            f"'{file.stem}'::date as file_day "
            f"from '{file}'"
        ).to_arrow_table()
        for name in ("event_time", "available_at"):
            moments = rows[name].cast(TRANSACTIONS.schema.field(name).type)
            rows = rows.set_column(rows.column_names.index(name), name, moments)
        lake.replace(TRANSACTIONS, rows, file.stem)
    customers, _ = built(public, day)
    check.run(check.Params(day=day), public)
    expected = duckdb.sql(
        "select CUSTOMER_ID as customer_id, count(*)::double as count, avg(TX_AMOUNT) as mean "  # noqa: S608
        f"from read_parquet({[str(file) for file in files]}) "
        "where TX_DATETIME >= '2018-04-06' and TX_DATETIME < '2018-05-06' group by 1"
    ).df()
    expected = expected.set_index("customer_id")
    assert len(customers) == len(expected) > 4_000
    ours = customers.loc[expected.index]
    assert np.array_equal(ours["customer_count_30d"], expected["count"])
    assert np.allclose(ours["customer_amount_mean_30d"], expected["mean"], rtol=1e-9)


def good_rows() -> pd.DataFrame:
    """Two terminals: one with a transaction four days ago, one with four of which the last was yesterday."""
    ages = ([4], [1, 21, 22, 23])
    columns: dict[str, list[float]] = {"terminal_id": [1, 2]}
    for feature in stored_features("terminal"):
        amounts = [[5.0 for age in each if age <= feature.days] for each in ages]
        columns[feature.name] = (
            [0.0, 1.0] if feature.measure == "risk" else [by_hand(feature, found) for found in amounts]
        )
    return pd.DataFrame(columns)


def failed(features: pd.DataFrame, active: set[int]) -> set[str]:
    checks = check.checks_of(features, "terminal", active, 0.05)
    return {found.name for found in checks if found.outcome == "fail"}


def test_each_check_has_rows_that_break_it() -> None:
    good = good_rows()
    assert failed(good, {1, 2}) == set()
    assert failed(good, {1, 2, 3}) == {"terminal rows missing"}
    assert failed(good, {1}) == {"terminal rows of nobody active"}
    assert failed(pd.concat([good, good]), {1, 2}) == {"terminal keys repeated"}
    assert failed(good.iloc[:0], set()) == {"terminal rows", "terminal share of null means"}
    too_high = good.assign(terminal_risk_7d=[0.0, 1.1])
    assert failed(too_high, {1, 2}) == {"terminal_risk_7d out of range"}
    assert failed(good.assign(terminal_risk_7d=[0.0, None]), {1, 2}) == {"terminal_risk_7d nulls"}
    assert failed(good.assign(terminal_count_1d=[1.0, 2.0]), {1, 2}) == {
        "terminal counts that shrink in a longer window",
        "terminal_amount_mean_1d not null where the window is empty",
        "terminal_amount_deviation_1d not null where the window holds fewer than two",
    }
    unspread = good.assign(terminal_amount_deviation_30d=[0.0, 0.0])
    assert failed(unspread, {1, 2}) == {
        "terminal_amount_deviation_30d not null where the window holds fewer than two"
    }


def velocity_day() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Transactions of two days, and the velocity features of the second as brute force has them."""
    transactions = transaction_rows(
        (1, "2026-02-27 23:00:00", 1, 10, 4_00),
        (2, "2026-02-28 10:00:00", 1, 10, 6_00),
        (3, "2026-02-28 10:04:00", 1, 11, 1_00),
        (4, "2026-02-28 23:00:00.000001", 2, 10, 1_00),
    ).to_pandas()
    features = pd.DataFrame.from_dict(brute_force_velocity(transactions), orient="index").loc[2:]
    return features.rename_axis("transaction_id").reset_index(), transactions


def failed_velocity(features: pd.DataFrame, transactions: pd.DataFrame) -> set[str]:
    return {
        each.name for each in check.velocity_checks(features, transactions, DAY) if each.outcome == "fail"
    }


def test_each_check_of_velocity_has_rows_that_break_it() -> None:
    good, transactions = velocity_day()
    assert failed_velocity(good, transactions) == set()
    assert failed_velocity(good.iloc[1:], transactions) == {
        "velocity rows missing",
        "customer_count_24h other than counted here",
        "terminal_count_24h other than counted here",
    }
    assert failed_velocity(good.assign(transaction_id=[2, 3, 5]), transactions) >= {
        "velocity rows of nobody active"
    }
    assert failed_velocity(good.assign(terminal_count_24h=[1.0, 0.0, 2.0]), transactions) == {
        "terminal_count_24h other than counted here",
        "terminal_amount_deviation_24h not null where the window holds fewer than two",
    }
    too_long = good.assign(customer_seconds_since_last_30d=[39_600.0, 240.0, 2_592_001.0])
    assert failed_velocity(too_long, transactions) == {"customer_seconds_since_last_30d out of range"}
    unknown = good.assign(terminal_seconds_since_last_24h=[None, math.nan, math.nan])
    assert failed_velocity(unknown, transactions) == {
        "terminal_seconds_since_last_24h not null where the window is empty"
    }
    of_nothing = good.assign(customer_seconds_since_last_30d=[39_600.0, 240.0, 7.0])
    unlike_newest = "customer_seconds_since_last_30d other than customer_seconds_before_1 says"
    assert failed_velocity(of_nothing, transactions) == {unlike_newest}
    assert failed_velocity(good.assign(pair_is_new_30d=[0.0, 1.0, None]), transactions) == {
        "pair_is_new_30d nulls"
    }
    half = good.assign(customer_amount_before_2=[1.0, 4.0, None])
    assert failed_velocity(half, transactions) == {
        "customer transactions before with a time or an amount alone"
    }
    # of the second event a day: 240 seconds, and 39,840 before that
    swapped = good.assign(
        customer_seconds_before_1=good["customer_seconds_before_2"].fillna(good["customer_seconds_before_1"]),
        customer_seconds_before_2=[math.nan, 240.0, math.nan],
    )
    assert failed_velocity(swapped, transactions) == {
        "customer transactions before out of order",
        unlike_newest,
    }
    older = good.assign(customer_seconds_before_1=[86_400.5, 240.0, math.nan])
    assert failed_velocity(older, transactions) == {
        "customer transactions before other than customer_count_24h says",
        unlike_newest,
    }
    oldest = good.assign(customer_seconds_before_2=[math.nan, 2_592_000.5, math.nan])
    assert failed_velocity(oldest, transactions) == {
        "customer_seconds_before_2 out of range",
        "customer transactions before other than customer_count_24h says",
    }


def test_the_gate_closes_and_keeps_its_evidence(home: Settings) -> None:
    put(home, transaction_rows((1, "2026-02-28 10:00:00", 1, 10, 1_00)))
    with pytest.raises(GateClosed, match="customer rows missing"):
        check.run(check.Params(day=DAY), home)
    evidence = json.loads((home.work / "features" / str(DAY) / "checks.json").read_text())
    assert evidence["outcome"] == "fail"
