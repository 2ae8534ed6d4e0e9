"""Features of days that come late or again: later days follow, days with the same inputs are left alone."""

from __future__ import annotations

import threading
from datetime import date, timedelta

import pandas as pd
import pytest
from pydantic import ValidationError

from jobs.conf.settings import Settings, load_settings
from jobs.core import GateClosed
from jobs.features import build, check, materialize
from jobs.features.days import SeveralDays
from jobs.features.inputs import one_build, owed, read_record, settle
from jobs.features.online import OnlineFeatures
from jobs.features.tables import BUILT_TABLES, CUSTOMER_FEATURES
from jobs.lake.store import content_digest, lake_of
from tests.features_data import DAY, label_rows, put, transaction_rows

pytest_plugins = ("tests.spark_server",)
FIRST, LATE, LAST = (DAY - timedelta(days=2), DAY - timedelta(days=1), DAY)
TRANSACTIONS_OF = {
    FIRST: transaction_rows((1, f"{FIRST} 10:00:00", 1, 10, 10_00), (2, f"{FIRST} 11:00:00", 2, 11, 5_00)),
    LATE: transaction_rows((3, f"{LATE} 10:00:00", 1, 10, 30_00), (4, f"{LATE} 11:00:00", 3, 12, 7_00)),
    LAST: transaction_rows((5, f"{LAST} 10:00:00", 1, 11, 50_00)),
}
# the delay is 2 days: transaction 1 counts in the risks as of the end of LAST
LABELS = label_rows((1, f"{LATE} 08:00:00", 1))


def days_built(home: Settings, day: date) -> list[date]:
    receipt = build.run(build.Params(day=day), home)
    return [date.fromisoformat(text) for text in receipt.facts["days"]]


def first_and_last_built(home: Settings) -> None:
    for day in (FIRST, LAST):
        put(home, TRANSACTIONS_OF[day])
        days_built(home, day)


def served(home: Settings, day: date, days: list[date]) -> None:
    named = ",".join(map(str, days))
    check.run(check.Params(day=day, days=named), home)
    materialize.run(materialize.Params(day=day, days=named), home)


def tables(home: Settings) -> dict[str, pd.DataFrame]:
    """All feature tables whole, sorted by their keys."""
    lake = lake_of(home)
    return {
        table.name: lake.read(table).to_pandas().sort_values(list(table.key)).reset_index(drop=True)
        for table in BUILT_TABLES
    }


def version(home: Settings) -> int:
    return lake_of(home).version(CUSTOMER_FEATURES)


@pytest.fixture(scope="module")
def in_order(tmp_path_factory: pytest.TempPathFactory, spark_remote: str) -> dict[str, pd.DataFrame]:
    """The tables of an installation where everything came before the first build."""
    other = load_settings({"SLUICE_HOME": str(tmp_path_factory.mktemp("in_order"))})
    other = other.model_copy(update={"spark_remote": spark_remote})
    for rows in TRANSACTIONS_OF.values():
        put(other, rows, LABELS)
    for day in TRANSACTIONS_OF:
        assert days_built(other, day) == [day]
    return tables(other)


def assert_same(found: dict[str, pd.DataFrame], expected: dict[str, pd.DataFrame]) -> None:
    for name, rows in expected.items():
        pd.testing.assert_frame_equal(found[name], rows)


def test_a_late_day_leaves_what_a_build_in_order_leaves_and_again_nothing_is_rebuilt(
    spark_home: Settings, in_order: dict[str, pd.DataFrame]
) -> None:
    put(spark_home, TRANSACTIONS_OF[FIRST], LABELS)
    put(spark_home, TRANSACTIONS_OF[LAST])
    assert days_built(spark_home, FIRST) == [FIRST]
    assert days_built(spark_home, LAST) == [LAST]
    put(spark_home, TRANSACTIONS_OF[LATE])
    days = days_built(spark_home, LATE)
    assert days == [LATE, LAST]
    assert_same(tables(spark_home), in_order)
    served(spark_home, LATE, days)
    # customers 1, 2, 3, terminals 10 to 12 and one transaction
    assert check.run(check.Params(day=LAST), spark_home).rows == 7

    before = version(spark_home)
    put(spark_home, TRANSACTIONS_OF[LATE])  # new files, the same rows
    assert days_built(spark_home, LATE) == [LATE]
    assert version(spark_home) == before + 1


def test_labels_that_come_late_change_the_risks_of_later_days(
    spark_home: Settings, in_order: dict[str, pd.DataFrame]
) -> None:
    for rows in TRANSACTIONS_OF.values():
        put(spark_home, rows)
    for day in TRANSACTIONS_OF:
        days_built(spark_home, day)
    assert not tables(spark_home)["terminal_features"]["terminal_risk_7d"].any()
    put(spark_home, TRANSACTIONS_OF[LATE], LABELS)
    assert days_built(spark_home, LATE) == [LATE, LAST]
    found = tables(spark_home)
    assert found["terminal_features"]["terminal_risk_7d"].sum() == 1.0  # terminal 10 as of the end of LAST
    assert_same(found, in_order)


def test_a_day_that_a_failed_run_has_built_again_is_served_by_the_next_run(spark_home: Settings) -> None:
    first_and_last_built(spark_home)
    put(spark_home, TRANSACTIONS_OF[LATE])
    assert days_built(spark_home, LATE) == [LATE, LAST]
    before = version(spark_home)
    assert days_built(spark_home, LATE) == [LATE, LAST]  # the run before ended here: LAST is still owed
    assert version(spark_home) == before + 1  # and not built a third time
    served(spark_home, LATE, [LATE, LAST])
    assert owed(spark_home, LAST) == []
    assert days_built(spark_home, LATE) == [LATE]


def test_a_build_that_was_cut_off_counts_as_changed(
    spark_home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    first_and_last_built(spark_home)
    with monkeypatch.context() as patch:
        patch.setattr(build, "keep_record", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            build.run(build.Params(day=LAST), spark_home)
    assert read_record(spark_home, LAST) is None
    assert days_built(spark_home, FIRST) == [FIRST, LAST]


def test_a_check_holds_features_against_what_they_were_built_from(spark_home: Settings) -> None:
    put(spark_home, TRANSACTIONS_OF[LAST])
    days_built(spark_home, LAST)
    put(spark_home, TRANSACTIONS_OF[LATE])  # published between the build and its check
    check.run(check.Params(day=LAST), spark_home)
    with pytest.raises(GateClosed, match=f"features of {LATE}: fail: customer rows missing"):
        check.run(check.Params(day=LAST, days=f"{LAST},{LATE}"), spark_home)


def test_a_check_while_another_run_builds_the_day_again_judges_the_build_before(
    spark_home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    first_and_last_built(spark_home)
    put(spark_home, TRANSACTIONS_OF[LATE])  # customer 3 is new
    with monkeypatch.context() as patch:
        patch.setattr(build, "build_days", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            build.run(build.Params(day=LATE), spark_home)
    check.run(check.Params(day=LAST), spark_home)
    assert days_built(spark_home, LATE) == [LATE, LAST]


def test_a_day_that_was_built_again_after_its_check_is_left_to_the_run_that_built_it(
    spark_home: Settings,
) -> None:
    first_and_last_built(spark_home)
    check.run(check.Params(day=LAST), spark_home)
    put(spark_home, TRANSACTIONS_OF[LATE])  # customer 3 is new
    assert days_built(spark_home, LATE) == [LATE, LAST]
    facts = materialize.run(materialize.Params(day=LAST), spark_home).facts
    assert facts["left_to_the_run_that_builds_them"] == [str(LAST)]
    assert len(owed(spark_home, LAST)) > 0
    served(spark_home, LATE, [LATE, LAST])
    assert OnlineFeatures(spark_home).row("customer", 3)[1]["customer_count_7d"] == 1.0


def test_what_is_served_while_it_is_being_built_again_is_owed_afterwards(
    spark_home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    first_and_last_built(spark_home)
    check.run(check.Params(day=LAST), spark_home)
    put(spark_home, TRANSACTIONS_OF[LATE])
    with monkeypatch.context() as patch:
        # the other run listed what is owed just before the build was marked
        patch.setattr(build, "begin_record", lambda *_: settle(owed(spark_home, LAST)))
        assert days_built(spark_home, LATE) == [LATE, LAST]  # and this run ends here
    assert days_built(spark_home, LATE) == [LATE, LAST]


def test_one_build_waits_for_the_other(home: Settings) -> None:
    entered = threading.Event()

    def other() -> None:
        with one_build(home):
            entered.set()

    waiting = threading.Thread(target=other)
    with one_build(home):
        waiting.start()
        assert not entered.wait(0.2)
    waiting.join(timeout=5)
    assert entered.is_set()


def test_days_are_written_in_one_way_only() -> None:
    assert SeveralDays(day=DAY).ascending() == [DAY]
    assert SeveralDays(day=LATE, days=f"{LAST},{LATE}").ascending() == [LATE, LAST]
    for wrong, problem in (
        ("2026-02-28,", "no day as YYYY-MM-DD"),
        ("2026-02-28, 2026-03-01", "no day as YYYY-MM-DD"),
        ("20260228", "no day as YYYY-MM-DD"),
        ("2026-02-30", "no day as YYYY-MM-DD"),
        ("2026-02-28,2026-02-28", "names a day twice"),
        ("2026-03-01", "leaves out the day 2026-02-28"),
    ):
        with pytest.raises(ValidationError, match=problem):
            SeveralDays(day=DAY, days=wrong)


def test_the_digest_of_a_day_does_not_depend_on_the_order_of_its_rows() -> None:
    rows = TRANSACTIONS_OF[FIRST]
    assert content_digest(rows) == content_digest(rows.take([1, 0]))
