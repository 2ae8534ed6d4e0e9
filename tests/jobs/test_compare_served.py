"""Served against offline features: what counts as a difference, and when the gate closes."""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime, timedelta

import pandas as pd
import pyarrow as pa
import pytest

from jobs.conf.settings import Settings
from jobs.core import Outcome
from jobs.features.declarations import FEATURE_VERSION, MODEL_FEATURES
from jobs.features.tables import BUILT_TABLES
from jobs.lake.store import lake_of
from jobs.lake.tables import PREDICTIONS
from jobs.monitoring import compare_served
from jobs.monitoring.compare_served import (
    FeatureDifference,
    Params,
    compare,
    examples,
    first_answers,
    judge,
    mismatched,
)
from jobs.monitoring.figures import SKEW, read_figures
from tests.features_data import DAY, put, transaction_rows

NAN = math.nan
VALUES = [1.0] * len(MODEL_FEATURES)


def difference(served: list[float], offline: list[float]) -> FeatureDifference:
    (found,) = compare(pd.DataFrame({"x": served}), pd.DataFrame({"x": offline}))
    return found


@pytest.mark.parametrize(
    ("served", "offline"),
    [(1.0, 1.0), (NAN, NAN), (0.0, 1e-12), (1e9, 1e9 + 1), (0.0, -0.0)],
)
def test_equal_up_to_rounding_is_equal(served: float, offline: float) -> None:
    assert difference([served], [offline]).mismatches == 0


@pytest.mark.parametrize(
    ("served", "offline", "worst"),
    [(1.0, 1.00001, 1e-5), (0.0, 1e-6, 1.0), (NAN, 0.0, 0.0), (3.0, NAN, 0.0), (-2.0, 2.0, 2.0)],
)
def test_another_number_or_a_gap_on_one_side_is_a_difference(
    served: float, offline: float, worst: float
) -> None:
    found = difference([served], [offline])
    assert (found.mismatches, found.share) == (1, 1.0)
    assert found.worst == pytest.approx(worst, rel=1e-3)


def test_every_feature_has_its_share_and_its_worst_row() -> None:
    served = pd.DataFrame({"a": [1.0, 2.0, 4.0, NAN], "b": [0.0, 0.0, 0.0, 0.0]})
    offline = pd.DataFrame({"b": [0.0, 0.0, 0.0, 0.0], "a": [1.0, 1.0, 3.0, 5.0]})
    assert compare(served, offline) == [
        FeatureDifference(feature="a", rows=4, mismatches=3, share=0.75, worst=0.5),
        FeatureDifference(feature="b", rows=4, mismatches=0, share=0.0, worst=0.0),
    ]
    assert mismatched(served, offline).any(axis=1).tolist() == [False, True, True, True]
    events = pd.DataFrame({"transaction_id": [7, 8, 9, 10]})
    assert examples(events, served, offline)[2] == {
        "transaction_id": 10,
        "feature": "a",
        "served": None,
        "offline": 5.0,
    }


def test_no_rows_are_no_difference_and_no_proof() -> None:
    nothing = pd.DataFrame({"x": pd.Series([], dtype="float64")})
    assert compare(nothing, nothing)[0].share == 0.0
    assert judge(0, 0, [], 0.05).outcome is Outcome.INCONCLUSIVE


@pytest.mark.parametrize(("mismatches", "outcome"), [(5, Outcome.PASS), (6, Outcome.FAIL)])
def test_the_gate_closes_above_the_allowed_share(mismatches: int, outcome: Outcome) -> None:
    found = [FeatureDifference(feature="x", rows=100, mismatches=mismatches, share=mismatches / 100, worst=1)]
    verdict = judge(100, mismatches, found, 0.05)
    assert verdict.outcome is outcome
    assert f"{mismatches} of 100 served rows" in verdict.checks[0].detail


def test_a_transaction_counts_once_by_its_first_answer() -> None:
    log = pd.DataFrame(
        [
            # request, transaction, variant, served at, features
            ("r1", 1, "shadow", 0, [0.1]),
            ("r1", 1, "champion", 1, [1.0]),
            ("r2", 1, "champion", 2, [1.2]),  # sent again
            ("r4", 3, "shadow", 5, [4.0]),  # only its shadow had features
            ("r5", 4, "canary", 6, [5.0]),
        ],
        columns=["request_id", "transaction_id", "variant", "served_at", "features"],
    )
    found = first_answers(log)
    assert dict(zip(found["transaction_id"], found["features"], strict=True)) == {
        1: [1.0],
        3: [4.0],
        4: [5.0],
    }


def serve(home: Settings, *served: tuple[int, list[float] | None], version: str = FEATURE_VERSION) -> None:
    """Answers of the champion in the prediction log: transaction and features."""
    records = [
        {
            "day": DAY,
            "request_id": f"{version}-{place}",
            "transaction_id": number,
            "variant": "champion",
            "served_at": datetime(2026, 2, 28, tzinfo=UTC) + timedelta(seconds=place),
            "feature_version": version,
            "features": features,
        }
        for place, (number, features) in enumerate(served)
    ]
    lake_of(home).append(PREDICTIONS, pa.Table.from_pylist(records, schema=PREDICTIONS.schema))


def velocity(home: Settings, *days: str) -> None:
    """Feature tables that have rows of some days, as far as one sees from outside."""
    for day in days:
        for table in BUILT_TABLES:
            rows = pa.Table.from_pylist([{"day": date.fromisoformat(day)}], table.schema)
            lake_of(home).append(table, rows)


def offline_says(monkeypatch: pytest.MonkeyPatch, values: dict[int, list[float]]) -> None:
    """Offline features by transaction, in place of Spark."""

    def features(events: pd.DataFrame, _settings: Settings) -> pd.DataFrame:
        found = pd.DataFrame(
            [values[number] for number in events["transaction_id"]], events.index, list(MODEL_FEATURES)
        )
        return pd.concat([events, found], axis=1)

    monkeypatch.setattr(compare_served, "historical_features", features)
    monkeypatch.setattr(compare_served, "not_built", lambda lake, day: "")


def test_a_day_is_compared_and_what_cannot_be_is_counted(
    home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(home, transaction_rows(*((number, "2026-02-28 10:00:00", 1, 10, 100) for number in (1, 2, 3))))
    gap = [NAN, *VALUES[1:]]
    offline_says(monkeypatch, {1: VALUES, 2: gap})
    serve(home, (2, gap), (1, VALUES), (4, VALUES), (5, None))  # 4 was never published
    serve(home, (3, VALUES), version="of another declaration")
    receipt = compare_served.run(Params(day=DAY), home)
    counted = {
        key: receipt.facts[key] for key in ("rows", "mismatched_rows", "other_declaration", "unpublished")
    }
    assert counted == {"rows": 2, "mismatched_rows": 0, "other_declaration": 1, "unpublished": 1}
    assert receipt.facts["outcome"] == "pass"


def stored_since(row: datetime) -> list[float]:
    """The vector of an event that the row of an as_of serves."""
    return [float(row.day) if name in compare_served.BATCH else 1.0 for name in MODEL_FEATURES]


def offline_by_the_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline features in place of Spark: the row of a midnight is known from 04:00 on."""

    def features(events: pd.DataFrame, _settings: Settings) -> pd.DataFrame:
        # strictly after the hour
        known = (events["event_time"] - timedelta(hours=4, microseconds=1)).dt.floor("D")
        found = pd.DataFrame([stored_since(row) for row in known], events.index, list(MODEL_FEATURES))
        return pd.concat([events, found], axis=1)

    monkeypatch.setattr(compare_served, "historical_features", features)
    monkeypatch.setattr(compare_served, "not_built", lambda lake, day: "")


def served_through(home: Settings, online_at: datetime) -> dict[str, int]:
    """What is found of a day of an event each hour, at half past, whose rows came online at an instant."""
    midnight_before = datetime(DAY.year, DAY.month, DAY.day, tzinfo=UTC)
    hours = [midnight_before + timedelta(hours=hour, minutes=30) for hour in range(24)]
    put(home, transaction_rows(*((n, str(at)[:19], 1, 10, 100) for n, at in enumerate(hours, 1))))
    newest = [midnight_before - timedelta(days=at < online_at) for at in hours]
    serve(home, *((n, stored_since(row)) for n, row in enumerate(newest, 1)))
    facts = compare_served.run(Params(day=DAY), home).facts
    return {key: facts[key] for key in ("mismatched_rows", "published_early", "published_late")}


@pytest.mark.parametrize(
    ("online_at", "found"),
    [
        ("2026-02-28 00:10", (0, 4, 0)),
        ("2026-02-28 04:00", (0, 0, 0)),
        ("2026-02-28 06:00", (0, 0, 2)),
        ("2026-02-28 08:00", (0, 0, 4)),
        ("2026-02-28 09:00", (1, 0, 4)),
    ],
)
def test_rows_may_come_before_their_hour_or_behind_it_until_they_are_overdue(
    home: Settings, monkeypatch: pytest.MonkeyPatch, online_at: str, found: tuple[int, int, int]
) -> None:
    offline_by_the_hour(monkeypatch)
    assert tuple(served_through(home, datetime.fromisoformat(f"{online_at}+00:00")).values()) == found


def test_a_day_that_the_rows_of_the_day_before_served_to_its_end_alerts(
    home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    offline_by_the_hour(monkeypatch)
    found = served_through(home, datetime(2026, 3, 1, tzinfo=UTC))
    assert found == {"mismatched_rows": 16, "published_early": 0, "published_late": 4}
    (figure,) = read_figures(lake_of(home), DAY, SKEW)
    assert figure.status == "alert"


def test_a_served_feature_that_differs_alerts_with_its_evidence(
    home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(home, transaction_rows((1, "2026-02-28 10:00:00", 1, 10, 100)))
    offline_says(monkeypatch, {1: VALUES})
    serve(home, (1, [NAN, *VALUES[1:]]))
    receipt = compare_served.run(Params(day=DAY), home)
    (figure,) = read_figures(lake_of(home), DAY, SKEW)
    assert (figure.metric, figure.value, figure.status) == ("skew_share", 1.0, "alert")
    assert "1 of 1 served rows differ from offline" in figure.detail
    (alert,) = [json.loads(line) for line in (home.home / "alerts.jsonl").read_text().splitlines()]
    assert (alert["facts"]["cause"], receipt.facts["new_alerts"]) == ("served features differ", 1)
    evidence = json.loads((home.work / "served" / str(DAY) / "comparison.json").read_text())
    assert evidence["outcome"] == "fail"
    assert evidence["features"][0] == {
        "feature": MODEL_FEATURES[0],
        "rows": 1,
        "mismatches": 1,
        "share": 1.0,
        "worst": 0.0,
    }
    assert evidence["examples"] == [
        {"transaction_id": 1, "feature": MODEL_FEATURES[0], "served": None, "offline": 1.0}
    ]


def test_a_day_on_which_nobody_asked_is_unknown(home: Settings) -> None:
    put(home, transaction_rows((1, "2026-02-28 10:00:00", 1, 10, 100)))
    receipt = compare_served.run(Params(day=DAY), home)
    assert (receipt.facts["outcome"], receipt.rows) == ("inconclusive", 0)
    (figure,) = read_figures(lake_of(home), DAY, SKEW)
    assert (figure.status, figure.detail) == ("unknown", "no answer of the day can be compared")


@pytest.mark.parametrize(
    ("built", "why"),
    [((), "the table customer_features is not built yet"),
     (("2026-02-27",), "the features of 2026-02-28 are not built yet: run fraud_features, then this again")],
)  # fmt: skip
def test_a_day_whose_features_are_not_built_is_unknown_and_no_crash(
    home: Settings, built: tuple[str, ...], why: str
) -> None:
    put(home, transaction_rows((1, "2026-02-28 10:00:00", 1, 10, 100)))
    serve(home, (1, VALUES))
    velocity(home, *built)
    receipt = compare_served.run(Params(day=DAY), home)
    (figure,) = read_figures(lake_of(home), DAY, SKEW)
    assert (figure.status, figure.detail, receipt.rows) == ("unknown", why, 0)


def test_of_a_large_day_an_even_sample_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare_served, "SAMPLE", 3)
    found = compare_served.evenly(pd.DataFrame({"transaction_id": range(11)}))
    assert found["transaction_id"].tolist() == [0, 5, 10]
