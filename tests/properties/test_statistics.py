"""Laws of the drift statistics, and their agreement with scipy and with sums written out."""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import jensenshannon
from statsmodels.stats.multitest import multipletests

from jobs.monitoring.statistics import (
    as_floats,
    bin_counts,
    chi_square,
    excess_psi,
    expected_psi,
    holm,
    jensen_shannon,
    kolmogorov_smirnov,
    kullback_leibler,
    population_stability_index,
    psi_lower_bound,
    psi_of_counts,
    quantile_edges,
    shared_bins,
    shares,
)

NUMBERS = st.lists(
    st.one_of(st.floats(-1e6, 1e6, allow_nan=False), st.just(math.nan), st.integers(0, 3).map(float)),
    min_size=1,
    max_size=60,
)
COUNTS = st.lists(st.integers(0, 50), min_size=2, max_size=12)


def psi(reference: object, current: object) -> float:
    return population_stability_index(as_floats(reference), as_floats(current), 10, 1e-4)


@given(NUMBERS)
def test_a_sample_has_no_distance_to_itself_in_any_order(values: list[float]) -> None:
    found = psi(values, values[::-1])
    assert math.isnan(found) if all(math.isnan(each) for each in values) else abs(found) < 1e-12


@given(NUMBERS, NUMBERS)
def test_psi_is_never_negative_and_unknown_only_without_values(
    first: list[float], second: list[float]
) -> None:
    found = psi(first, second)
    empty = all(map(math.isnan, first)) or all(map(math.isnan, second))
    assert math.isnan(found) == empty
    assert empty or found >= 0


@given(NUMBERS, NUMBERS)
def test_every_value_lies_in_a_bin_also_outside_the_references_range(
    first: list[float], second: list[float]
) -> None:
    edges = quantile_edges(as_floats(first), 10)
    assert bin_counts(as_floats(second), edges).sum() == len(second)
    assert (np.diff(edges) > 0).all()


@given(NUMBERS, NUMBERS)
def test_divergences_agree_with_scipy(first: list[float], second: list[float]) -> None:
    pair = shared_bins(as_floats(first), as_floats(second), 10, 1e-4)
    if pair is None:
        return
    assert jensen_shannon(*pair) == pytest.approx(float(jensenshannon(*pair)) ** 2, abs=1e-9)
    assert kullback_leibler(pair[1], pair[0]) == pytest.approx(float(stats.entropy(pair[1], pair[0])))
    assert 0 <= jensen_shannon(*pair) <= math.log(2) + 1e-12
    assert jensen_shannon(*pair) == pytest.approx(jensen_shannon(*pair[::-1]))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_is_no_smaller_than_each_p_value_and_no_larger_than_bonferroni(values: list[float]) -> None:
    for adjusted, plain in zip(holm(values), values, strict=True):
        assert plain <= adjusted <= min(1.0, plain * len(values)) + 1e-12


def test_holm_as_in_a_worked_example_with_an_unknown_one() -> None:
    assert holm([0.01, 0.04, math.nan, 0.03]) == pytest.approx([0.03, 0.06, math.nan, 0.06], nan_ok=True)


@given(NUMBERS, NUMBERS)
def test_kolmogorov_smirnov_agrees_with_scipy_also_where_values_tie(
    first: list[float], second: list[float]
) -> None:
    found = kolmogorov_smirnov(as_floats(first), as_floats(second))
    one, two = ([each for each in side if not math.isnan(each)] for side in (first, second))
    if not one or not two:
        assert math.isnan(found)
        return
    if len(one) * len(two) / (len(one) + len(two)) > 0.5:  # scipy's approximation has no answer below
        assert found == pytest.approx(stats.ks_2samp(one, two, method="asymp").pvalue, abs=1e-9)


@pytest.fixture(scope="module")
def nothing_to_collect() -> Iterator[None]:
    """statsmodels collects garbage in each call: a third of a second where all libraries are loaded."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("nothing_to_collect")
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_agrees_with_statsmodels(values: list[float]) -> None:
    assert holm(values) == pytest.approx(list(multipletests(values, method="holm")[1]))


@given(COUNTS, COUNTS)
def test_psi_of_counts_is_the_sum_of_both_divergences_and_has_no_sides(
    first: list[int], second: list[int]
) -> None:
    size = min(len(first), len(second))
    one, two = np.array(first[:size], dtype=float), np.array(second[:size], dtype=float)
    found = float(psi_of_counts(one, two, 1e-4))
    if one.sum() == 0 or two.sum() == 0:
        assert math.isnan(found)
        return
    used = (one + two) > 0
    floor = max(1e-4, 0.5 / min(one.sum(), two.sum()))
    pair = shares(one[used], floor), shares(two[used], floor)
    assert found == pytest.approx(stats.entropy(*pair) + stats.entropy(*pair[::-1]))
    assert found == pytest.approx(float(psi_of_counts(two, one, 1e-4)))
    stacked = psi_of_counts(np.stack([one, two, one]), np.stack([two, one, one]), 1e-4)
    assert stacked == pytest.approx([found, found, 0.0])


@given(st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=40), st.floats(-10, 10))
def test_each_category_has_a_bin_and_a_new_one_falls_into_none_of_theirs(
    known: list[float], new: float
) -> None:
    edges = quantile_edges(as_floats(known), 10)
    counts = [bin_counts(as_floats([value]), edges) for value in {*known, new}]
    assert sum(np.count_nonzero(each) for each in counts) == len({*known, new})
    assert np.count_nonzero(np.sum(counts, axis=0)) == len({*known, new})


def test_chance_is_taken_off_the_psi_of_counts() -> None:
    generator = np.random.default_rng(8)
    drawn = [generator.multinomial(size, np.full(10, 0.1), 400).astype(float) for size in (4000, 300)]
    assert np.mean(excess_psi(*drawn, 1e-4)) == pytest.approx(0.0, abs=0.003)


@given(COUNTS, COUNTS)
@settings(max_examples=50)
def test_chi_square_agrees_with_scipy_on_counts(first: list[int], second: list[int]) -> None:
    size = min(len(first), len(second))
    one, two = np.array(first[:size], dtype=float), np.array(second[:size], dtype=float)
    found = chi_square(one, two)
    if one.sum() == 0 or two.sum() == 0:
        assert math.isnan(found)
        return
    used = (one + two) > 0
    if used.sum() < 2:
        assert found == 1.0
        return
    expected = stats.chi2_contingency([one[used], two[used]], correction=False)[1]
    assert found == pytest.approx(expected)


def test_psi_as_written_out_by_hand() -> None:
    reference, current = np.repeat([1.0, 2.0], 50), np.repeat([1.0, 2.0], [80, 20])
    by_hand = (0.8 - 0.5) * math.log(0.8 / 0.5) + (0.2 - 0.5) * math.log(0.2 / 0.5)
    assert psi(reference, current) == pytest.approx(by_hand, rel=1e-3)


def test_psi_without_a_shift_is_on_average_what_its_sample_sizes_say() -> None:
    generator = np.random.default_rng(3)
    found = [psi(generator.normal(size=4000), generator.normal(size=1000)) for _ in range(200)]
    assert np.mean(found) == pytest.approx(expected_psi(10, 4000, 1000), rel=0.15)


def test_one_outlier_does_not_hide_a_shift() -> None:
    generator = np.random.default_rng(4)
    shifted = np.append(generator.normal(1, 1, 2000), 1e12)
    assert psi(generator.normal(size=5000), shifted) > 0.25


def test_what_lies_outside_the_references_range_counts() -> None:
    assert psi(np.linspace(0, 1, 500), np.linspace(5, 6, 500)) > 5


def test_a_constant_feature_that_changes_is_seen_on_both_sides() -> None:
    constant = np.full(1000, 3.0)
    assert psi(constant, constant) == pytest.approx(0)
    assert psi(constant, constant + 1) > 1
    assert psi(constant, constant - 1) > 1


def test_values_that_go_missing_are_a_shift() -> None:
    values = np.linspace(0, 1, 1000)
    assert psi(values, np.where(values < 0.4, np.nan, values)) > 0.25


def test_half_a_million_rows_with_a_hundredth_sigma_have_no_psi_though_the_test_is_sure() -> None:
    generator = np.random.default_rng(5)
    first, second = generator.normal(size=500_000), generator.normal(0.01, 1, 500_000)
    assert psi(first, second) < 0.001
    assert kolmogorov_smirnov(first, second) < 0.01


def test_shares_keep_a_floor_and_sum_to_one() -> None:
    found = shares(np.array([100.0, 0.0, 0.0]), 1e-4)
    assert found.sum() == pytest.approx(1)
    assert found.min() > 0


def test_the_lower_bound_of_psi_stays_below_the_truth_and_finds_a_large_shift() -> None:
    """Twenty requests of each of few customers: the rows are many, the customers are not."""
    generator = np.random.default_rng(6)
    above = 0
    for _ in range(100):
        first, second = (_clustered(generator, customers) for customers in (200, 25))
        _, lower = psi_lower_bound(
            first, second, z_score=3.09, samples=200, generator=np.random.default_rng(1)
        )
        above += lower > 0.25
    assert above == 0
    _, lower = psi_lower_bound(
        _clustered(generator, 200), _clustered(generator, 25)[:, ::-1] + np.array([0, 0, 0, 0, 20]),
        z_score=3.09, samples=200, generator=np.random.default_rng(1),
    )  # fmt: skip
    assert lower > 0.25


def _clustered(generator: np.random.Generator, customers: int) -> np.ndarray:
    """Counts of five bins; each customer has a taste of his own."""
    tastes = generator.dirichlet(np.full(5, 2.0), size=customers)
    return np.array([generator.multinomial(4, taste) for taste in tastes], dtype=float)
