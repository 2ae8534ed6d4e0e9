"""The quality gate: each rule with the day that breaks it."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import jinja2
import pytest

from jobs.conf.contract import contract_of
from jobs.conf.policy import policy_of
from jobs.conf.settings import Settings
from jobs.core import GateClosed, Outcome, Receipt, SluiceError
from jobs.ingest.landing import landed_rows
from jobs.lake.store import lake_of
from jobs.lake.tables import LABELS, QUARANTINE, TRANSACTIONS
from jobs.quality.feeds import transactions_feed
from jobs.quality.figures import volume_figures
from jobs.quality.findings import Finding, SuiteRun
from jobs.quality.gate import judge
from jobs.quality.suites import rules_of
from jobs.quality.validate_transactions import same_weekdays
from tests.data_support import (
    DAY,
    HEADER,
    good_row,
    good_rows,
    ingest_day,
    label_day,
    put_labels,
    put_transactions,
    run_named,
)

NEXT = DAY + timedelta(days=1)


def validate(home: Settings, rows: list[str]) -> Receipt:
    put_transactions(home, rows)
    run_named("land_transactions", home)
    return run_named("validate_transactions", home)


def evidence(home: Settings, feed: str = "transactions") -> dict[str, object]:
    loaded: dict[str, object] = json.loads((home.work / feed / str(DAY) / "validation.json").read_text())
    return loaded


BAD_ROWS = [
    ("601,2026-01-05T10:00:00Z,4,3", "row: wrong number of fields"),
    ("602,2026-01-05T10:00:00Z,4,3,1.00,more", "row: wrong number of fields"),
    ("99x,2026-01-05T10:00:00Z,4,3,1.00", "transaction_id: not a whole number"),
    ("0,2026-01-05T10:00:00Z,4,3,1.00", "transaction_id: bounds"),
    ("603,2026-01-05T410:00:00Z,4,3,1.00", "event_time: not a timestamp"),
    ("604,2026-02-30T10:00:00Z,4,3,1.00", "event_time: not a timestamp"),
    ("605,2026-01-01T23:59:59Z,4,3,1.00", "event_time: outside the day"),
    ("606,2026-01-06T00:00:00Z,4,3,1.00", "event_time: outside the day"),
    ("607,2026-01-06T00:30:00+00:15,4,3,1.00", "event_time: outside the day"),
    ("608,2026-01-05T10:00:00Z,,3,1.00", "customer_id: missing"),
    ("609,2026-01-05T10:00:00Z,4,3.5,1.00", "terminal_id: not a whole number"),
    ("610,2026-01-05T10:00:00Z,4,3,twelve", "amount_minor: not money"),
    ("611,2026-01-05T10:00:00Z,4,3,1.005", "amount_minor: not money"),
    ("612,2026-01-05T10:00:00Z,4,3,nan", "amount_minor: not money"),
    ("613,2026-01-05T10:00:00Z,4,3,-1.00", "amount_minor: bounds"),
    ("614,2026-01-05T10:00:00Z,4,3,20000.01", "amount_minor: bounds"),
    ("1,2026-01-05T11:00:00Z,4,3,1.00", "duplicate"),
]


def test_each_bad_row_among_good_ones_is_quarantined_as_it_came_with_its_rule(home: Settings) -> None:
    validate(home, [*good_rows(500), *[row for row, _ in BAD_ROWS]])
    assert run_named("quarantine_transactions", home).rows == len(BAD_ROWS)
    kept = lake_of(home).read(QUARANTINE).sort_by("row_number").to_pylist()
    assert [(json.loads(row["row"]), row["rule"]) for row in kept] == [
        (line.split(","), rule) for line, rule in BAD_ROWS
    ]
    assert kept[0]["row_number"] == 501


def test_the_ends_of_the_day_and_of_the_bounds_are_inside(home: Settings) -> None:
    receipt = validate(
        home,
        [
            "1,2026-01-05T00:00:00Z,4,3,0.01",
            "2,2026-01-05T23:59:59.999999Z,4,3,20000",
            "3,2026-01-06T01:59:00+02:00,4,3,0007.10",
            '4,"2026-01-05 12:00",4,3,"12.500"',
        ],
    )
    assert receipt.facts["broken_by_rule"] == {}


def test_a_row_that_breaks_two_rules_is_quarantined_once_with_both(home: Settings) -> None:
    receipt = validate(home, [*good_rows(60), "61,soon,4,3,-1.00"])
    assert receipt.facts["quarantined_rows"] == 1
    run_named("quarantine_transactions", home)
    rules = lake_of(home).read(QUARANTINE)["rule"].to_pylist()
    assert rules == ["event_time: not a timestamp; amount_minor: bounds"]


def test_one_hundred_copies_of_a_key_are_ninety_nine_duplicates(home: Settings) -> None:
    with pytest.raises(GateClosed, match="duplicate"):
        validate(home, [*good_rows(900)[1:], *[good_row(1)] * 100])
    assert evidence(home)["broken_by_rule"] == {"duplicate": 99}


def test_of_two_copies_the_one_that_can_be_read_is_kept(home: Settings) -> None:
    broken = good_row(1).replace(",3,", ",three,")
    ingest_day_of(home, [broken, *good_rows(150)])
    rows = lake_of(home).read(QUARANTINE)["row"].to_pylist()
    assert [json.loads(row) for row in rows] == [broken.split(",")]


def ingest_day_of(home: Settings, rows: list[str]) -> None:
    put_transactions(home, rows)
    ingest_day(home)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([], "the file has no rows"),
        ([*good_rows(97), *[good_row(n).replace(f",{n % 7 + 1},3,", ",,3,") for n in (98, 99, 100)]],
         "customer_id: missing: 3.00%"),
        ([*good_rows(99), good_row(100).replace(",3,12.50", ",,12.50")], "terminal_id: missing"),
        ([*good_rows(98), good_row(1), good_row(2)], "duplicate: 2.00%"),
        ([*good_rows(94), *[f"{n},2026-01-05T10:00:00Z,4,3,-1" for n in range(95, 101)]],
         "quality score|only 94.00%"),
        ([*good_rows(94), *["x"] * 6], "row: wrong number of fields: 6.00%"),
    ],
    ids=["no rows", "nulls above the contract", "nulls where none may be", "duplicates",
         "quality score", "shape"],
)  # fmt: skip
def test_a_day_that_breaks_the_policy_closes_the_gate(home: Settings, rows: list[str], reason: str) -> None:
    with pytest.raises(GateClosed, match=reason) as caught:
        validate(home, rows)
    assert caught.value.verdict.outcome is Outcome.FAIL
    verdict = evidence(home)["verdict"]
    assert isinstance(verdict, dict)
    assert verdict["outcome"] == "fail"


def test_just_inside_the_policy_the_gate_is_open(home: Settings) -> None:
    bad = [f"{n},2026-01-05T10:00:00Z,4,3,-1" for n in range(97, 101)]
    receipt = validate(home, [*good_rows(95), bad[0], good_row(1), *bad[1:]])
    assert receipt.facts["quality_score"] == pytest.approx(0.9505, abs=0.001)


def test_the_templates_of_the_page_are_compiled_once(home: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    validate(home, good_rows(100))
    monkeypatch.setattr(jinja2.Environment, "compile", lambda *_, **__: pytest.fail("compiled again"))
    validate(home, good_rows(101))


def land_and_validate(home: Settings) -> None:
    run_named("land_transactions", home)
    run_named("validate_transactions", home)


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (HEADER.replace("amount", "value"), "column 'amount' is missing"),
        (HEADER + ",currency", "column 'currency' is not in the contract"),
        (HEADER + ",amount", "column 'amount' is there twice"),
    ],
)
def test_a_file_with_other_columns_is_refused_by_name(home: Settings, header: str, says: str) -> None:
    path = put_transactions(home, [])
    path.write_text(f"{header}\n1,2026-01-05T10:00:00Z,4,3,1.00" + ",x" * header.count("y") + "\n")
    with pytest.raises(SluiceError, match=says):
        land_and_validate(home)
    assert not (home.work / "transactions").exists()


def test_columns_may_come_in_another_order_and_with_a_byte_order_mark(home: Settings) -> None:
    path = put_transactions(home, [])
    path.write_bytes(
        "\ufeffamount,terminal_id,customer_id,event_time,transaction_id\r\n"
        "12.50,3,4,2026-01-05T20:00:00Z,1\r\n".encode()
    )
    run_named("land_transactions", home)
    assert run_named("validate_transactions", home).facts["good_rows"] == 1


def test_every_run_has_its_page_and_a_repeated_run_the_same_one(home: Settings) -> None:
    first = validate(home, good_rows(10))
    page = home.reports / first.facts["report"]
    assert "Validation Result" in page.read_text() or "Expectation" in page.read_text()
    again = run_named("validate_transactions", home)
    assert again.facts["report"] == first.facts["report"]
    repaired = validate(home, good_rows(11))
    assert repaired.facts["report"] != first.facts["report"]
    pages = list((home.reports / "data_docs" / "validations").rglob("*.html"))
    assert len(pages) == 2
    assert str(DAY) in (home.reports / "data_docs" / "index.html").read_text()


@pytest.mark.parametrize(
    "name",
    ["great_expectations.yml", "expectations/transactions_suite.json"],
)
@pytest.mark.parametrize("kept", [0.0, 0.5])
def test_a_configuration_that_was_cut_off_is_made_anew(home: Settings, name: str, kept: float) -> None:
    validate(home, good_rows(10))
    path = home.home / "gx" / name
    text = path.read_text()
    for kept in (0, len(text) // 2):
        path.write_text(text[:kept])
        assert run_named("validate_transactions", home).facts["verdict"] == "pass"


def raised(home: Settings) -> list[dict[str, object]]:
    return [json.loads(line) for line in (home.home / "alerts.jsonl").read_text().splitlines()]


def test_a_file_whose_transactions_were_published_on_another_day_closes_the_gate(home: Settings) -> None:
    put_transactions(home, good_rows(50))
    ingest_day(home)
    put_transactions(home, good_rows(50, NEXT), NEXT)
    run_named("land_transactions", home, NEXT)
    with pytest.raises(GateClosed, match=r"duplicate: 100\.00%"):
        run_named("validate_transactions", home, NEXT)


@pytest.mark.parametrize("days", [-35, -1, 1, 35])
def test_a_transaction_of_another_day_is_quarantined_as_a_duplicate(home: Settings, days: int) -> None:
    other = DAY + timedelta(days=days)
    put_transactions(home, [good_row(7, other)], other)
    ingest_day(home, other)
    for _ in range(2):  # the day's own rows are no copies of themselves
        put_transactions(home, good_rows(150))
        receipts = ingest_day(home)
        assert receipts["validate_transactions"].facts["broken_by_rule"] == {"duplicate": 1}
    assert lake_of(home).read(TRANSACTIONS)["transaction_id"].to_pylist().count(7) == 1
    keys = {alert["key"] for alert in raised(home)}
    assert f"{DAY}/transactions/duplicate" in keys


def test_a_low_volume_alerts_and_lets_the_day_pass(home: Settings) -> None:
    for weeks in (1, 2, 3, 4):
        day = DAY - timedelta(weeks=weeks)
        put_transactions(home, good_rows(100 * weeks, day), day)
        run_named("land_transactions", home, day)
    assert landed_rows(home, "transactions", [DAY - timedelta(weeks=2)]) == [200]
    assert same_weekdays(home, "transactions", DAY, 4) == [100, 200, 300, 400]
    assert validate(home, good_rows(200)).facts["alerts"] == []
    assert not (home.home / "alerts.jsonl").exists()
    for _ in range(2):
        assert validate(home, good_rows(199)).facts["alerts"] == ["volume: 199 rows"]
    alert = raised(home)[0]
    assert len(raised(home)) == 1
    assert (alert["key"], alert["owner"]) == (f"{DAY}/transactions/volume", "payments-data")
    assert "volume: 199 rows" in str(alert["cause"])


def test_before_there_is_history_the_volume_is_the_contracts(home: Settings) -> None:
    quality = policy_of(home).quality
    assert volume_figures(250, [], 2500, quality) == {"volume_share": 0.1, "known_volume_share": None}


def test_missing_or_failed_evidence_closes_the_gate(home: Settings) -> None:
    quality = policy_of(home).quality
    rules = rules_of(transactions_feed(contract_of(home)), quality)
    whole = tuple(Finding(rule.name, True, 10, 0, None, "") for rule in rules)
    assert judge(SuiteRun(whole, ""), rules, 10, quality)[0].outcome is Outcome.PASS
    absent, _, _ = judge(SuiteRun(whole[1:], ""), rules, 10, quality)
    assert absent.outcome is Outcome.FAIL
    assert "no evidence for: row: wrong number of fields" in absent.reason
    raised = (whole[0]._replace(error="it broke"), *whole[1:])
    assert judge(SuiteRun(raised, ""), rules, 10, quality)[0].outcome is Outcome.FAIL
    assert judge(SuiteRun((), ""), rules, 10, quality)[0].outcome is Outcome.FAIL


@pytest.mark.parametrize("share", [0.011, 0.02])
def test_a_share_is_compared_with_the_policy_and_not_with_a_rounded_one(home: Settings, share: float) -> None:
    missing = round(1000 * share)
    rows = good_rows(1000 - missing) + [
        f"{number},2026-01-05T10:00:00Z,,3,1.00" for number in range(1001, 1001 + missing)
    ]
    assert validate(home, rows).facts["broken_by_rule"] == {"customer_id: missing": missing}


# chargebacks


@pytest.fixture
def published(home: Settings) -> Settings:
    put_transactions(home, good_rows(100))
    ingest_day(home)
    return home


def labels(count: int) -> list[str]:
    return [f"{number},2026-01-06T09:00:00Z,1" for number in range(1, count + 1)]


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        ("77,2026-01-06T09:00:00Z,2", "is_fraud: bounds"),
        ("77,2026-01-06T09:00:00Z,yes", "is_fraud: not a whole number"),
        ("77,2026-01-05T09:00:00Z,1", "reported_at: outside the day"),
    ],
)
def test_a_chargeback_that_breaks_a_rule_is_kept_aside(published: Settings, row: str, rule: str) -> None:
    put_labels(published, [*labels(40), row], NEXT)
    receipts = label_day(published, NEXT)
    assert receipts["validate_labels"].facts["broken_by_rule"] == {rule: 1}
    assert receipts["merge_labels"].rows == 40


def test_a_day_without_chargebacks_passes(published: Settings) -> None:
    put_labels(published, [], NEXT)
    assert label_day(published, NEXT)["merge_labels"].rows == 0


def test_many_unknown_transactions_alert_but_do_not_close_the_gate(published: Settings) -> None:
    put_labels(published, [*labels(5), "12345,2026-01-06T09:00:00Z,1"], NEXT)
    receipts = label_day(published, NEXT)
    facts = receipts["validate_labels"].facts
    assert receipts["merge_labels"].rows == 6
    assert facts["alerts"] == ["unknown transaction: 16.67% of the rows, at most 5.00% allowed"]
    assert f"{NEXT}/labels/unknown transaction" in {alert["key"] for alert in raised(published)}


def test_a_label_about_a_transaction_of_long_ago_is_known(published: Settings) -> None:
    later = DAY + timedelta(days=60)
    put_labels(published, [f"3,{later}T09:00:00Z,0"], later)
    assert label_day(published, later)["merge_labels"].rows == 1


def test_of_two_reports_on_one_day_the_later_counts(published: Settings) -> None:
    rows = labels(120)[:100]
    put_labels(published, [*rows, "3,2026-01-06T12:00:00Z,0"], NEXT)
    label_day(published, NEXT)
    merged = {row["transaction_id"]: row["is_fraud"] for row in lake_of(published).read(LABELS).to_pylist()}
    assert merged[3] == 0
    assert len(merged) == 100


def test_a_broken_chargeback_feed_closes_the_gate(published: Settings) -> None:
    put_labels(published, [*labels(10), "11,2026-01-06T09:00:00Z,maybe"], NEXT)
    run_named("land_labels", published, NEXT)
    with pytest.raises(GateClosed, match="is_fraud: not a whole number"):
        run_named("validate_labels", published, NEXT)


def test_nothing_is_written_outside_the_installation(home: Settings, tmp_path: Path) -> None:
    validate(home, good_rows(10))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "source"]
