"""What the prediction log tells before any label: volume, errors, latency, nulls, confidence, disputes."""

from __future__ import annotations

import itertools
from datetime import date, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from jobs.conf.policy import load_policy
from jobs.conf.settings import Settings
from jobs.features.declarations import FEATURE_VERSION, FEATURES, MODEL_FEATURES
from jobs.lake.store import Lake, lake_of
from jobs.lake.tables import LABELS, MERGED_LABELS, PREDICTIONS, QUARANTINE, TRANSACTIONS
from jobs.monitoring import service, trends
from jobs.monitoring.figures import Figure, read_figures, write_figures
from jobs.monitoring.other_days import Share, against_days, share_beside, usual_range

POLICY = load_policy()
DAY = date(2026, 3, 10)
QUIET = [0.010, 0.011, 0.009, 0.010, 0.012, 0.010, 0.009, 0.011]


@given(st.lists(st.floats(0.1, 0.9), min_size=8, max_size=20, unique=True))
def test_the_range_of_a_further_day_is_wider_than_that_of_the_mean_and_agrees_with_scipy(
    values: list[float],
) -> None:
    low, high = usual_range(values, 0.01)
    mean = stats.t.interval(0.99, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    assert low < mean[0] < mean[1] < high
    assert (high - low) / (mean[1] - mean[0]) == pytest.approx(np.sqrt(len(values) + 1))


def test_a_further_day_lies_outside_as_often_as_it_may() -> None:
    generator = np.random.default_rng(1)
    drawn = generator.normal(size=(4000, 11))
    outside = [
        not (low <= row[10] <= high) for row in drawn for low, high in [usual_range(list(row[:10]), 0.05)]
    ]
    assert np.mean(outside) == pytest.approx(0.05, abs=0.012)


@pytest.mark.parametrize(
    ("value", "only_above", "status"),
    [(0.0101, False, "ok"), (0.05, False, "alert"), (0.0, False, "alert"), (0.0, True, "ok"),
     (float("nan"), False, "unknown")],
)  # fmt: skip
def test_a_share_alerts_outside_of_what_its_days_reach(value: float, only_above: bool, status: str) -> None:
    figure = against_days("unsure_share", value, QUIET, POLICY, chance=0.0, only_above=only_above)
    assert figure.status == status


def test_days_that_hardly_differ_make_no_alarm_of_a_change_below_the_policys() -> None:
    figure = against_days("mean_score", 0.0105, [0.01, 0.01 + 1e-9] * 5, POLICY, chance=0.0)
    assert figure.status == "ok"


def test_fewer_days_than_a_week_say_nothing() -> None:
    assert "needed 7" in against_days("mean_score", 0.9, QUIET[:6], POLICY, chance=0.0).detail


def test_answers_are_held_against_the_median_of_the_same_weekday() -> None:
    assert service.answers_figure(790, [1000, 900, 1000, 5000], POLICY).status == "alert"
    assert service.answers_figure(810, [1000, 900, 1000, 5000], POLICY).status == "ok"
    assert service.answers_figure(10, [1000, 0, 0, 0], POLICY).status == "ok", "one week tells nothing"
    assert service.answers_figure(0, [], POLICY).status == "unknown"


def test_errors_alert_beyond_the_share_and_chance() -> None:
    assert service.error_figure(1, 50, POLICY).status == "ok"
    assert service.error_figure(20, 1000, POLICY).status == "alert"
    assert service.error_figure(9, 1000, POLICY).status == "ok"


def test_latency_is_the_99th_percentile() -> None:
    slow = [1.0] * 980 + [80.0] * 20
    assert service.latency_figure(slow, POLICY).status == "alert"
    assert service.latency_figure([1.0] * 995 + [80.0] * 5, POLICY).status == "ok"
    assert service.latency_figure([80.0] * 99, POLICY).status == "ok", "too few to have a 99th percentile"


def test_a_feature_that_always_has_a_value_may_not_be_null_online() -> None:
    rows = pd.DataFrame({name: np.ones(1000) for name in MODEL_FEATURES})
    rows[["customer_missing", "terminal_missing", "velocity_missing"]] = 0.0
    assert service.null_figure(rows, POLICY).status == "ok"
    rows.loc[:69, "customer_count_7d"] = np.nan
    figure = service.null_figure(rows, POLICY)
    assert (figure.status, figure.detail) == ("alert", "7.0% of customer_count_7d")
    few = rows[64:164]
    assert few["customer_count_7d"].isna().mean() == 0.06
    assert service.null_figure(few, POLICY).status == "ok", "six of a hundred are what chance makes of 5 %"
    empty = rows.assign(customer_count_7d=1.0, customer_amount_mean_7d=np.nan)
    assert service.null_figure(empty, POLICY).status == "ok", "an empty window has no mean"
    assert service.null_figure(rows[:0], POLICY).status == "unknown"


def test_new_customers_have_no_row_and_are_no_features_missing() -> None:
    rows = pd.DataFrame({name: np.ones(1000) for name in MODEL_FEATURES})
    rows[["customer_missing", "terminal_missing", "velocity_missing"]] = 0.0
    new = np.arange(1000) < 200
    of_customers = [each.name for each in FEATURES if each.tier == "batch" and each.entity == "customer"]
    rows.loc[new, of_customers] = np.nan
    assert service.null_figure(rows, POLICY).status == "alert", "their flag says nothing"
    rows.loc[new, "customer_missing"] = 1.0
    assert service.null_figure(rows, POLICY).status == "ok"
    rows.loc[200:259, "customer_count_7d"] = np.nan
    figure = service.null_figure(rows, POLICY)
    assert (figure.status, figure.detail) == ("alert", "7.5% of customer_count_7d"), "60 of 800 with a row"


def answers_on(day: date, count: int, missing: float) -> pd.DataFrame:
    """Answers of a day of which a share found no fresh row of their customer."""
    at = pd.Timestamp(day, tz="UTC") + pd.to_timedelta(np.arange(count), unit="s")
    flags = (np.arange(count) < missing * count).astype(float)
    return pd.DataFrame({"event_time": at, "customer_missing": flags, "terminal_missing": 0.0})


@pytest.mark.parametrize(
    ("missing", "terminal", "loud"),
    [(0.02, 0, []), (0.2, 0, ["customer"]), (0.02, 1, []), (0.02, 50, ["terminal"]), (0.0, 0, [])],
)
def test_rows_that_are_not_fresh_online_any_more_alert_by_their_kind(
    missing: float, terminal: int, loud: list[str]
) -> None:
    shares = [0.02, 0.025, 0.015, 0.02, 0.03, 0.02, 0.01, 0.02, 0.025, 0.02]
    workdays = [each for each in (DAY - timedelta(days=back) for back in range(1, 30)) if each.weekday() < 5]
    reference = pd.concat([answers_on(*each) for each in zip(workdays, itertools.repeat(1000), shares)])
    today = answers_on(DAY, 1000, missing)
    today["terminal_missing"] = (np.arange(1000) < terminal).astype(float)
    figures = service.missing_figures(reference, today, DAY, POLICY)
    assert [each.subject for each in figures if each.status == "alert"] == loud
    assert [each.subject for each in figures] == ["customer", "terminal"], "a model without velocity"


def put(lake: Lake, table: object, frame: pd.DataFrame) -> None:
    lake.append(table, pa.Table.from_pandas(frame, preserve_index=False))  # type: ignore[arg-type]


def answered(lake: Lake, day: date, count: int) -> pd.DataFrame:
    """Answers of a day; the last one was blocked, and the first was asked twice."""
    number = np.arange(count)
    at = pd.Timestamp(day, tz="UTC") + pd.to_timedelta(number, unit="s")
    rows = pd.DataFrame(
        {
            "day": day, "request_id": [f"{day}-{each}" for each in number],
            "transaction_id": number + day.toordinal() * 1000, "event_time": at, "customer_id": 1,
            "terminal_id": 1, "amount_minor": 100, "model_version": "1", "variant": "champion", "step": "",
            "score": 0.1, "decision": np.where(number == count - 1, "block", "approve"), "rule": "",
            "error": "", "latency_ms": 1.0, "served_at": at,
            "feature_version": FEATURE_VERSION, "would_be": "",
            "features": [[1.0] * len(MODEL_FEATURES)] * count,
        }
    )  # fmt: skip
    put(lake, PREDICTIONS, pd.concat([rows, rows[:1].assign(request_id="again")]))
    return rows


def test_early_disputes_are_of_what_was_approved_and_known_by_the_days_end(home: Settings) -> None:
    lake, events = lake_of(home), DAY - timedelta(days=2)
    rows = answered(lake, events, 11)
    for day in (DAY - timedelta(days=1), DAY):
        put(lake, MERGED_LABELS, pd.DataFrame({"day": [day], "digest": ["a"], "rows": [1]}))
    at = pd.to_datetime(["2026-03-09T08:00Z", "2026-03-10T23:59Z", "2026-03-11T08:00Z"], utc=True)
    disputed = pd.DataFrame(
        {
            "day": [DAY - timedelta(days=1), DAY, DAY + timedelta(days=1)], "available_at": at,
            "transaction_id": rows["transaction_id"].iloc[[0, 10, 1]].to_numpy(), "is_fraud": 1,
        }
    )  # fmt: skip
    put(lake, LABELS, disputed)
    assert trends.early_disputes(lake, DAY, 2) == Share(1, 10)


def test_figures_are_read_in_one_order_whichever_group_was_written_first(home: Settings) -> None:
    lake = lake_of(home)
    for group in ("service", "drift", "performance"):
        figures = [Figure(metric=f"{group} {each}", subject="all") for each in ("b", "a")]
        write_figures(lake, DAY, group, figures)
    assert [each.metric for each in read_figures(lake, DAY)] == [
        "drift b", "drift a", "performance b", "performance a", "service b", "service a",
    ]  # fmt: skip


@pytest.mark.parametrize(("rows", "least", "most"), [(2_500, 0.0, 0.4), (10_000, 0.8, 1.0)])
def test_one_day_of_three_times_as_many_disputes_is_seen_from_ten_thousand_rows_on(
    rows: int, least: float, most: float
) -> None:
    generator = np.random.default_rng(2)
    found = []
    for _ in range(100):
        usual = [Share(int(each), rows) for each in generator.binomial(rows, 0.0023, size=28)]
        today = Share(int(generator.binomial(rows, 3 * 0.0023)), rows)
        found.append(share_beside("early_disputes", today, usual, POLICY))
    assert least <= np.mean([figure.status == "alert" for figure in found]) <= most


def test_a_silent_chargeback_feed_is_no_quiet_day(home: Settings) -> None:
    lake = lake_of(home)
    answered(lake, DAY - timedelta(days=2), 11)
    assert trends.early_disputes(lake, DAY, 2).rows == 0


def test_quarantined_rows_are_held_against_their_own_weeks(home: Settings) -> None:
    lake = lake_of(home)
    rows = answered(lake, DAY, 90).assign(file_day=DAY)
    put(lake, TRANSACTIONS, rows.assign(available_at=rows["event_time"]))
    names = {"rule": "x", "row": "x", "digest": "a", "run": "r", "feed": "transactions"}
    broken = pd.DataFrame({"part": f"transactions.{DAY}", "day": DAY, "row_number": range(10), **names})
    put(lake, QUARANTINE, broken)
    assert trends.quarantined_rows(lake, DAY) == Share(10, 100)
    remembered(lake, *QUIET)
    figures = {each.metric: each.status for each in trends.trend_figures(lake, DAY, 2, POLICY)}
    assert figures == {
        "early_disputes": "investigate", "quarantined_share": "alert", "quarantined_share_rows": "ok",
    }  # fmt: skip


def remembered(lake: Lake, *shares: float, rows: int = 1000) -> None:
    """Shares of quarantined rows on the days before, as the job wrote them."""
    for back, value in enumerate(shares, start=1):
        figures = [
            Figure(metric="quarantined_share", subject="all", value=value),
            Figure(metric="quarantined_share_rows", subject="all", value=float(rows)),
        ]
        write_figures(lake, DAY - timedelta(days=back), "service", figures)


@pytest.mark.parametrize(("broken", "status"), [(0, "ok"), (1, "ok"), (2, "ok"), (10, "alert")])
def test_one_quarantined_row_after_weeks_without_any_is_no_alarm_and_ten_are(
    home: Settings, broken: int, status: str
) -> None:
    lake = lake_of(home)
    rows = answered(lake, DAY, 1000 - broken).assign(file_day=DAY)
    put(lake, TRANSACTIONS, rows.assign(available_at=rows["event_time"]))
    names = {"rule": "x", "row": "x", "digest": "a", "run": "r", "feed": "transactions"}
    numbers = pd.DataFrame({"row_number": np.arange(broken)})
    put(lake, QUARANTINE, numbers.assign(part=f"transactions.{DAY}", day=DAY, **names))
    remembered(lake, *[0.0] * 28)
    figure = trends.trend_figures(lake, DAY, 2, POLICY)[1]
    assert (figure.metric, figure.status) == ("quarantined_share", status)


def test_a_dispute_after_weeks_without_any_is_no_alarm() -> None:
    none = [Share(0, 2500)] * 28
    assert share_beside("early_disputes", Share(1, 2500), none, POLICY).status == "ok"
    assert share_beside("early_disputes", Share(8, 2500), none, POLICY).status == "alert"


def test_a_day_whose_rows_nobody_counted_is_not_remembered(home: Settings) -> None:
    lake = lake_of(home)
    write_figures(lake, DAY - timedelta(days=1), "service",
                  [Figure(metric="quarantined_share", subject="all", value=0.1)])  # fmt: skip
    remembered(lake, 0.1, 0.02)
    loud = Figure(metric="quarantined_share", subject="all", value=0.5, status="alert")
    counted = Figure(metric="quarantined_share_rows", subject="all", value=10.0)
    write_figures(lake, DAY - timedelta(days=3), "service", [loud, counted])
    assert sorted(trends.own_history(lake, "quarantined_share", DAY, 28)) == [
        Share(20, 1000),
        Share(100, 1000),
    ]
