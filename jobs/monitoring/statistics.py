"""The statistics that decide about drift: numbers in, numbers out, no files.

In: one-dimensional samples (missing values allowed, they become a bin of their own) or counts.
Out: PSI, Jensen-Shannon and Kullback-Leibler divergence (nats), Kolmogorov-Smirnov with Holm's
correction, chi-square on counts. A sample without usable values gives NaN, which every caller treats as
`unknown`; a constant sample has one bin and compares as expected.
Source: Yurdakul and Naranjo, "Statistical properties of the population stability index", 2020, for the
expectation of PSI without a shift; Holm 1979.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]


def as_floats(values: Any) -> Floats:
    """Any column as float64; what is missing or infinite becomes NaN."""
    numbers = np.asarray(values, dtype=np.float64).reshape(-1)
    return np.where(np.isfinite(numbers), numbers, np.nan)


def quantile_edges(reference: Floats, bins: int) -> Floats:
    """Inner edges of at most `bins` bins with equal shares of the reference; the outer ends are open.

    Ties collapse edges; a constant reference gives its value as the one edge, so that what lies above it
    and what lies below or at it are told apart.
    """
    present = reference[~np.isnan(reference)]
    if present.size == 0:
        return np.empty(0)
    inner = np.quantile(present, np.linspace(0.0, 1.0, bins + 1)[1:-1])
    edges = np.unique(inner)
    lowest = present.min()
    if edges[0] == lowest:  # values below the whole reference keep a bin of their own
        edges = np.unique(np.concatenate([[np.nextafter(lowest, -np.inf)], edges]))
    return np.asarray(edges, dtype=np.float64)


def bin_counts(values: Floats, edges: Floats) -> Floats:
    """Counts in (-inf, e1], (e1, e2], …, (ek, inf) and, last, of missing values."""
    missing = np.isnan(values)
    places = np.searchsorted(edges, values[~missing], side="left")
    counts = np.bincount(places, minlength=len(edges) + 1).astype(np.float64)
    return np.append(counts, float(missing.sum()))


def shares(counts: Floats, floor: float) -> Floats:
    """Shares of counts with a floor, summing to one."""
    floored = np.maximum(counts / counts.sum(), floor)
    return np.asarray(floored / floored.sum())


def shared_bins(reference: Floats, current: Floats, bins: int, floor: float) -> tuple[Floats, Floats] | None:
    """Both samples as shares of the same bins; None where a sample has no usable value."""
    if np.isnan(reference).all() or np.isnan(current).all():
        return None
    edges = quantile_edges(reference, bins)
    first, second = bin_counts(reference, edges), bin_counts(current, edges)
    used = (first + second) > 0
    return shares(first[used], floor), shares(second[used], floor)


def psi_of_shares(expected: Floats, actual: Floats) -> float:
    return float(np.sum((actual - expected) * np.log(actual / expected)))


def population_stability_index(reference: Floats, current: Floats, bins: int, floor: float) -> float:
    """PSI over quantile bins of the reference with open ends; NaN where a sample is empty."""
    pair = shared_bins(reference, current, bins, floor)
    return float("nan") if pair is None else psi_of_shares(*pair)


def expected_psi(bins: int, reference_size: float, current_size: float) -> float:
    """PSI of two samples of one distribution, on average, from their sizes alone."""
    if reference_size <= 0 or current_size <= 0:
        return float("nan")
    return (bins - 1) * (1.0 / reference_size + 1.0 / current_size)


def jensen_shannon(expected: Floats, actual: Floats) -> float:
    """Jensen-Shannon divergence in nats: 0 for equal shares, at most ln 2."""
    middle = (expected + actual) / 2
    return 0.5 * kullback_leibler(expected, middle) + 0.5 * kullback_leibler(actual, middle)


def kullback_leibler(actual: Floats, expected: Floats) -> float:
    """Kullback-Leibler divergence of actual from expected in nats; both need a floor."""
    return float(np.sum(actual * np.log(actual / expected)))


def kolmogorov_smirnov(reference: Floats, current: Floats) -> float:
    """p-value of the two-sample test on the present values; NaN where a sample is empty."""
    first, second = reference[~np.isnan(reference)], current[~np.isnan(current)]
    if first.size == 0 or second.size == 0:
        return float("nan")
    return float(stats.ks_2samp(first, second, method="asymp").pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the given order; NaN stays NaN and counts for nothing."""
    known = [index for index, value in enumerate(p_values) if not np.isnan(value)]
    adjusted = [float("nan")] * len(p_values)
    running = 0.0
    for rank, index in enumerate(sorted(known, key=lambda each: p_values[each])):
        running = max(running, min(1.0, (len(known) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def chi_square(reference_counts: Floats, current_counts: Floats) -> float:
    """p-value that two rows of counts have the same shares; NaN where a row is empty.

    Columns that are empty in both rows are dropped; one column left means no difference is possible.
    """
    used = (reference_counts + current_counts) > 0
    table = np.vstack([reference_counts[used], current_counts[used]])
    if (table.sum(axis=1) == 0).any():
        return float("nan")
    if table.shape[1] < 2:
        return 1.0
    return float(stats.chi2_contingency(table, correction=False).pvalue)


def psi_lower_bound(
    reference_counts: Floats,
    current_counts: Floats,
    *,
    z_score: float,
    samples: int,
    generator: np.random.Generator,
    added: float = 0.5,
) -> tuple[float, float]:
    """PSI without its sampling bias, and its lower bound, from counts per cluster.

    In: two matrices [clusters, bins]: rows of one cluster (a customer) are correlated, so whole clusters
    are drawn again. The bootstrap's mean stands above the sample's PSI by about as much as the sample's
    stands above the truth; that much is taken off. `added` counts keep empty bins finite.
    """

    def shares_of(counts: Floats) -> Floats:
        padded = counts + added
        return np.asarray(padded / padded.sum(axis=-1, keepdims=True))

    def weights(clusters: int) -> Floats:
        even = np.full(clusters, 1.0 / clusters)
        return generator.multinomial(clusters, even, size=samples).astype(np.float64)

    expected, actual = (
        shares_of(reference_counts.sum(axis=0)),
        shares_of(current_counts.sum(axis=0)),
    )
    observed = psi_of_shares(expected, actual)
    drawn_expected = shares_of(weights(len(reference_counts)) @ reference_counts)
    drawn_actual = shares_of(weights(len(current_counts)) @ current_counts)
    drawn = np.sum((drawn_actual - drawn_expected) * np.log(drawn_actual / drawn_expected), axis=1)
    corrected = 2 * observed - float(drawn.mean())
    return max(0.0, corrected), corrected - z_score * float(drawn.std())
