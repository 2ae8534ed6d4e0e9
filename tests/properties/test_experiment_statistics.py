"""The statistics of experiments beside statsmodels and scipy, published tables, and simulation."""

from __future__ import annotations

import warnings
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import NormalIndPower
from statsmodels.stats.proportion import (
    confint_proportions_2indep,
    proportions_ztest,
    samplesize_proportions_2indep_onetail,
)
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

from jobs.conf.policy import load_policy
from jobs.core import SluiceError
from jobs.experiments.comparison import (
    cuped,
    linearised,
    newcombe_interval,
    sample_ratio_p_value,
    summary,
    two_proportions,
    welch,
)
from jobs.experiments.customers import Assigned
from jobs.experiments.looks import BETTER, WORSE, Look, results_of
from jobs.experiments.metrics import METRICS, Reading, read_metrics
from jobs.experiments.sample_size import for_means, for_proportions
from jobs.experiments.sequential import boundaries, crossing_probability, inflation, sequential_p_value, spent
from jobs.monitoring.statistics import holm

POLICY = load_policy().experiments
EVEN = [0.2, 0.4, 0.6, 0.8, 1.0]
VALUES = st.lists(st.floats(-1e4, 1e4, width=32), min_size=3, max_size=40)


@settings(max_examples=60, deadline=None)
@given(control=VALUES, treatment=VALUES)
def test_welch_gives_what_statsmodels_gives(control: list[float], treatment: list[float]) -> None:
    first, second = np.array(control), np.array(treatment)
    if min(first.std(), second.std()) < 1e-3:
        return
    found = welch(summary(first), summary(second))
    peer = CompareMeans(DescrStatsW(second), DescrStatsW(first))
    assert found.p_value == pytest.approx(peer.ttest_ind(usevar="unequal")[1], rel=1e-6, abs=1e-12)
    expected = peer.tconfint_diff(alpha=0.05, usevar="unequal")
    assert found.interval(stats.norm.isf(0.025)) == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert 2 * stats.norm.sf(abs(found.z_score)) == pytest.approx(found.p_value, rel=1e-6, abs=1e-12)


def test_arms_that_never_vary_are_no_evidence_unless_they_differ() -> None:
    assert welch((0.0, 0.0, 50), (0.0, 0.0, 60)).p_value == 1.0
    assert np.isnan(welch((0.0, 1.0, 1), (0.0, 1.0, 60)).p_value), "one customer has no variance"


@settings(max_examples=100, deadline=None)
@given(st.integers(20, 5000), st.integers(20, 5000), st.floats(0, 1), st.floats(0, 1))
def test_two_proportions_give_what_statsmodels_gives(
    n_c: int, n_t: int, share_c: float, share_t: float
) -> None:
    hits_c, hits_t = round(share_c * n_c), round(share_t * n_t)
    found = two_proportions(hits_c, n_c, hits_t, n_t)
    if 0 < hits_c + hits_t < n_c + n_t:
        expected = proportions_ztest([hits_t, hits_c], [n_t, n_c])[1]
        assert found.p_value == pytest.approx(expected, rel=1e-8, abs=1e-12)
    else:
        assert found.p_value == 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = confint_proportions_2indep(hits_t, n_t, hits_c, n_c, compare="diff", method="newcomb")
    ours = newcombe_interval(hits_c, n_c, hits_t, n_t, float(stats.norm.isf(0.025)))
    assert ours == pytest.approx(expected, abs=1e-9)


def test_cuped_is_the_analysis_of_covariance() -> None:
    generator = np.random.default_rng(3)
    before = generator.gamma(2.0, [1.0, 5e4, 9e3], (4_000, 3))
    treated = generator.random(4_000) < 0.3
    values = before @ [2.0, 1e-4, 0.0] + 0.4 * treated + generator.normal(0, 1, 4_000)
    adjusted = cuped(values, treated, before)
    scaled = before / before.std(axis=0)
    fitted = sm.OLS(values, sm.add_constant(np.column_stack([treated.astype(float), scaled]))).fit()
    found = welch(summary(adjusted[~treated]), summary(adjusted[treated]))
    assert float(found.effect) == pytest.approx(fitted.params[1], rel=1e-9)
    assert float(found.standard_error) == pytest.approx(fitted.bse[1], rel=0.03)
    assert adjusted.var() < 0.1 * values.var()
    assert adjusted.mean() == pytest.approx(values.mean()), "the level stays"


def test_cuped_by_figures_that_say_nothing_changes_nothing() -> None:
    values, treated = np.array([1.0, 2.0, 4.0, 8.0]), np.array([True, True, False, False])
    assert cuped(values, treated, np.ones((4, 2))).tolist() == values.tolist()


def test_a_ratios_standard_error_is_that_of_drawing_customers_again() -> None:
    generator = np.random.default_rng(5)
    count = generator.poisson(6, 1_000) + 1.0
    hits = generator.binomial(count.astype(int), generator.beta(1, 9, 1_000)).astype(float)
    values = linearised(hits, count)
    assert values.mean() == pytest.approx(hits.sum() / count.sum())
    draws = generator.multinomial(1_000, np.full(1_000, 1 / 1_000), size=2_000).astype(float)
    expected = ((draws @ hits) / (draws @ count)).std()
    assert values.std(ddof=1) / np.sqrt(1_000) == pytest.approx(expected, rel=0.05)
    naive = np.sqrt(hits.sum() / count.sum() * (1 - hits.sum() / count.sum()) / count.sum())
    assert naive < 0.85 * expected, "transactions of one customer are no fresh draws"


def test_the_split_is_held_against_the_intended_one_and_not_against_halves() -> None:
    assert sample_ratio_p_value(950, 50, 0.05) > 0.5
    assert sample_ratio_p_value(500, 500, 0.05) < 1e-9
    assert sample_ratio_p_value(9_300, 700, 0.05) < POLICY.sample_ratio_p_value
    chi_square = stats.chisquare([949_300, 50_700], [950_000, 50_000]).pvalue
    assert sample_ratio_p_value(949_300, 50_700, 0.05) == pytest.approx(chi_square, rel=0.05)
    assert np.isnan(sample_ratio_p_value(0, 0, 0.05))


def test_holm_gives_what_statsmodels_gives() -> None:
    for p_values in np.random.default_rng(8).random((5, 5)) ** 4:
        assert holm(list(p_values)) == pytest.approx(multipletests(p_values, method="holm")[1])


@pytest.mark.parametrize(
    ("looks", "published"),
    [
        (2, [2.9626, 1.9686]),
        (3, [3.7103, 2.5114, 1.9930]),
        (5, [4.8769, 3.3569, 2.6803, 2.2898, 2.0310]),
    ],
)
def test_boundaries_are_the_published_ones(looks: int, published: list[float]) -> None:
    """Lan and DeMets' O'Brien-Fleming type, two-sided 5 %, as R's ldbounds and textbooks print them."""
    found = boundaries(0.05, [look / looks for look in range(1, looks + 1)])
    assert found == pytest.approx(published, abs=2e-4)


def test_one_look_is_the_ordinary_test() -> None:
    assert boundaries(0.05, [1.0])[0] == pytest.approx(stats.norm.isf(0.025), abs=1e-6)
    for z_score in (0.3, 1.96, 3.1):
        assert sequential_p_value([z_score], [1.0]) == pytest.approx(2 * stats.norm.sf(z_score), rel=1e-3)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 10), min_size=1, max_size=5), st.sampled_from([0.01, 0.05, 0.1]))
def test_uneven_looks_spend_exactly_alpha(gaps: list[int], alpha: float) -> None:
    amounts = np.cumsum(gaps).astype(float)
    times = amounts / amounts[-1]
    bounds = boundaries(alpha, list(times), list(amounts))
    assert crossing_probability(list(bounds), list(amounts)) == pytest.approx(alpha, abs=1e-6)
    assert all(first <= second + 1e-9 for first, second in pairwise(spent(alpha, time) for time in times))
    walk = np.random.default_rng(7).normal(size=(100_000, len(gaps))) * np.sqrt(gaps)
    scores = np.abs(walk.cumsum(axis=1)) / np.sqrt(amounts)
    share = (scores >= bounds).any(axis=1).mean()
    assert abs(share - alpha) < 4.5 * np.sqrt(alpha * (1 - alpha) / 100_000)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=5), st.floats(0.001, 0.3))
def test_a_sequential_p_value_is_below_alpha_where_a_boundary_was_crossed(
    scores: list[float], alpha: float
) -> None:
    times = EVEN[: len(scores)]
    p_value = sequential_p_value(scores, times)
    crossed = bool((np.abs(scores) >= boundaries(alpha, times)).any())
    if abs(p_value / alpha - 1) > 1e-3:
        assert crossed == (p_value < alpha)


def test_looks_that_do_not_go_forward_are_refused() -> None:
    with pytest.raises(SluiceError, match="must rise"):
        boundaries(0.05, [0.4, 0.4])
    assert np.isinf(boundaries(0.05, [0.01])[0]), "nothing to spend yet"


@pytest.mark.parametrize(("share", "power"), [(0.5, 0.8), (0.05, 0.9), (0.25, 0.8)])
def test_sample_sizes_are_those_of_statsmodels(share: float, power: float) -> None:
    ratio = (1 - share) / share  # control over treatment
    sizes = for_means(20.0, 1.5, alpha=0.01, power=power, share=share)
    peer = NormalIndPower().solve_power(effect_size=1.5 / 20, alpha=0.01, power=power, ratio=ratio)
    assert sizes.treatment == pytest.approx(peer, abs=1.01)
    assert sizes.control == pytest.approx(peer * ratio, abs=1.01)
    found = for_proportions(0.02, 0.004, alpha=0.05, power=power, share=share)
    if share == 0.5:
        peer = samplesize_proportions_2indep_onetail(0.004, 0.02, power, ratio=1, alpha=0.05)
        assert found.control == pytest.approx(peer, rel=1e-3)
    generator = np.random.default_rng(9)
    hits = generator.binomial(found.control, 0.02, 20_000), generator.binomial(found.treatment, 0.024, 20_000)
    shown = two_proportions(hits[0], found.control, hits[1], found.treatment).p_value < 0.05
    assert shown.mean() == pytest.approx(power, abs=0.025)


def test_impossible_plans_are_refused() -> None:
    with pytest.raises(SluiceError, match="change of 0"):
        for_means(1.0, 0.0, alpha=0.05, power=0.8, share=0.5)
    with pytest.raises(SluiceError, match=r"from 0\.9 to 1\.1"):
        for_proportions(0.9, 0.2, alpha=0.05, power=0.8, share=0.5)


def test_what_several_looks_cost_is_what_restores_the_power() -> None:
    factor = inflation(POLICY.alpha, POLICY.power, POLICY.looks)
    assert 1.02 < factor < 1.03
    times = np.array(EVEN)
    drift = (stats.norm.isf(0.025) + stats.norm.isf(0.2)) * np.sqrt(factor)
    steps = np.random.default_rng(2).normal(drift * 0.2, np.sqrt(0.2), (200_000, 5))
    crossed = (np.abs(steps.cumsum(axis=1) / np.sqrt(times)) >= boundaries(0.05, EVEN)).any(axis=1)
    assert crossed.mean() == pytest.approx(POLICY.power, abs=0.004)


def null_experiments(
    experiments: int, customers: int, looks: int, generator: np.random.Generator
) -> np.ndarray:
    """z-scores [experiments, looks, metrics] of Welch's test on two arms that are one.

    At each look so many new customers come to each arm. The first metric is money that few lose, the second
    how many lose any, the third has nothing to do with them.
    """
    sums = np.zeros((2, experiments, looks, 3))
    squares = np.zeros_like(sums)
    for arm in range(2):
        for look in range(looks):
            hit = generator.random((experiments, customers), dtype=np.float32) < 0.2
            money = hit * generator.standard_exponential((experiments, customers), dtype=np.float32)
            other = generator.standard_normal((experiments, customers), dtype=np.float32)
            for metric, values in enumerate((money, hit.astype(np.float32), other)):
                sums[arm, :, look, metric] = values.sum(axis=1)
                squares[arm, :, look, metric] = (values**2).sum(axis=1)
    count = customers * np.arange(1, looks + 1)[None, :, None].astype(float)
    mean = sums.cumsum(axis=2) / count
    variance = (squares.cumsum(axis=2) - count * mean**2) / (count - 1)
    return welch((mean[0], variance[0], count), (mean[1], variance[1], count)).z_score


def test_no_more_than_alpha_of_20_000_null_experiments_with_five_looks_find_anything() -> None:
    generator = np.random.default_rng(1)
    scores = np.abs(np.concatenate([null_experiments(2_500, 100, POLICY.looks, generator) for _ in range(8)]))
    assert scores.shape == (20_000, 5, 3)
    one = boundaries(POLICY.alpha, EVEN)
    for metric in range(3):
        assert 0.04 < (scores[:, :, metric] >= one).any(axis=1).mean() <= 0.055
    # Holm finds something where the smallest p-value is below alpha over the number of metrics
    family = boundaries(POLICY.alpha / 3, EVEN)
    assert 0.02 < (scores >= family[None, :, None]).any(axis=(1, 2)).mean() <= 0.055
    naive = (scores[:, :, 2] >= stats.norm.isf(0.025)).any(axis=1).mean()
    assert naive > 0.12, "the same experiments, looked at five times without spending"


@pytest.mark.parametrize(("share", "percent"), [(0.2, 50), (0.02, 50), (0.02, 25)])
def test_no_more_than_alpha_of_20_000_null_readouts_of_a_share_of_customers_find_anything(
    share: float, percent: int
) -> None:
    generator, looks = np.random.default_rng(4), np.arange(1, POLICY.looks + 1)
    treatment = 2 * POLICY.customers_min * percent // 100  # new customers of a look
    control = 2 * POLICY.customers_min - treatment
    hits = [
        generator.binomial(customers, share, (20_000, POLICY.looks)).cumsum(axis=1)
        for customers in (control, treatment)
    ]
    scores = np.abs(two_proportions(hits[0], control * looks, hits[1], treatment * looks).z_score)
    assert 0.04 < (scores >= boundaries(POLICY.alpha, EVEN)).any(axis=1).mean() <= 0.055
    naive = (scores >= stats.norm.isf(POLICY.alpha / 2)).any(axis=1).mean()
    assert naive > 0.12, "the same experiments, looked at five times without spending"


def test_every_metric_has_a_name_of_its_own_and_says_which_way_is_better() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    assert {metric.better for metric in METRICS} <= {-1, 1}


class NullExperiment:
    """Customers with habits of their own, in two arms that are one, as looks see them."""

    def __init__(self, generator: np.random.Generator, customers: int) -> None:
        self.draw = generator
        self.rate = generator.gamma(2.0, 2.0, customers)
        self.risk = generator.beta(0.4, 6.0, customers)
        self.watched = generator.beta(1.0, 12.0, customers)
        self.treated = generator.random(customers) < 0.5
        count, fraud, amount, _, _ = self._days(3.0)
        self.before = np.column_stack([count, 40.0 * count, amount * fraud])
        self.sums = np.zeros((5, customers))

    def _days(self, share: float) -> np.ndarray:
        """Sums of a time by customer: transactions, frauds, their amount, honest ones stopped, challenges."""
        count = self.draw.poisson(self.rate * share)
        fraud = self.draw.binomial(count, self.risk)
        amount = fraud * self.draw.exponential(80.0, len(count))
        stopped = self.draw.binomial(count - fraud, self.watched)
        return np.array([count, fraud, amount, stopped, self.draw.binomial(stopped, 0.5)], dtype=float)

    def read(self) -> tuple[list[Reading], float]:
        """The readings after some days more, and the transactions that they rest on."""
        self.sums += self._days(1.0)
        count, fraud, amount, stopped, challenged = self.sums
        rows = pd.DataFrame(
            {"treated": self.treated, "fraud_lost": amount, "let_through": count, "let_through_frauds": fraud,
             "honest": count - fraud, "honest_stopped": stopped, "defrauded": (fraud > 0).astype(float),
             "challenged": (challenged > 0).astype(float)}
        )  # fmt: skip
        seen = count > 0
        answers = pd.DataFrame({"score": [], "weight": [], "treated": [], "transaction_id": []})
        assigned = Assigned(answers, ("1", "2"), (0, 0), 0, 0, (False, False))
        return read_metrics(assigned, rows[seen], self.before[seen], set(), 0), float(count.sum())

    def found(self) -> set[str]:
        """Metrics that differ at the last look or before, all metrics and looks taken together."""
        looks = [self.read() for _ in EVEN]
        before = {
            metric.name: tuple(readings[place].z_score for readings, _ in looks[:-1])
            for place, metric in enumerate(METRICS)
        }
        counts = tuple(transactions for _, transactions in looks)
        scores = np.array([[each.z_score for each in readings] for readings, _ in looks])
        if not (np.abs(scores) >= boundaries(POLICY.alpha, EVEN, counts)[:, None]).any():
            return set()  # what no metric shows alone, none shows among others: no need to ask
        look = Look(len(EVEN), tuple(EVEN), counts, 2.0, before)
        results = results_of(looks[-1][0], look, POLICY.alpha)
        return {each.reading.metric.name for each in results if each.conclusion in (BETTER, WORSE)}


def test_no_more_than_alpha_of_null_experiments_find_anything_by_their_own_readings() -> None:
    generator = np.random.default_rng(6)
    experiments = [NullExperiment(generator, 2 * POLICY.customers_min) for _ in range(250)]
    found = np.mean([bool(each.found()) for each in experiments])
    assert 0.0 < found <= 0.075, "0.05, and what 250 of them may show by chance"
