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
from scipy import special, stats

Floats = npt.NDArray[np.float64]
FIRST = 500  # values that tell most columns with many different ones


def as_floats(values: Any) -> Floats:
    """Any column as float64; what is missing or infinite becomes NaN."""
    numbers = np.asarray(values, dtype=np.float64).reshape(-1)
    return np.where(np.isfinite(numbers), numbers, np.nan)


def has_categories(reference: Floats, bins: int) -> bool:
    """Whether there are so few different values that each has a bin of its own."""
    present = reference[~np.isnan(reference)]
    if np.unique(present[:FIRST]).size > bins:  # spares sorting most columns
        return False
    return bool(np.unique(present).size <= bins)


def quantile_edges(reference: Floats, bins: int, weights: Floats | None = None) -> Floats:
    """Inner edges of bins with equal shares of the reference's weights; the outer ends are open.

    A reference of at most `bins` different values (a flag, a code, a constant) has a bin for each of them,
    and one for what lies between, below and above: a new category is seen wherever its code lies. Ties
    collapse edges otherwise.
    """
    there = ~np.isnan(reference)
    present = reference[there]
    if present.size == 0:
        return np.empty(0)
    if has_categories(present, bins):
        values = np.unique(present)
        return np.unique(np.concatenate([np.nextafter(values, -np.inf), values]))
    ranks = np.linspace(0.0, 1.0, bins + 1)[1:-1]
    if weights is None:
        inner = np.quantile(present, ranks)
    else:
        inner = np.quantile(present, ranks, weights=weights[there], method="inverted_cdf")
    edges = np.unique(inner)
    lowest = present.min()
    if edges[0] == lowest:  # values below the whole reference keep a bin of their own
        edges = np.unique(np.concatenate([[np.nextafter(lowest, -np.inf)], edges]))
    return np.asarray(edges, dtype=np.float64)


def bin_counts(values: Floats, edges: Floats) -> Floats:
    """Counts in (-inf, e1], (e1, e2], …, (ek, inf) and, last, of missing values."""
    return np.bincount(bin_places(values, edges), minlength=len(edges) + 2).astype(np.float64)


def bin_places(values: Floats, edges: Floats) -> npt.NDArray[np.int64]:
    """The bin of each value, in the order of `bin_counts`."""
    places = np.searchsorted(edges, values, side="left")
    return np.where(np.isnan(values), len(edges) + 1, places)


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
    """p-value of the two-sample test on the present values; NaN where a sample is empty.

    Between two values of the reference its distribution stands still, so the largest distance lies at one
    of them or right before it: a day of a million rows is sorted, and asked for these alone.
    """
    first, second = reference[~np.isnan(reference)], current[~np.isnan(current)]
    if first.size == 0 or second.size == 0:
        return float("nan")
    steps, counts = np.unique(first, return_counts=True)
    second = np.sort(second)
    up_to = np.searchsorted(second, steps, side="right")
    below = np.searchsorted(second, steps, side="left")
    mine = np.cumsum(counts) / first.size
    before = np.concatenate([[0.0], mine[:-1]])
    distance = max(
        float(np.max(np.abs(mine - up_to / second.size))), float(np.max(np.abs(before - below / second.size)))
    )
    effective = first.size * second.size / (first.size + second.size)
    return float(np.clip(stats.kstwo.sf(distance, max(1.0, np.round(effective))), 0.0, 1.0))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the given order; NaN stays NaN and counts for nothing."""
    known = [index for index, value in enumerate(p_values) if not np.isnan(value)]
    adjusted = [float("nan")] * len(p_values)
    running = 0.0
    for rank, index in enumerate(sorted(known, key=lambda each: p_values[each])):
        running = max(running, min(1.0, (len(known) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def chi_square(reference_counts: Floats, current_counts: Floats) -> Floats:
    """[...] p-value that two rows of counts [..., bins] have the same shares; NaN where a row is empty.

    Columns that are empty in both rows count for nothing; one column left means no difference is possible.
    """
    both = reference_counts + current_counts
    sizes = [each.sum(axis=-1, keepdims=True) for each in (reference_counts, current_counts)]
    total = np.maximum(sizes[0] + sizes[1], 1.0)
    statistic = np.zeros(both.shape[:-1])
    for counts, size in zip((reference_counts, current_counts), sizes, strict=True):
        expected = size * both / total
        gaps = (counts - expected) ** 2 / np.where(expected > 0, expected, 1.0)
        statistic += gaps.sum(axis=-1)
    used = (both > 0).sum(axis=-1)
    p_value = np.where(used < 2, 1.0, special.chdtrc(np.maximum(used - 1, 1), statistic))
    empty = (sizes[0] <= 0) | (sizes[1] <= 0)
    return np.asarray(np.where(empty[..., 0], np.nan, p_value))


def shares_of_counts(expected: Floats, actual: Floats, floor: float) -> tuple[Floats, Floats]:
    """Counts [..., bins] of two samples as shares with a floor; a bin that is empty in both has none.

    No share is known below half a row, so the floor is never lower than that: an empty bin of a small
    sample says little, and of a large one what the floor says.
    """
    used = (expected + actual) > 0
    totals = expected.sum(axis=-1, keepdims=True), actual.sum(axis=-1, keepdims=True)
    lowest = np.maximum(floor, 0.5 / np.maximum(np.minimum(*totals), 0.5))
    found = []
    for counts, total in zip((expected, actual), totals, strict=True):
        floored = np.where(used, np.maximum(counts / np.maximum(total, 1.0), lowest), 0.0)
        found.append(floored / np.maximum(floored.sum(axis=-1, keepdims=True), floor))
    return found[0], found[1]


def psi_of_counts(expected: Floats, actual: Floats, floor: float) -> Floats:
    """PSI of counts [..., bins] in the same bins; NaN where a side is empty."""
    first, second = shares_of_counts(expected, actual, floor)
    used = (first > 0) & (second > 0)
    ratio = np.log(np.where(used, second, 1.0) / np.where(used, first, 1.0))
    found = ((second - first) * ratio).sum(axis=-1)
    empty = (expected.sum(axis=-1) <= 0) | (actual.sum(axis=-1) <= 0)
    return np.asarray(np.where(empty, np.nan, found))


def excess_psi(expected: Floats, actual: Floats, floor: float) -> Floats:
    """`psi_of_counts` less what the sizes of two samples of one distribution give on average."""
    used = ((expected + actual) > 0).sum(axis=-1)
    sizes = expected.sum(axis=-1), actual.sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        chance = (used - 1) * (1.0 / sizes[0] + 1.0 / sizes[1])
    return np.asarray(psi_of_counts(expected, actual, floor) - chance)


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
