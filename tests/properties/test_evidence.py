"""Laws of the evidence: bands share out the rows as the service decides, weeks the days, costs add up."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.conf.contract import ErrorCosts
from jobs.conf.policy import load_policy
from jobs.evaluation import metrics
from jobs.evaluation.decision_bands import band_masks
from jobs.evaluation.stability import week_masks
from jobs.serving.bundle import decide
from jobs.training.model_card import description_of

DECISIONS = load_policy().decisions
FIRST = date(2026, 1, 1)
edges = st.sampled_from([0.0, 0.3, 0.5, 0.7, 0.9, 1.0])
scored = st.lists(
    st.tuples(st.integers(0, 10), st.integers(0, 1), st.integers(0, 50_000)), min_size=2, max_size=60
)


@given(st.lists(st.one_of(edges, st.floats(0, 1)), min_size=1), edges, edges, edges)
def test_every_row_is_in_the_band_of_its_decision_and_in_no_other(
    scores: list[float], review: float, challenge: float, block: float
) -> None:
    limits = {"review_above": review, "challenge_above": challenge, "block_above": block}
    policy = DECISIONS.model_copy(update=limits)
    masks = band_masks(np.array(scores), policy)
    for place, score in enumerate(scores):
        assert [name for name, mask in masks.items() if mask[place]] == [decide(score, policy)]


@given(st.lists(st.integers(0, 40), min_size=1), st.integers(0, 40))
def test_every_day_of_the_test_is_in_one_week_of_at_most_seven_days(offsets: list[int], last: int) -> None:
    days = pd.Series([FIRST + timedelta(days=offset) for offset in offsets])
    masks = week_masks(days, FIRST, FIRST + timedelta(days=last))
    inside = np.array(offsets) <= last
    assert np.array_equal(np.sum(list(masks.values()), axis=0), inside.astype(int))
    for mask in masks.values():
        week = days[mask]
        assert week.empty or (week.max() - week.min()).days < 7


@given(scored, st.integers(0, 2_000), st.floats(0, 1))
def test_costs_of_every_threshold_are_those_of_its_wrong_decisions(
    rows: list[tuple[int, int, int]], alarm: int, share: float
) -> None:
    score, label, amount = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    costs = ErrorCosts(false_alarm_minor=alarm, missed_fraud_share=share)
    curve = metrics.cost_curve(score, label, amount, costs)
    if label.sum() in (0, len(label)):
        assert curve is None
        return
    assert curve is not None
    assert curve.threshold.tolist() == sorted(set(score), reverse=True)
    for threshold, cost in zip(curve.threshold, curve.cost_minor, strict=True):
        wrong = [
            share * money if truth else (alarm if own >= threshold else 0.0)
            for own, truth, money in zip(score, label, amount, strict=True)
            if not truth or own < threshold
        ]
        assert cost == pytest.approx(sum(wrong), abs=1e-6)


@given(
    st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=300)),
    st.integers(200, 900),
)
def test_a_description_is_never_longer_than_the_registry_takes(sections: list[str], length: int) -> None:
    card = "\n## ".join(["# fraud", *sections])
    found = description_of(card, length)
    assert len(found) <= length
    assert (found == card) == (len(card) <= length)
