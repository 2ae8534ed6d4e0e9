"""The budget of false alarms: the shipped thresholds keep it on the simulator, and see what they should."""

from __future__ import annotations

import itertools
import warnings
from collections import Counter
from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from jobs.conf.contract import load_contract
from jobs.conf.policy import Policy, load_policy
from jobs.evaluation.slices import SLICES as SLICE_MASKS
from jobs.features.declarations import MODEL_FEATURES
from jobs.monitoring import false_alarms as replayed
from jobs.monitoring.calibrate_drift import calibrate, compared_slices, within_budget
from jobs.monitoring.comparison import first_full_days, measure_columns
from jobs.monitoring.drift_cli import table
from jobs.monitoring.false_alarms import ANY, FEATURE, SECOND_DAY, Quiet, RuleFigures
from jobs.monitoring.figures import LOUD
from jobs.monitoring.hour import prediction_figures
from jobs.monitoring.interval import Interval
from jobs.monitoring.service import Log, log_figures
from jobs.simulator.world import SimulatorConfig
from jobs.training.evaluate import REFERENCE_ROWS
from tests.quiet_days import START, quiet_history

POLICY = load_policy()
SLICES = load_contract("simulated").slices
SINCE = first_full_days(START, 2)
DAYS = 21


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return quiet_history(tmp_path_factory.mktemp("quiet"), SimulatorConfig(seed=7), DAYS)


def test_the_shipped_thresholds_keep_the_budget_on_the_simulator(history: pd.DataFrame) -> None:
    """No alarm in 21 days: that excludes four a month and more, and not that there is one in three.

    The budget itself, one in 91 days, takes years of days to show: `make bench NAME=monitor` has 95.
    """
    days = replayed.by_day(history)
    rounds = replayed.quiet_days(
        days, SINCE, POLICY, SLICES, 1, REFERENCE_ROWS, np.random.default_rng(3)
    )  # fmt: skip
    found = replayed.false_alarms(list(rounds))
    assert len(days) == DAYS
    assert within_budget(found, POLICY), [each.model_dump() for each in found]
    together = next(each for each in found if each.rule == ANY)
    assert together.at_most_a_month == pytest.approx(4.0, abs=0.1)


def test_thresholds_that_are_too_low_break_it(history: pd.DataFrame) -> None:
    """The test above can fail: the same days with a twentieth of each limit."""
    lower = {
        name: getattr(POLICY.drift, name) / 20 for name in ("psi_investigate", "psi_alert", "psi_retrain")
    }
    drift = POLICY.drift.model_copy(update=lower | {"slice_margin": 0.01})
    policy = POLICY.model_copy(update={"drift": drift})
    days = dict(itertools.islice(replayed.by_day(history).items(), 10))
    rounds = replayed.quiet_days(
        days, SINCE, policy, SLICES, 1, REFERENCE_ROWS, np.random.default_rng(3)
    )  # fmt: skip
    assert not within_budget(replayed.false_alarms(list(rounds)), POLICY)


HOURS = range(0, 24, 2)


def hourly_alarms(history: pd.DataFrame, policy: Policy) -> dict[str, int]:
    """Alarms of hours of quiet days, by figure; each day is held against days drawn anew."""
    days, generator = replayed.by_day(history), np.random.default_rng(3)
    scores = replayed.by_day(history[["event_time", "score"]])
    found: Counter[str] = Counter()
    hours = {day: dict(iter(rows.groupby(rows["event_time"].dt.hour))) for day, rows in days.items()}
    for day, rows in days.items():
        reference = replayed.drawn_reference(scores, day, REFERENCE_ROWS, generator)
        alike = [each for each in days if each != day and each.weekday() == day.weekday()]
        for number in HOURS:
            hour, now = Interval(day, number), hours[day].get(number, rows[:0])
            weeks = [len(hours[each].get(number, ())) for each in alike]
            answers = pd.DataFrame({"error": [""] * len(now), "latency_ms": 1.0})
            adjusted = hour.policy(policy)
            figures = log_figures(Log(answers, len(now), weeks), now, reference, hour, adjusted)
            figures += prediction_figures(reference, now, hour, adjusted)
            found.update(each.metric for each in figures if each.status in LOUD)
    return dict(found)


def test_hours_of_quiet_days_keep_the_budget(history: pd.DataFrame) -> None:
    """The budget allows one false alarm in 2,184 hours; here are 252, so none."""
    assert POLICY.alerts.budget_days * 24 / POLICY.alerts.false_alarms > DAYS * len(HOURS)
    assert hourly_alarms(history, POLICY) == {}


def test_hours_judged_like_days_would_break_it(history: pd.DataFrame) -> None:
    """The test above can fail: the same hours without their guards."""
    drift = POLICY.drift.model_copy(update={"slice_margin": 0.01, "significance": 0.9})
    performance = POLICY.performance.model_copy(update={"proxy_significance": 0.9})
    days = history[history["event_time"].dt.weekday < 2]
    assert hourly_alarms(days, POLICY.model_copy(update={"drift": drift, "performance": performance}))


def test_a_slice_that_moves_alone_alerts_and_the_whole_does_not(history: pd.DataFrame) -> None:
    days = replayed.by_day(history)
    day = list(days)[-1]
    reference = pd.concat([rows for each, rows in days.items() if each != day])
    rows = days[day].copy()
    quiet = (rows["customer_count_30d"].between(1, 29)).to_numpy()
    rows.loc[quiet, "amount"] *= 3
    found = measure_columns(reference, rows, day, SINCE, POLICY.drift, SLICES)
    loud = {(each.metric, each.subject) for each in found if each.status in ("alert", "retrain")}
    assert loud == {("slice_psi", "quiet_customer")}


def quiet(day: int, *retraining: str, alarms: tuple[str, ...] = ()) -> Quiet:
    return Quiet(date(2026, 3, day), frozenset(alarms), frozenset(retraining))


def test_a_retraining_needs_the_same_feature_on_two_days_in_a_row() -> None:
    days = [quiet(1, "amount"), quiet(2, "hour"), quiet(3, "hour"), quiet(5, "hour")]
    broken = replayed.with_second_days(days)
    assert [SECOND_DAY in each for each in broken] == [False, False, True, False]
    assert broken[2] == {SECOND_DAY, ANY}


def test_false_alarms_are_counted_by_days_with_a_bound_that_knows_how_few_there_were() -> None:
    rounds = [[quiet(day, alarms=(FEATURE,) if day == 4 else ()) for day in range(1, 11)]] * 2
    figures = {each.rule: each for each in replayed.false_alarms(rounds)}
    assert figures[FEATURE].false_alarms_a_month == pytest.approx(3.0)
    assert figures[FEATURE].at_most_a_month == pytest.approx(11.8, abs=0.1)  # 1 of 10 days
    assert figures[SECOND_DAY].false_alarms_a_month == 0
    assert figures[SECOND_DAY].at_most_a_month == pytest.approx(7.8, abs=0.1)  # none in 10 days


def test_the_budget_is_the_policys() -> None:
    rule = RuleFigures(rule=ANY, false_alarms_a_month=30 / 91, at_most_a_month=1.0)
    assert within_budget([rule], POLICY)
    assert not within_budget([rule.model_copy(update={"false_alarms_a_month": 0.34})], POLICY)


def test_a_days_reference_has_other_days_only_and_each_copy_is_a_day_of_its_own() -> None:
    days = {
        date(2026, 3, 1) + timedelta(days=each): pd.DataFrame(
            {"event_time": pd.to_datetime([date(2026, 3, 1) + timedelta(days=each)], utc=True), "value": each}
        )
        for each in range(5)
    }
    drawn = replayed.drawn_reference(days, date(2026, 3, 3), 100, np.random.default_rng(0))
    assert len(drawn) == 4
    assert 2 not in set(drawn["value"])
    assert drawn["event_time"].is_unique
    assert {each.weekday() for each in drawn.loc[drawn["value"] == 0, "event_time"]} <= {6}


def test_the_smallest_shift_is_found_and_a_larger_one_is_never_needed_first() -> None:
    generator = np.random.default_rng(5)
    frames = []
    for each in range(10):
        rows = pd.DataFrame(generator.normal(size=(800, 2)), columns=["amount", "score"])
        frames.append(rows.assign(event_time=pd.Timestamp("2026-03-02", tz="UTC") + pd.Timedelta(days=each)))
    days = replayed.by_day(pd.concat(frames))
    since = {"amount": date(2026, 3, 1)}
    found = replayed.smallest_caught(days, since, POLICY.drift, replayed.moved, replayed.SHIFTS, 3)
    # PSI of two normals apart by d is d squared, less what bins lose of it: 0.2 at 0.45 and a little more
    assert found["amount"] in (0.5, 0.75)
    assert 0.3 <= found["score"] <= found["amount"]
    emptied = replayed.smallest_caught(days, since, POLICY.drift, replayed.emptied, replayed.MISSING, 3)
    assert emptied["amount"] <= 0.1


def test_all_features_are_in_the_history_with_values(history: pd.DataFrame) -> None:
    assert set(MODEL_FEATURES) <= set(history.columns)
    assert history["customer_count_30d"].notna().mean() > 0.99
    assert history["score"].between(0, 1).all()


def test_too_few_scores_are_unknown(history: pd.DataFrame) -> None:
    days = replayed.by_day(history)
    day = list(days)[-1]
    reference = pd.concat([rows for each, rows in days.items() if each != day])
    few = days[day].assign(score=days[day]["score"].where(np.arange(len(days[day])) < 100))
    found = measure_columns(reference, few, day, SINCE, POLICY.drift)
    score = next(each for each in found if each.metric == "prediction_psi")
    assert (score.status, score.detail) == ("unknown", "100 scores, needed 500")


def test_a_calibration_names_every_rule_with_what_it_sees(capsys: pytest.CaptureFixture[str]) -> None:
    generator = np.random.default_rng(6)
    rows = pd.DataFrame(generator.normal(size=(8 * 600, 2)), columns=["amount", "score"])
    rows["score"] = 0.5 + rows["score"] / 20
    offset = pd.to_timedelta(np.arange(8 * 600) // 600, unit="D")
    rows["event_time"] = pd.Timestamp("2026-03-02", tz="UTC") + offset
    found = calibrate(
        rows, {"amount": date(2026, 3, 1)}, POLICY, (), rounds=1, sample_days=2, rows_kept=20_000, seed=1
    )
    assert [each.rule for each in found] == [*replayed.RULES, f"{FEATURE}: values gone missing"]
    assert {each.rule for each in found if each.smallest_shift} == {
        FEATURE, replayed.PREDICTION, f"{FEATURE}: values gone missing",
    }  # fmt: skip
    document = {"days": 8, "rounds": 1, "rows_a_day": 600, "slices_compared": ["night"],
                "slices_too_small": [], "not_counted": ["errors"],
                "budget": "1 in 91 days", "within_budget": True,
                "rules": [each.model_dump() for each in found]}  # fmt: skip
    Console(width=200).print(table(document))
    printed = capsys.readouterr().out
    assert "prediction drift alerts" in printed
    assert "600 rows a day; slices compared: night; too small: none" in printed
    assert "not counted: errors" in printed


def test_a_slice_is_compared_where_it_is_large_enough_on_half_of_the_days(history: pd.DataFrame) -> None:
    thin = history.iloc[:: max(1, len(history) // REFERENCE_ROWS)]
    found = [compared_slices(rows, SLICES, POLICY.drift.slice_rows_min) for rows in (history, thin)]
    assert set(found[1]) < set(found[0])
    assert "afternoon" in found[1]


def test_another_rule_that_sees_a_shift_does_not_count_for_that_of_slices() -> None:
    """Every row is in the slice, so the whole shows all of it, and the slice is left out."""
    generator = np.random.default_rng(5)
    frames = []
    for each in range(8):
        rows = pd.DataFrame(generator.normal(size=(800, 2)), columns=["amount", "score"])
        at = pd.Timestamp("2026-03-02", tz="UTC") + pd.Timedelta(days=each)
        frames.append(rows.assign(event_time=at, amount_minor=100))
    days = replayed.by_day(pd.concat(frames))
    masks = {"amount_small": SLICE_MASKS["amount_small"]}
    since = {"amount": date(2026, 3, 1)}
    found = replayed.smallest_in_slices(days, since, POLICY.drift, masks, replayed.SHIFTS[6:], 2)
    assert found == {"amount_small": float("inf")}


def test_a_column_is_moved_by_its_deviations_and_one_without_values_stays_so_and_warns_of_nothing() -> None:
    rows = pd.DataFrame({"amount": [1.0, 3.0, np.nan], "empty": [np.nan] * 3})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = replayed.moved(rows, ["amount", "empty"], 2.0)
    assert found["amount"].tolist()[:2] == [3.0, 5.0]
    assert found["amount"].isna().tolist() == [False, False, True]
    assert found["empty"].isna().all()
