"""Figures of an evaluation against scikit-learn's, and small cases worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from jobs.conf.contract import ErrorCosts
from jobs.conf.policy import OperatingPoint
from jobs.evaluation import metrics

GENERATOR = np.random.default_rng(3)
LABELS = (GENERATOR.random(5_000) < 0.04).astype(int)
SCORES = np.round(np.clip(GENERATOR.normal(0.2 + 0.3 * LABELS, 0.15), 0, 1), 2)  # many ties


def test_average_precision_and_roc_auc_are_those_of_sklearn_with_ties() -> None:
    ranking = metrics.Ranking(SCORES, LABELS)
    assert ranking.average_precision() == pytest.approx(average_precision_score(LABELS, SCORES), abs=1e-12)
    assert ranking.roc_auc() == pytest.approx(roc_auc_score(LABELS, SCORES), abs=1e-12)


def test_a_resample_is_the_same_as_repeating_the_drawn_rows() -> None:
    ranking = metrics.Ranking(SCORES, LABELS)
    for weights in metrics.resamples(len(LABELS), 3, seed=5):
        drawn = np.repeat(np.arange(len(LABELS)), weights.astype(int))
        assert weights.sum() == len(LABELS)
        expected = average_precision_score(LABELS[drawn], SCORES[drawn])
        assert ranking.average_precision(weights) == pytest.approx(expected, abs=1e-12)
        assert ranking.roc_auc(weights) == pytest.approx(
            roc_auc_score(LABELS[drawn], SCORES[drawn]), abs=1e-12
        )


def test_resamples_of_one_seed_are_the_same_rows_for_every_model() -> None:
    first, second = (list(metrics.resamples(50, 4, seed=9)) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_figures_without_fraud_or_without_good_rows_are_not_numbers() -> None:
    scores = np.array([0.1, 0.2])
    for labels in (np.array([0, 0]), np.array([1, 1])):
        ranking = metrics.Ranking(scores, labels)
        assert math.isnan(ranking.average_precision())
        assert math.isnan(ranking.roc_auc())
        assert math.isnan(metrics.recall_at_fpr(scores, labels, 0.01))


def test_an_interval_with_undefined_resamples_is_undefined() -> None:
    assert math.isnan(metrics.interval([0.1, float("nan"), 0.2])[0])
    assert math.isnan(metrics.interval([])[1])
    assert metrics.interval(np.linspace(0, 1, 1001)) == pytest.approx((0.025, 0.975))


def test_brier_is_that_of_sklearn() -> None:
    assert metrics.brier(SCORES, LABELS) == pytest.approx(brier_score_loss(LABELS, SCORES))


def test_calibration_error_of_a_case_by_hand() -> None:
    scores = np.array([0.05, 0.05, 0.95, 0.95])
    labels = np.array([0, 1, 1, 1])
    # lowest bin: score 0.05, half are fraud (gap 0.45); highest bin: 0.95 against 1 (gap 0.05)
    assert metrics.expected_calibration_error(scores, labels) == pytest.approx((0.45 + 0.05) / 2)


def test_recall_at_one_percent_of_false_alarms() -> None:
    scores = np.concatenate([np.linspace(0, 0.5, 200), [0.9, 0.499, 0.2]])
    labels = np.concatenate([np.zeros(200), np.ones(3)]).astype(int)
    # two of 200 good rows may be stopped: those at 0.5 and just below; 0.499 lies above the second one
    assert metrics.recall_at_fpr(scores, labels, 0.01) == pytest.approx(2 / 3)


def test_card_precision_counts_a_card_once_a_day_and_leaves_out_found_cards() -> None:
    days = np.array([1, 1, 1, 2, 2])
    cards = np.array([10, 10, 11, 10, 12])
    labels = np.array([1, 0, 0, 1, 1])
    scores = np.array([0.2, 0.9, 0.5, 0.99, 0.1])
    # day 1: card 10 leads and is compromised; day 2: card 10 was found, so card 12 is looked at
    assert metrics.card_precision(scores, labels, cards, days, budget=1) == pytest.approx(1.0)
    assert metrics.card_precision(scores, labels, cards, days, budget=2) == pytest.approx(0.5)


def test_operating_point_is_the_cheapest_within_the_limits() -> None:
    costs = ErrorCosts(false_alarm_minor=500, missed_fraud_share=1.0)
    scores = np.array([0.9, 0.8, 0.7, 0.1])
    labels = np.array([1, 0, 1, 0])
    amounts = np.array([1_000.0, 50.0, 200.0, 50.0])
    loose = OperatingPoint(false_positive_rate_max=0.5, fraud_caught_min=1.0)
    curve = metrics.cost_curve(scores, labels, amounts, costs)
    found = metrics.operating_points(curve, loose)
    assert (found["chosen_threshold"], found["chosen_cost_minor"]) == (0.7, 500.0)
    assert (found["cheapest_threshold"], found["cheapest_cost_minor"]) == (0.9, 200.0)
    tight = OperatingPoint(false_positive_rate_max=0.0, fraud_caught_min=1.0)
    found = metrics.operating_points(curve, tight)
    assert found["within_limits"] == 0.0
    assert found["chosen_threshold"] == found["cheapest_threshold"]
