"""Every rule of every suite with the day that breaks it, late rows, and what the evidence says."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from jobs.alerts import FILE as ALERTS
from jobs.conf.contract import contract_of
from jobs.conf.policy import policy_of
from jobs.conf.settings import Settings
from jobs.core import GateClosed
from jobs.lake.store import content_digest, lake_of
from jobs.lake.tables import TRANSACTIONS
from jobs.quality.feeds import labels_feed, transactions_feed
from jobs.quality.figures import Sample, distribution_figures, shift, spans
from jobs.quality.suites import labels_rules, rules_of, transactions_rules
from jobs.quality.validate import contract_digest
from tests.data_support import (
    DAY,
    good_row,
    good_rows,
    ingest_day,
    label_day,
    put_labels,
    put_transactions,
    run_named,
)

MANY = 300
LABELS = 40
BAD = 30  # of 300: above every share that a rule about rows allows


def day_with(*bad: str) -> list[str]:
    """A day of good rows of which 30 are replaced by bad ones; # stands for an id of its own."""
    lines = [line.replace("#", str(10_000 + number)) for number in range(BAD) for line in bad]
    return [*good_rows(MANY - BAD), *lines]


def transactions_of_other_days(home: Settings, days: int = 28, rows: int = 200, amount: int = 0) -> None:
    """Publish days before the day: 200 rows each at 20 o'clock, of 1 to 200 euros or of one amount."""
    lake = lake_of(home)
    for age in range(1, days + 1):
        day = DAY - timedelta(days=age)
        ids = np.arange(rows) + 1_000_000 * age
        table = pa.table(
            {
                "day": pa.array([day] * rows, pa.date32()),
                "transaction_id": ids,
                "event_time": pa.array([datetime(day.year, day.month, day.day, 20, tzinfo=UTC)] * rows),
                "customer_id": ids % 7,
                "terminal_id": ids % 3,
                "amount_minor": np.full(rows, amount) if amount else (np.arange(rows) % 200 + 1) * 100,
                "available_at": pa.array([datetime(2026, 1, 1, tzinfo=UTC)] * rows),
                "file_day": pa.array([day] * rows, pa.date32()),
            }
        )
        lake.replace(TRANSACTIONS, table, day)


def weeks_of(rows: int) -> Callable[[Settings], None]:
    """The same weekday of the two weeks before, landed with so many rows."""

    def prepare(home: Settings) -> None:
        for weeks in (1, 2):
            day = DAY - timedelta(weeks=weeks)
            put_transactions(home, good_rows(rows, day), day)
            run_named("land_transactions", home, day)

    return prepare


def nothing(home: Settings) -> None:
    """No history."""


def late_rows_brought(home: Settings) -> None:
    """The next day's file has brought some of the day's rows, which came late."""
    put_transactions(home, [*good_rows(MANY, NEXT, first=1_000), *good_rows(BAD)], NEXT)
    ingest_day(home, NEXT)


def priced(euros: Callable[[int], float], hour: int = 20) -> list[str]:
    """300 rows with an amount each."""
    return [
        f"{number},{DAY}T{hour}:00:{number % 60:02d}Z,4,3,{euros(number):.2f}"
        for number in range(1, MANY + 1)
    ]


ROW = f"#,{DAY}T20:00:00Z,4,3,1.00"
# rule -> the history it needs, the day that breaks it, whether it closes the gate
TRANSACTION_DAYS: dict[str, tuple[Callable[[Settings], None], list[str], bool]] = {
    "row: wrong number of fields": (nothing, day_with("x"), True),
    "transaction_id: missing": (nothing, day_with(ROW.replace("#", "")), True),
    "transaction_id: not a whole number": (nothing, day_with(ROW.replace("#", "#x")), True),
    "transaction_id: bounds": (nothing, day_with(ROW.replace("#", "-#")), True),
    "event_time: missing": (nothing, day_with("#,,4,3,1.00"), True),
    "event_time: not a timestamp": (nothing, day_with("#,soon,4,3,1.00"), True),
    "event_time: outside the day": (nothing, day_with("#,2026-01-06T00:00:00Z,4,3,1.00"), True),
    "customer_id: missing": (nothing, day_with(ROW.replace(",4,", ",,")), True),
    "customer_id: not a whole number": (nothing, day_with(ROW.replace(",4,", ",4.5,")), True),
    "customer_id: bounds": (nothing, day_with(ROW.replace(",4,", ",0,")), True),
    "terminal_id: missing": (nothing, day_with(ROW.replace(",3,", ", ,")), True),
    "terminal_id: not a whole number": (nothing, day_with(ROW.replace(",3,", ",three,")), True),
    "terminal_id: bounds": (nothing, day_with(ROW.replace(",3,", ",-3,")), True),
    "amount_minor: missing": (nothing, day_with(ROW.replace("1.00", "")), True),
    "amount_minor: not money": (nothing, day_with(ROW.replace("1.00", "1.005")), True),
    "amount_minor: bounds": (nothing, day_with(ROW.replace("1.00", "20000.01")), True),
    "duplicate": (nothing, [*good_rows(MANY - BAD), *[good_row(1)] * BAD], True),
    "brought late already": (late_rows_brought, good_rows(MANY), False),
    "volume": (weeks_of(MANY + 100), good_rows(MANY), False),
    "volume: collapsed": (weeks_of(2 * MANY + 10), good_rows(MANY), True),
    "freshness": (nothing, [line.replace("T20:", "T17:") for line in good_rows(MANY)], True),
    "distribution of amount_minor: shifted": (
        transactions_of_other_days, priced(lambda number: number % 200 + 1 if number % 4 else 5), False,
    ),
    "distribution of amount_minor: another one": (
        transactions_of_other_days, priced(lambda number: (number % 200 + 1) * 100), True,
    ),
    "distribution of hour: shifted": (
        transactions_of_other_days,
        [line.replace("T20:", "T22:") if number % 22 == 0 else line
         for number, line in enumerate(priced(lambda number: number % 200 + 1))], False,
    ),
    "distribution of hour: another one": (
        transactions_of_other_days, priced(lambda number: number % 200 + 1, hour=23), True,
    ),
}  # fmt: skip
NEXT = DAY + timedelta(days=1)
LABEL = f"#,{NEXT}T09:00:00Z,1"
LABEL_DAYS: dict[str, tuple[list[str], bool]] = {
    "row: wrong number of fields": ([LABEL + ",x"], True),
    "transaction_id: missing": ([LABEL.replace("#", "")], True),
    "transaction_id: not a whole number": ([LABEL.replace("#", "#x")], True),
    "transaction_id: bounds": ([LABEL.replace("#", "-#")], True),
    "is_fraud: missing": ([LABEL[:-1]], True),
    "is_fraud: not a whole number": ([LABEL[:-1] + "yes"], True),
    "is_fraud: bounds": ([LABEL[:-1] + "2"], True),
    "reported_at: missing": (["#,,1"], True),
    "reported_at: not a timestamp": (["#,soon,1"], True),
    "reported_at: outside the day": ([LABEL.replace(str(NEXT), str(DAY))], True),
    "duplicate": ([LABEL.replace("#", "1")], True),
    "unknown transaction": ([LABEL] * 2, False),
    "unknown transaction: most of them": ([LABEL] * (LABELS + 20), True),
}


def says(home: Settings, feed: str, day: date, rule: str, *, closes: bool) -> None:
    """The rule's verdict stands in the evidence, and closes the gate or alerts."""
    run_named(f"land_{feed}", home, day)
    if closes:
        with pytest.raises(GateClosed) as caught:
            run_named(f"validate_{feed}", home, day)
        failed = {check.name for check in caught.value.verdict.checks if check.outcome.value == "fail"}
        assert rule in failed
        return
    facts = run_named(f"validate_{feed}", home, day).facts
    assert any(alert.startswith(f"{rule}: ") for alert in facts["alerts"])


@pytest.mark.parametrize("rule", TRANSACTION_DAYS)
def test_each_rule_about_transactions_has_a_day_that_breaks_it(home: Settings, rule: str) -> None:
    prepare, rows, closes = TRANSACTION_DAYS[rule]
    prepare(home)
    put_transactions(home, rows)
    says(home, "transactions", DAY, rule, closes=closes)


@pytest.mark.parametrize("rule", LABEL_DAYS)
def test_each_rule_about_chargebacks_has_a_day_that_breaks_it(home: Settings, rule: str) -> None:
    transactions_of_other_days(home, days=12, amount=1250)
    put_transactions(home, good_rows(LABELS))
    ingest_day(home)
    rows, closes = LABEL_DAYS[rule]
    known = [LABEL.replace("#", str(number)) for number in range(1, LABELS + 1)]
    unknown = [row.replace("#", str(900_000 + number)) for number, row in enumerate(rows * 3)]
    put_labels(home, [*known, *unknown], NEXT)
    says(home, "labels", NEXT, rule, closes=closes)


def test_the_tables_name_every_rule_of_every_suite(home: Settings) -> None:
    contract, quality = contract_of(home), policy_of(home).quality
    hours = contract.transactions.newest_event_hours
    transactions = (*rules_of(transactions_feed(contract), quality), *transactions_rules(quality, hours))
    labels = (*rules_of(labels_feed(contract), quality), *labels_rules(quality))
    assert {rule.name for rule in transactions} == set(TRANSACTION_DAYS)
    assert {rule.name for rule in labels} == set(LABEL_DAYS)


def test_a_first_day_passes_and_says_what_it_could_not_judge(home: Settings) -> None:
    put_transactions(home, good_rows(MANY))
    run_named("land_transactions", home)
    facts = run_named("validate_transactions", home).facts
    assert facts["unknown"] == ["amount_minor_psi", "hour_psi", "known_volume_share"]


def test_with_history_a_day_like_the_others_passes_without_an_alert(home: Settings) -> None:
    transactions_of_other_days(home)
    weeks_of(MANY)(home)
    put_transactions(home, priced(lambda number: number % 200 + 1))
    run_named("land_transactions", home)
    facts = run_named("validate_transactions", home).facts
    assert (facts["unknown"], facts["alerts"]) == ([], [])


def test_with_history_a_file_without_usable_values_has_another_distribution(home: Settings) -> None:
    policy, empty, usual = policy_of(home), np.empty(0), np.arange(1000.0)
    figures = distribution_figures(
        Sample(empty, empty), Sample(usual, usual), 28, policy.quality, policy.drift
    )
    assert all(
        value is not None and value > policy.quality.distribution_psi_fail for value in figures.values()
    )


def test_chance_alone_is_no_shift(home: Settings) -> None:
    drift, random = policy_of(home).drift, np.random.default_rng(3)
    reference = random.normal(size=50_000)
    for rows in (25, 200, 2_000):
        found = [shift(reference, random.normal(size=rows), drift) for _ in range(40)]
        assert sum(value > 0 for value in found) <= 2
    assert shift(reference, random.normal(1.0, 1.0, size=2_000), drift) > 0.5


def test_published_rows_are_read_a_few_days_at_a_time() -> None:
    pieces = list(spans(date(2026, 1, 1), date(2026, 1, 10), 1_000_000))
    assert pieces[0] == (date(2026, 1, 1), date(2026, 1, 2))
    assert pieces[-1][1] == date(2026, 1, 10)
    assert len(list(spans(date(2026, 1, 1), date(2026, 1, 10), 2_500))) == 2


def test_most_chargebacks_unknown_while_a_day_is_missing_alerts_only(home: Settings) -> None:
    put_transactions(home, good_rows(LABELS))
    ingest_day(home)
    put_labels(home, [f"{900_000 + n},{NEXT}T09:00:00Z,1" for n in range(LABELS)], NEXT)
    assert label_day(home, NEXT)["validate_labels"].facts["unknown"] == ["judged_unknown_share"]


def test_late_rows_of_a_day_that_is_missing_do_not_make_it_whole(home: Settings) -> None:
    transactions_of_other_days(home, days=12, amount=1250)
    empty = TRANSACTIONS.schema.empty_table()
    lake_of(home).replace(TRANSACTIONS, empty, EVE)  # the day that the chargebacks are about
    late_file(home, good_row(6_000, EVE))
    ingest_day(home)
    put_labels(home, [f"{900_000 + n},{NEXT}T09:00:00Z,1" for n in range(LABELS)], NEXT)
    assert label_day(home, NEXT)["validate_labels"].facts["unknown"] == ["judged_unknown_share"]


def test_the_evidence_names_the_contract_it_was_judged_by(home: Settings) -> None:
    put_transactions(home, good_rows(MANY))
    run_named("land_transactions", home)
    run_named("validate_transactions", home)
    evidence = json.loads((home.work / "transactions" / str(DAY) / "validation.json").read_text())
    assert evidence["contract_digest"] == contract_digest(contract_of(home))


# late rows

EVE = DAY - timedelta(days=1)


def late_file(home: Settings, *late: str) -> None:
    put_transactions(home, [*good_rows(MANY), *late])


def test_a_late_row_is_published_on_its_own_day_as_known_from_its_files_delivery(home: Settings) -> None:
    put_transactions(home, [good_row(5_000, EVE)], EVE)
    ingest_day(home, EVE)
    late_file(home, good_row(6_000, EVE))
    receipts = ingest_day(home)
    assert receipts["publish_transactions"].facts["days"] == [str(EVE), str(DAY)]
    rows = lake_of(home).read(TRANSACTIONS, first=EVE, last=EVE).sort_by("transaction_id").to_pylist()
    assert [(row["transaction_id"], row["file_day"], row["available_at"]) for row in rows] == [
        (5_000, EVE, datetime(2026, 1, 5, tzinfo=UTC)),
        (6_000, DAY, datetime(2026, 1, 6, tzinfo=UTC)),
    ]


def test_running_either_file_again_keeps_the_other_ones_rows(home: Settings) -> None:
    put_transactions(home, [good_row(5_000, EVE)], EVE)
    ingest_day(home, EVE)
    late_file(home, good_row(6_000, EVE))
    ingest_day(home)
    before = content_digest(lake_of(home).read(TRANSACTIONS))
    for day in (EVE, DAY):
        ingest_day(home, day)
        assert content_digest(lake_of(home).read(TRANSACTIONS)) == before


def test_a_repaired_file_without_its_late_row_takes_it_back_and_names_the_day(home: Settings) -> None:
    late_file(home, good_row(6_000, EVE))
    ingest_day(home)
    late_file(home)
    receipts = ingest_day(home)
    assert receipts["publish_transactions"].facts["days"] == [str(EVE), str(DAY)]
    assert len(lake_of(home).read(TRANSACTIONS, last=EVE)) == 0


def test_a_row_older_than_the_late_days_is_quarantined(home: Settings) -> None:
    late_file(home, good_row(6_000, DAY - timedelta(days=4)))
    receipts = ingest_day(home)
    assert receipts["validate_transactions"].facts["broken_by_rule"] == {"event_time: outside the day": 1}


def test_a_late_row_that_its_own_days_file_has_brought_is_a_duplicate(home: Settings) -> None:
    put_transactions(home, [good_row(5_000, EVE)], EVE)
    ingest_day(home, EVE)
    late_file(home, good_row(5_000, EVE))
    receipts = ingest_day(home)
    assert receipts["validate_transactions"].facts["broken_by_rule"] == {"duplicate": 1}


@pytest.mark.parametrize("brought", [BAD, MANY])
def test_a_repaired_day_passes_however_many_of_its_rows_a_later_file_has_brought(
    home: Settings, brought: int
) -> None:
    transactions_of_other_days(home, amount=1250)
    put_transactions(home, [*good_rows(MANY, NEXT, first=1_000), *good_rows(brought)], NEXT)
    ingest_day(home, NEXT)
    put_transactions(home, good_rows(MANY))
    receipts = ingest_day(home)
    facts = receipts["validate_transactions"].facts
    assert facts["broken_by_rule"] == {"brought late already": brought}
    assert facts["quality_score"] == 1.0
    rows = lake_of(home).read(TRANSACTIONS, first=DAY, last=DAY)
    assert sorted(rows["transaction_id"].to_pylist()) == list(range(1, MANY + 1))
    before = content_digest(lake_of(home).read(TRANSACTIONS))
    for day in (NEXT, DAY):
        ingest_day(home, day)
        assert content_digest(lake_of(home).read(TRANSACTIONS)) == before


def test_a_late_row_of_a_repaired_day_that_a_later_file_has_brought_is_no_duplicate(home: Settings) -> None:
    after = NEXT + timedelta(days=1)
    late = good_rows(BAD, EVE, first=5_000)
    put_transactions(home, [*good_rows(MANY, after, first=1_000), *late], after)
    ingest_day(home, after)
    late_file(home, *late)
    receipts = ingest_day(home)
    assert receipts["validate_transactions"].facts["broken_by_rule"] == {"brought late already": BAD}


def test_rows_that_wait_in_quarantine_are_told_of_when_the_later_file_has_them_no_more(
    home: Settings,
) -> None:
    late_rows_brought(home)
    put_transactions(home, good_rows(MANY))
    ingest_day(home)
    put_transactions(home, good_rows(MANY, NEXT, first=1_000), NEXT)
    ingest_day(home, NEXT)
    alerts = [json.loads(line) for line in (home.home / ALERTS).read_text().splitlines()]
    assert alerts[-1]["key"] == f"{DAY}/transactions/brought late already/{NEXT}"
    assert f"FROM={DAY} TO={DAY}" in alerts[-1]["action"]
    ingest_day(home)
    rows = lake_of(home).read(TRANSACTIONS, first=DAY, last=DAY)
    assert sorted(rows["transaction_id"].to_pylist()) == list(range(1, MANY + 1))


def test_a_file_with_nothing_but_late_rows_is_not_fresh(home: Settings) -> None:
    put_transactions(home, good_rows(MANY, EVE))  # the day before, sent under the day's name
    says(home, "transactions", DAY, "freshness", closes=True)


def test_days_that_only_late_rows_are_about_are_no_history(home: Settings) -> None:
    for age in (3, 4, 5, 6):
        day = DAY - timedelta(days=age)
        late = [good_row(100_000 * age + back, day - timedelta(days=back)) for back in (1, 2, 3)]
        put_transactions(home, [*(good_row(10_000 * age + n, day) for n in range(MANY)), *late], day)
        ingest_day(home, day)
    put_transactions(home, good_rows(MANY))
    run_named("land_transactions", home)
    facts = run_named("validate_transactions", home).facts
    assert facts["unknown"] == ["amount_minor_psi", "hour_psi", "known_volume_share"]
