"""The score of a policy, against figures counted by hand, scipy and brute force."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from jobs.conf.contract import ErrorCosts
from jobs.evaluation.metrics import Ranking
from jobs.replay.score import RATIOS, day_figures, differences, drawn_days, estimates, ratio
from jobs.replay.versions import drawn_precision, false_promotions

MONDAY = date(2026, 3, 2)
COSTS = ErrorCosts(false_alarm_minor=500, missed_fraud_share=1.0)


def days_of(count: int) -> list[date]:
    return [MONDAY + timedelta(days=number) for number in range(count)]


def answers(*rows: tuple[int, str, int, int]) -> pd.DataFrame:
    """(day number, decision, amount in minor units, is_fraud)."""
    return pd.DataFrame(
        {
            "day": [MONDAY + timedelta(days=row[0]) for row in rows],
            "decision": [row[1] for row in rows],
            "amount_minor": [row[2] for row in rows],
            "is_fraud": [float(row[3]) for row in rows],
        }
    )


def test_a_day_is_counted_in_frauds_alerts_and_money() -> None:
    found = day_figures(
        answers(
            (0, "block", 10_000, 1),  # a fraud that is stopped
            (0, "approve", 4_000, 1),  # one that is missed
            (0, "review", 7_000, 0),  # a false alarm
            (0, "block", 7_000, 0),  # and an honest payment that is blocked
            (0, "approve", 900, 0),
            (1, "approve", 2_000, 1),  # a day on which nothing was stopped is a bad one
        ),
        days_of(3),
        COSTS,
    )
    first = found.loc[MONDAY]
    assert (first["rows"], first["frauds"], first["alerts"], first["caught"]) == (5, 2, 3, 1)
    assert (first["fraud_amount"], first["stopped_amount"]) == (14_000, 10_000)
    assert (first["false_alarms"], first["false_declines"]) == (2, 1)
    assert first["saved"] == 10_000 - 2 * 500
    assert list(found["bad"]) == [0, 1, 0]  # a day without traffic is not a bad one
    score = {name: each.value for name, each in estimates(found, 100).items()}
    assert score["fraud_caught_per_100_alerts"] == pytest.approx(100 / 3)
    assert score["saved_a_day"] == pytest.approx(90 / 3)
    assert score["share_of_fraud_amount_stopped"] == pytest.approx(10_000 / 16_000)


def made_figures(count: int, seed: int) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    frame = pd.DataFrame({name: generator.gamma(3.0, 2.0, count) for name, _, _ in RATIOS.values()})
    for below in ("alerts", "fraud_amount"):
        frame[below] = generator.gamma(9.0, 2.0, count)
    return frame.set_index(pd.Index(days_of(count)))


def test_the_interval_over_days_is_the_percentile_bootstrap_of_scipy() -> None:
    figures = made_figures(40, 1)
    found = estimates(figures, 20_000)["saved_a_day"]
    theirs = stats.bootstrap(
        (figures["saved"].to_numpy() / 100,), np.mean, n_resamples=20_000, method="percentile", rng=1
    ).confidence_interval
    assert found.low == pytest.approx(theirs.low, rel=0.02)
    assert found.high == pytest.approx(theirs.high, rel=0.02)


def test_eight_weeks_are_drawn_as_weeks_and_fewer_as_days() -> None:
    few, many = drawn_days(days_of(55 - 7), 200), drawn_days(days_of(56), 200)
    weeks = many.reshape(200, 8, 7)
    assert (weeks == weeks[:, :, :1]).all()
    assert not (few[:, 0] == few[:, 1]).all()
    assert set(few.sum(axis=1)) == {48.0}
    assert set(many.sum(axis=1)) == {56.0}


def test_the_difference_of_a_policy_from_itself_is_nothing_on_every_draw() -> None:
    figures = made_figures(20, 2)
    for each in differences(figures, figures, 200).values():
        assert (each.value, each.low, each.high) == (0.0, 0.0, 0.0)


def test_days_are_paired_so_that_what_is_common_to_both_policies_cancels() -> None:
    one, other = made_figures(30, 3), made_figures(30, 3)
    one["saved"] += 100.0
    found = differences(one, other, 500)["saved_a_day"]
    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)


def test_a_figure_without_anything_to_divide_by_is_not_defined() -> None:
    figures = made_figures(3, 4)
    figures["alerts"] = 0.0
    assert np.isnan(ratio(figures, "fraud_caught_per_100_alerts", np.ones((1, 3)))).all()
    assert estimates(figures, 100)["fraud_caught_per_100_alerts"].value is None


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 8), st.booleans()), min_size=1, max_size=60),
    st.integers(0, 10_000),
)
def test_precision_over_drawn_days_is_that_of_the_rows_so_often(
    rows: list[tuple[int, int, bool]], seed: int
) -> None:
    places = np.array([row[0] for row in rows])
    scores, truth = np.array([row[1] / 8 for row in rows]), np.array([float(row[2]) for row in rows])
    ranking = Ranking(scores, truth)
    drawn = np.random.default_rng(seed).multinomial(4, [0.25] * 4, size=5).astype(float)
    found = drawn_precision(ranking, places, drawn)
    for weights, value in zip(drawn, found, strict=True):
        of_rows = weights[places]
        if 0 < (of_rows * truth).sum() < of_rows.sum():
            assert value == pytest.approx(ranking.average_precision(of_rows))


def test_a_promotion_is_false_only_where_its_interval_lies_below_nothing() -> None:
    def champion(low: float, high: float) -> dict[str, object]:
        return {"against_replaced": {"pr_auc_difference": {"value": 0.0, "low": low, "high": high}}}

    found = false_promotions(
        [champion(-0.2, -0.1), champion(-0.1, 0.1), champion(0.1, 0.2), {"against_replaced": {}}, {}]
    )
    assert found == {"worse": 1, "not clearly either": 1, "better": 1, "not known": 1}
