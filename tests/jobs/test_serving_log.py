"""The prediction log never holds up a request, and the rules layer decides as the policy says."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from jobs.conf.policy import Rules
from jobs.conf.settings import Settings
from jobs.lake.store import lake_of
from jobs.lake.tables import PREDICTIONS
from jobs.serving.prediction_log import Prediction, PredictionLog, features_text
from jobs.serving.rules import RuleHit, RulesLayer, stricter


def prediction(number: int, event_time: datetime) -> Prediction:
    return Prediction(
        request_id=f"request-{number}",
        transaction_id=number,
        event_time=event_time,
        customer_id=1,
        terminal_id=2,
        amount_minor=300,
        model_version="4",
        variant="champion",
        step="",
        score=0.25,
        decision="approve",
        rule="",
        error="",
        latency_ms=1.5,
        served_at=1_800_000_000.25,
        names=("amount", "risk"),
        features=[3.0, math.nan],
    )


NOON = datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=UTC)
LATE = datetime(2026, 1, 31, 23, 59, 59, 999999, tzinfo=UTC)
NEXT = datetime(2026, 2, 1, tzinfo=UTC)


def test_rows_land_on_the_day_of_their_event(home: Settings) -> None:
    log = PredictionLog(lake_of(home))
    for number, moment in enumerate((NOON, LATE, NEXT)):
        log.put(prediction(number, moment))
    assert log.flush()
    rows = lake_of(home).read(PREDICTIONS).sort_by("transaction_id").to_pylist()
    assert [row["day"] for row in rows] == [date(2026, 1, 31), date(2026, 1, 31), date(2026, 2, 1)]
    assert rows[0]["event_time"] == NOON
    assert rows[0]["served_at"] == datetime(2027, 1, 15, 8, 0, 0, 250000, tzinfo=UTC)
    assert rows[0]["features"] == '{"amount": 3.0, "risk": null}'
    assert log.counters() == {
        "queued": 3,
        "written": 3,
        "waiting": 0,
        "dropped": 0,
        "last_error": "",
    }


def test_a_full_queue_drops_and_counts(home: Settings) -> None:
    log = PredictionLog(lake_of(home), capacity=2)
    for number in range(5):
        log.put(prediction(number, NOON))
    assert (log.queued, log.dropped) == (2, 3)
    assert log.flush()
    assert lake_of(home).read(PREDICTIONS)["transaction_id"].to_pylist() == [0, 1]


def test_rows_wait_while_the_lake_cannot_be_written_and_land_once_afterwards(
    home: Settings,
) -> None:
    home.home.mkdir(parents=True)
    Path(home.lake).write_text("a file where the folder should be")
    log = PredictionLog(lake_of(home))
    log.put(prediction(0, NOON))
    assert not log.flush()
    assert log.last_error
    log.put(prediction(1, NOON))
    Path(home.lake).unlink()
    assert log.flush()
    assert log.last_error == ""
    assert sorted(lake_of(home).read(PREDICTIONS)["transaction_id"].to_pylist()) == [0, 1]


def test_a_graceful_stop_writes_what_waits(home: Settings) -> None:
    log = PredictionLog(lake_of(home), interval=60.0)
    log.start()
    for number in range(500):
        log.put(prediction(number, NOON))
    log.stop()
    assert lake_of(home).read(PREDICTIONS).num_rows == 500


def test_features_that_could_not_be_read_are_an_empty_text() -> None:
    assert features_text(("amount",), None) == ""
    assert features_text(("amount", "risk"), [math.inf, 0.5]) == '{"amount": null, "risk": 0.5}'


RULES = RulesLayer(Rules(deny_customers=(7,), deny_terminals=(8,), amount_cap_minor=1000))


@pytest.mark.parametrize(
    ("customer", "terminal", "amount", "hit"),
    [
        (1, 2, 1000, None),
        (1, 2, 1001, RuleHit("amount_cap", "review")),
        (7, 2, 1, RuleHit("deny_customer", "block")),
        (1, 8, 2000, RuleHit("deny_terminal", "block")),
    ],
)
def test_the_rules_fire_as_listed(customer: int, terminal: int, amount: int, hit: RuleHit | None) -> None:
    assert RULES.apply(customer, terminal, amount) == hit


def test_the_stricter_of_rule_and_model_wins() -> None:
    cap = RuleHit("amount_cap", "review")
    assert stricter(None, "approve") == ("approve", "")
    assert stricter(cap, "approve") == ("review", "amount_cap")
    assert stricter(cap, "review") == ("review", "amount_cap")
    assert stricter(cap, "block") == ("block", "")
    assert stricter(RuleHit("deny_customer", "block"), "approve") == ("block", "deny_customer")
