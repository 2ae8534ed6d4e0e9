"""What decisions save a day: against sums by hand, plain Python and scipy's test of paired differences."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from jobs.conf.contract import ErrorCosts
from jobs.conf.policy import load_policy
from jobs.evaluation.decision_bands import savings
from jobs.evaluation.money import by_day, paired_interval, saved_minor
from jobs.serving.bundle import decide
from jobs.training.evidence import Savings

DECISIONS = load_policy().decisions
COSTS = ErrorCosts(false_alarm_minor=500, missed_fraud_share=0.8)
MONDAY = date(2026, 3, 2)


def days_of(count: int) -> list[date]:
    return [MONDAY + timedelta(days=number) for number in range(count)]


def rows_of(*rows: tuple[int, int, int]) -> pd.DataFrame:
    """(day number, is_fraud, amount in minor units)."""
    return pd.DataFrame(
        {
            "day": [MONDAY + timedelta(days=row[0]) for row in rows],
            "is_fraud": [row[1] for row in rows],
            "amount_minor": [row[2] for row in rows],
        }
    )


def saved(own: list[float], other: list[float] | None, rows: pd.DataFrame, days: int) -> Savings:
    beside = None if other is None else np.array(other)
    return savings(np.array(own), beside, rows, days_of(days), DECISIONS, COSTS)


def test_a_stopped_fraud_saves_its_share_and_a_false_alarm_costs() -> None:
    found = saved_minor([True, True, False, False], [1, 0, 1, 0], [100_00, 70_00, 50_00, 30_00], COSTS)
    assert found.tolist() == [80_00.0, -500.0, 0.0, 0.0]


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 1), st.integers(1, 100_00), st.integers(0, 20)),
        max_size=30,
    )
)
def test_the_money_of_a_day_is_that_of_the_services_own_decisions(
    rows: list[tuple[int, int, int, int]],
) -> None:
    expected = [0.0] * 4
    for day, fraud, amount, score in rows:
        if decide(score / 20, DECISIONS) != "approve":
            expected[day] += 0.8 * amount if fraud else -500.0
    found = saved([row[3] / 20 for row in rows], None, rows_of(*(row[:3] for row in rows)), 4)
    assert found.challenger_minor == pytest.approx(sum(expected) / 4)


def test_both_models_are_held_against_each_other_on_the_same_days() -> None:
    rows = rows_of((0, 1, 100_00), (0, 0, 10_00), (1, 1, 50_00), (2, 0, 20_00))
    own, other = [0.95, 0.1, 0.6, 0.1], [0.95, 0.9, 0.2, 0.1]
    found = saved(own, other, rows, 4)
    assert found.challenger_minor == (80_00 + 40_00) / 4
    assert found.champion_minor == (80_00 - 5_00) / 4
    assert found.difference.value == (5_00 + 40_00) / 4
    alike = saved(own, own, rows, 4).difference
    assert (alike.value, alike.low, alike.high) == (0.0, 0.0, 0.0)


def test_a_first_version_has_nobody_beside_it() -> None:
    found = saved([0.95], None, rows_of((0, 1, 100_00)), 2)
    assert found.challenger_minor == 40_00
    assert found.champion_minor is None
    assert found.difference.value is None


def test_a_day_without_rows_is_a_day_and_a_row_of_no_day_is_an_error() -> None:
    days, amounts = days_of(3), np.array([1.0, 2.0, 4.0])
    assert by_day(amounts, [days[2], days[0], days[2]], days).tolist() == [2.0, 0.0, 5.0]
    with pytest.raises(ValueError, match="1 rows are of no day from 2026-03-02"):
        by_day(amounts, [days[2], days[0], MONDAY - timedelta(days=1)], days)
    with pytest.raises(ValueError, match="3 rows are of no day"):
        by_day(amounts, pd.to_datetime([days[2], days[0], days[2]]), days)


@given(
    st.lists(st.integers(-1_000, 1_000), min_size=2, max_size=30).filter(lambda found: len(set(found)) > 1)
)
def test_the_interval_is_that_of_scipys_test_of_paired_differences(differences: list[int]) -> None:
    found = paired_interval(np.array(differences, dtype=float))
    theirs = stats.ttest_1samp(differences, 0.0).confidence_interval(0.95)
    assert found == pytest.approx((theirs.low, theirs.high))


def test_of_one_day_nothing_is_known() -> None:
    assert np.isnan(paired_interval(np.array([-90_00.0]))).all()


@pytest.mark.parametrize("days", [2, 5, 28])
def test_equal_models_lie_wholly_below_zero_as_rarely_as_the_level_says(days: int) -> None:
    generator, trials = np.random.default_rng(days), 4_000
    # a few large frauds that one of the two stops, as a day's money has them
    drawn = generator.poisson(0.5, (trials, days, 2)) * generator.gamma(2.0, 50_00, (trials, days, 2))
    below = sum(paired_interval(each)[1] < 0 for each in drawn[..., 0] - drawn[..., 1])
    assert below / trials < 0.03
