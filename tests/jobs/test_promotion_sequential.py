"""Looking many times: evidence against numerical integration and enumeration, looks against simulation."""

from __future__ import annotations

from dataclasses import replace
from math import exp, log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from scipy import integrate, stats

from jobs.core import Outcome
from jobs.promotion.look import CHECKS, latest_look, step_alpha
from jobs.promotion.score_checks import clustered_auc
from jobs.promotion.sequential import is_proven, log_evidence, look_number, look_size, spent_at
from jobs.promotion.state import steps_of
from jobs.promotion.verdict import judge
from tests.promotion_trials import DEMO, seen

shares = some.floats(0.01, 0.99)


@settings(deadline=None)
@given(trials=some.integers(1, 60), part=some.floats(0, 1), share=shares)
def test_evidence_is_the_mean_likelihood_ratio_over_all_shares_above(
    trials: int, part: float, share: float
) -> None:
    successes = round(part * trials)

    def ratio(other: float) -> float:
        return float(
            np.exp(
                stats.binom.logpmf(successes, trials, other) - stats.binom.logpmf(successes, trials, share)
            )
        )

    best = min(max(successes / trials, share), 1.0)
    area = integrate.quad(ratio, share, best)[0] + integrate.quad(ratio, best, 1.0)[0]
    expected = area / (1 - share)
    assert log_evidence(successes, trials, share) == pytest.approx(log(expected), abs=1e-4)


@settings(deadline=None)
@given(trials=some.integers(1, 40), share=shares, truth=shares)
def test_evidence_for_what_is_not_so_is_at_most_one_on_average(
    trials: int, share: float, truth: float
) -> None:
    truth = min(truth, share)
    counts = np.arange(trials + 1)
    evidence = np.array([exp(log_evidence(int(count), trials, share)) for count in counts])
    mean = float((evidence * stats.binom.pmf(counts, trials, truth)).sum())
    assert mean <= 1 + 1e-9
    if truth == share:
        assert mean == pytest.approx(1.0)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5])
def test_looked_at_after_every_request_chance_proves_something_at_most_alpha_often(share: float) -> None:
    generator, alpha, trials = np.random.default_rng(3), 0.05, 300
    sums = np.cumsum(generator.random((1000, trials)) < share, axis=1)
    proven = np.array(
        [[is_proven(count, number, share, alpha) for count in range(number + 1)] + [False] * (trials - number)
         for number in range(1, trials + 1)]
    )  # fmt: skip
    ever = proven[np.arange(trials), sums].any(axis=1)
    once_each = (stats.binom.sf(sums - 1, np.arange(1, trials + 1), share) < alpha).any(axis=1)
    assert ever.mean() <= alpha
    assert once_each.mean() > 2 * alpha  # what a new alpha at each look would cost


def test_planned_looks_spend_alpha_once_however_many_there_are() -> None:
    generator, alpha = np.random.default_rng(5), 0.05
    sizes = np.array([look_size(number) for number in range(1, 25)])
    counts = np.cumsum(generator.random((4000, sizes[-1])) < 0.5, axis=1)[:, sizes - 1]
    p_values = np.minimum(1.0, 2 * np.minimum(
        stats.binom.cdf(counts, sizes, 0.5), stats.binom.sf(counts - 1, sizes, 0.5)
    ))  # fmt: skip
    spent = np.array([spent_at(number, alpha) for number in range(1, 25)])
    assert (p_values < spent).any(axis=1).mean() <= alpha
    assert (p_values < alpha).any(axis=1).mean() > 2 * alpha


@settings(deadline=None)
@given(requests=some.integers(0, 10_000_000))
def test_a_look_is_the_latest_whose_size_is_reached(requests: int) -> None:
    number = look_number(requests)
    assert look_size(number + 1) > requests
    assert number == 0 or look_size(number) <= requests


def test_all_looks_checks_and_steps_together_spend_the_alpha_of_the_policy() -> None:
    looks = sum(spent_at(number, step_alpha(DEMO)) for number in range(1, 10_000))
    assert 0.99 * DEMO.canary.alpha < looks * len(CHECKS) * len(steps_of(DEMO)) <= DEMO.canary.alpha


def test_asking_again_before_the_next_planned_look_is_the_same_look() -> None:
    evidence = seen(step="canary_25", seconds=9.0)
    rows = evidence.challenger.sort_values("seconds")
    number = look_number(len(rows))
    shorter = replace(evidence, challenger=rows.head(look_size(number)))
    first, second = latest_look(evidence, DEMO), latest_look(shorter, DEMO)
    assert (first.number, first.alpha) == (second.number, second.alpha)
    assert len(first.evidence.challenger) == look_size(number)
    assert first.evidence.challenger.equals(second.evidence.challenger)
    assert first.evidence.champion.equals(second.evidence.champion)
    assert first.evidence.champion["seconds"].max() <= first.evidence.challenger["seconds"].max()


def test_rows_that_come_in_another_order_make_the_same_verdict() -> None:
    evidence = seen(step="canary_50", seconds=9.0)
    mixed = replace(evidence, challenger=evidence.challenger.sample(frac=1.0, random_state=1))
    assert judge(mixed, DEMO).outcome is judge(evidence, DEMO).outcome is Outcome.PASS


@settings(deadline=None)
@given(some.lists(some.tuples(some.integers(0, 5), some.booleans()), min_size=4, max_size=30))
def test_the_area_is_the_share_of_pairs_in_order(rows: list[tuple[int, bool]]) -> None:
    values, top = np.array([row[0] for row in rows], float), np.array([row[1] for row in rows])
    if not 0 < top.sum() < len(top):
        return
    pairs = [(a > b) + 0.5 * (a == b) for a in values[top] for b in values[~top]]
    assert clustered_auc(values, top, np.arange(len(rows)))[0] == pytest.approx(np.mean(pairs))


def test_the_error_of_the_area_is_that_of_drawing_customers_again() -> None:
    generator = np.random.default_rng(8)
    customers = np.repeat(np.arange(60), 5)
    areas, errors = [], []
    for _ in range(400):
        habit = generator.normal(0, 1, 60)[customers]
        top = (habit + generator.normal(0, 0.5, 300)) > 0.6
        values = 0.5 * habit + generator.normal(0, 1, 300)
        area, error = clustered_auc(values, top, customers)
        areas.append(area)
        errors.append(error)
    assert np.mean(errors) == pytest.approx(np.std(areas), rel=0.15)
