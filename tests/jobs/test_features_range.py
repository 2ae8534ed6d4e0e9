"""Features of a range of days in one job, and rows that come late: the same tables as day by day."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from pydantic import ValidationError

from jobs.conf.settings import Settings
from jobs.core import SluiceError, midnight
from jobs.features import build, check
from jobs.features.inputs import snapshot
from jobs.features.tables import BUILT_TABLES, CUSTOMER_FEATURES, TERMINAL_FEATURES, TRANSACTION_VELOCITY
from jobs.lake.store import lake_of
from jobs.lake.tables import LABELS, TRANSACTIONS
from tests.features_data import DAY, deliver, label_rows, put, transaction_rows

pytest_plugins = ("tests.spark_server",)
FIRST = DAY - timedelta(days=9)
DAYS = [FIRST + timedelta(days=number) for number in range(40)]


def at(number: int, text: str = "10:00:00") -> str:
    """A moment of the day with a number, the first one being 0."""
    return f"{FIRST + timedelta(days=number)} {text}"


def file_of(number: int) -> pa.Table:
    """What the file of a day brings: two rows of its own, and now and then one that is late by two days."""
    own = transaction_rows(
        (100 + number, at(number), 1 + number % 3, 10 + number % 2, 1_00 * (number + 1)),
        (200 + number, at(number, "00:00:00"), 1 + number % 2, 12, 77_7 + number),
    )
    if number % 3 != 2:
        return own
    late = (300 + number, at(number - 2, "23:59:59.999999"), 5, 10, 9_99)
    return pa.concat_tables([own, transaction_rows(late, file_day=DAYS[number])])


def labels_of(number: int) -> pa.Table:
    """Chargebacks that become known on a day: a fraud of three days before, and a word taken back."""
    rows = []
    if number >= 3:
        rows.append((100 + number - 3, at(number, "08:00:00"), 1))
    if number >= 5 and number % 2:
        rows.append((100 + number - 5, at(number, "09:00:00"), 0))
    return label_rows(*rows)


def publish(home: Settings, number: int) -> None:
    deliver(home, file_of(number))
    put(home, TRANSACTIONS.schema.empty_table(), labels_of(number))


def built(home: Settings, first: date, last: date | None = None) -> list[date]:
    receipt = build.run(build.Params(day=first, last=last), home)
    return [date.fromisoformat(text) for text in receipt.facts["days"]]


def tables(home: Settings) -> dict[str, pd.DataFrame]:
    lake = lake_of(home)
    return {
        table.name: lake.read(table).to_pandas().sort_values(list(table.key)).reset_index(drop=True)
        for table in BUILT_TABLES
    }


def assert_same(found: dict[str, pd.DataFrame], expected: dict[str, pd.DataFrame]) -> None:
    for name, rows in expected.items():
        pd.testing.assert_frame_equal(found[name], rows, check_exact=True)


def versions(home: Settings) -> list[int]:
    return [lake_of(home).version(table) for table in BUILT_TABLES]


def late_of(number: int) -> list[date]:
    """The day before its own to which the file of a day adds a row, where its features are there already."""
    return [DAYS[number - 2]] if number % 3 == 2 else []


def test_forty_days_one_by_one_are_forty_days_as_a_range(spark_home: Settings, tmp_path: Path) -> None:
    range_home = spark_home.model_copy(update={"home": tmp_path / "range"})
    for number, day in enumerate(DAYS):  # each built before anything of the next day is there
        publish(spark_home, number)
        assert set(built(spark_home, day)) >= {*late_of(number), day}
        publish(range_home, number)
    one_by_one = tables(spark_home)
    assert one_by_one[TERMINAL_FEATURES.name]["terminal_risk_7d"].nunique() > 3
    assert set(one_by_one[CUSTOMER_FEATURES.name]["day"]) == set(DAYS)
    late = sum(len(late_of(number)) for number in range(len(DAYS)))
    assert len(one_by_one[TRANSACTION_VELOCITY.name]) == 2 * len(DAYS) + late

    assert built(range_home, DAYS[0], DAYS[-1]) == DAYS
    assert versions(range_home) == [1, 1, 1], "one commit per table, after the one that makes it"
    assert_same(tables(range_home), one_by_one)
    named = ",".join(map(str, DAYS))
    assert check.run(check.Params(day=DAYS[0], days=named), range_home).facts["days"] == len(DAYS)


def test_parts_of_a_range_in_any_order_are_the_range(spark_home: Settings, tmp_path: Path) -> None:
    parts_home = spark_home.model_copy(update={"home": tmp_path / "parts"})
    for number in range(10):
        publish(spark_home, number)
        publish(parts_home, number)
    built(spark_home, DAYS[0], DAYS[9])
    built(parts_home, DAYS[6], DAYS[9])
    built(parts_home, DAYS[3])
    built(parts_home, DAYS[0], DAYS[5])
    assert_same(tables(parts_home), tables(spark_home))
    before = versions(parts_home)
    assert built(parts_home, DAYS[4]) == [DAYS[4]], "the records of a range are those of its days"
    assert versions(parts_home) == [version + 1 for version in before]


def test_what_spark_writes_itself_is_what_comes_back_to_the_job(
    spark_home: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = spark_home.model_copy(update={"home": tmp_path / "large"})
    for number in range(6):
        publish(spark_home, number)
        publish(large, number)
    receipt = build.run(build.Params(day=DAYS[0], last=DAYS[4]), spark_home)
    again = build.run(build.Params(day=DAYS[5]), spark_home)
    monkeypatch.setattr(build, "RETURNED_ROWS", 0)
    assert build.run(build.Params(day=DAYS[0], last=DAYS[4]), large).digest == receipt.digest
    assert build.run(build.Params(day=DAYS[5]), large).digest == again.digest
    assert_same(tables(large), tables(spark_home))


@pytest.mark.parametrize("returned", [2_000_000, 0], ids=["written by the job", "written by Spark"])
def test_a_feature_that_is_no_longer_declared_stays_in_older_days_and_is_null_in_what_is_built(
    spark_home: Settings, monkeypatch: pytest.MonkeyPatch, returned: int
) -> None:
    monkeypatch.setattr(build, "RETURNED_ROWS", returned)
    publish(spark_home, 0)
    publish(spark_home, 1)
    more = pa.field("customer_count_14d", pa.float64())
    older = replace(CUSTOMER_FEATURES, schema=CUSTOMER_FEATURES.schema.append(more))
    names = [name for name in older.schema.names if name not in ("day", "customer_id", "as_of")]
    out_of_reach = DAYS[0] - timedelta(days=60)
    row = {"day": out_of_reach, "customer_id": 1, "as_of": midnight(DAYS[1])} | dict.fromkeys(names, 3.0)
    lake = lake_of(spark_home)
    lake.replace(older, pa.Table.from_pylist([row], schema=older.schema), out_of_reach)
    build.run(build.Params(day=DAYS[1]), spark_home)
    check.run(check.Params(day=DAYS[1]), spark_home)
    assert lake.read(CUSTOMER_FEATURES, first=DAYS[1]).column_names == CUSTOMER_FEATURES.schema.names
    rows = lake.delta(CUSTOMER_FEATURES).to_pyarrow_table(columns=["day", "customer_count_14d"]).to_pylist()
    assert {found["customer_count_14d"] for found in rows if found["day"] == out_of_reach} == {3.0}
    assert {found["customer_count_14d"] for found in rows if found["day"] == DAYS[1]} == {None}


def test_a_late_row_reaches_the_day_of_its_file_and_later_ones_in_one_job(spark_home: Settings) -> None:
    for number in range(4):
        deliver(spark_home, file_of(number))
    built(spark_home, DAYS[0], DAYS[3])
    before, known = versions(spark_home), tables(spark_home)[CUSTOMER_FEATURES.name]
    # comes in the file of day 2, and belongs to day 1
    deliver(spark_home, transaction_rows((900, at(1), 77, 10, 5_00), file_day=DAYS[2]))
    assert built(spark_home, DAYS[2]) == [DAYS[1], DAYS[2], DAYS[3]]
    assert versions(spark_home) == [version + 1 for version in before]
    found = tables(spark_home)[CUSTOMER_FEATURES.name]
    assert found.loc[found["customer_id"] == 77, "day"].tolist() == [DAYS[2], DAYS[3]]
    assert found.loc[found["customer_id"] == 77, "customer_count_1d"].tolist() == [0.0, 0.0]
    early = [rows[rows["day"] < DAYS[2]].reset_index(drop=True) for rows in (found, known)]
    pd.testing.assert_frame_equal(*early, check_exact=True)
    events = tables(spark_home)[TRANSACTION_VELOCITY.name].set_index("transaction_id")
    assert events.loc[900, "terminal_count_24h"] == 1.0  # itself in nobody's window, and with one of its own
    assert events.loc[900, "day"] == DAYS[1]


def test_a_row_that_was_available_in_time_reaches_the_days_before_its_file(spark_home: Settings) -> None:
    for number in range(3):
        deliver(spark_home, file_of(number))
    built(spark_home, DAYS[0], DAYS[2])
    row = transaction_rows((900, at(1), 77, 10, 5_00), file_day=DAYS[1])  # available when day 1 ends
    place = row.schema.get_field_index("file_day")
    deliver(spark_home, row.set_column(place, "file_day", pa.array([DAYS[2]])))
    assert built(spark_home, DAYS[2]) == [DAYS[1], DAYS[2]]
    found = tables(spark_home)[CUSTOMER_FEATURES.name]
    assert found.loc[found["customer_id"] == 77, "day"].tolist() == [DAYS[1], DAYS[2]]


def test_a_day_is_built_from_the_rows_available_at_its_end_and_all_of_its_own(home: Settings) -> None:
    deliver(home, file_of(0))
    deliver(home, file_of(1))
    before = snapshot(lake_of(home), DAYS[0], DAYS[1], 2)
    deliver(home, file_of(2))  # brings a late row of day 0
    put(home, TRANSACTIONS.schema.empty_table(), label_rows((100, at(2, "00:00:00"), 1)))
    after = snapshot(lake_of(home), DAYS[0], DAYS[2], 2)
    digests = {
        day: [found.inputs(day).digests[TRANSACTIONS.name] for found in (before, after)] for day in DAYS[:2]
    }
    assert digests[DAYS[1]][0] == digests[DAYS[1]][1]
    assert digests[DAYS[0]][1][DAYS[0]].startswith(f"{digests[DAYS[0]][0][DAYS[0]]}+")
    assert [after.inputs(day).digests[LABELS.name] for day in DAYS[:2]] == [{}, {}]
    assert after.inputs(DAYS[2]).digests[TRANSACTIONS.name][DAYS[0]].count("+") == 1
    assert list(after.inputs(DAYS[2]).digests[LABELS.name]) == [DAYS[2]]


def test_each_day_of_a_range_is_checked_beside_the_transactions_in_its_reach_alone(home: Settings) -> None:
    deliver(home, file_of(0))
    deliver(home, file_of(39))
    built_from = {TRANSACTIONS.name: lake_of(home).version(TRANSACTIONS)}
    of_days = {DAYS[0]: built_from, DAYS[39]: built_from}
    found = {day: set(rows["day"]) for day, rows in check.with_transactions(of_days, lake_of(home), home)}
    assert found == {DAYS[0]: {DAYS[0]}, DAYS[39]: {DAYS[39]}}


def test_days_of_a_range_without_their_file_are_named(home: Settings) -> None:
    deliver(home, file_of(0))
    deliver(home, file_of(2))
    deliver(home, transaction_rows((900, at(1), 1, 10, 5_00), file_day=DAYS[2]))  # a late row is not the day
    with pytest.raises(SluiceError, match=f"no file of {DAYS[1]}, {DAYS[3]}; run .*--day {DAYS[1]}"):
        build.run(build.Params(day=DAYS[0], last=DAYS[3]), home)


def test_a_range_ends_where_it_begins_or_later() -> None:
    assert build.Params(day=DAYS[0], last=DAYS[0]).last == DAYS[0]
    with pytest.raises(ValidationError, match=f"last is {DAYS[0]}, before the day {DAYS[1]}"):
        build.Params(day=DAYS[1], last=DAYS[0])
