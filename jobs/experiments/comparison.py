"""Two arms compared: means, ratios, proportions, adjustment by what was known before, and the split itself.

In: figures of customers, the unit that is drawn into an arm. Out: effect (treatment minus control), its
standard error, a two-sided p-value and the z-score of the same p-value. Where a function takes summaries
(means, variances, counts) it takes arrays of them too, and compares element by element.
Sources: Welch (1947); Newcombe (1998), method 10; Deng, Xu, Kohavi and Walker (2013) for CUPED; Deng,
Knoblich and Lu (2018) for ratios by the delta method. NaN where an arm has too few customers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]
Numbers = Floats | float


@dataclass(frozen=True)
class Comparison:
    """Treatment minus control; `degrees` of Student's t, infinite where the normal applies."""

    effect: Floats
    standard_error: Floats
    degrees: Floats
    p_value: Floats

    @property
    def z_score(self) -> Floats:
        """Signed quantile of the normal with the same two-sided p-value."""
        size = stats.norm.isf(np.maximum(self.p_value, 1e-300) / 2)
        return np.asarray(np.sign(self.effect) * size, dtype=np.float64)

    def interval(self, critical: float) -> tuple[Floats, Floats]:
        """Effect with as many standard errors to each side as a critical value of the normal stands for."""
        if not np.isfinite(critical):
            wide = np.full_like(self.effect, np.inf)
            return -wide, wide
        reach = stats.t.isf(stats.norm.sf(critical), self.degrees) * self.standard_error
        return self.effect - reach, self.effect + reach


def welch(
    control: tuple[Numbers, Numbers, Numbers], treatment: tuple[Numbers, Numbers, Numbers]
) -> Comparison:
    """Welch's test of two means, each arm given as (mean, variance with n - 1, count).

    Arms without any variation and of one mean are no evidence: p is 1.
    """
    (mean_c, var_c, n_c), (mean_t, var_t, n_t) = (
        tuple(np.asarray(each, dtype=np.float64) for each in arm) for arm in (control, treatment)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        part_c, part_t = var_c / n_c, var_t / n_t
        error = np.sqrt(part_c + part_t)
        degrees = (part_c + part_t) ** 2 / (part_c**2 / (n_c - 1) + part_t**2 / (n_t - 1))
        effect = mean_t - mean_c
        p_value = 2 * stats.t.sf(np.abs(effect) / error, degrees)
    flat = (error == 0) & (effect == 0)
    enough = (n_c > 1) & (n_t > 1)
    p_value = np.where(enough, np.where(flat, 1.0, p_value), np.nan)
    return Comparison(effect, error, np.where(flat, np.inf, degrees), p_value)


def summary(values: Floats) -> tuple[float, float, float]:
    """(mean, variance with n - 1, count) of one arm; NaN where there are too few."""
    if len(values) < 2:
        return (float(values.mean()) if len(values) else float("nan")), float("nan"), float(len(values))
    return float(values.mean()), float(values.var(ddof=1)), float(len(values))


def linearised(numerator: Floats, denominator: Floats) -> Floats:
    """One value per customer whose mean is the ratio of the sums and whose variance is the delta method's.

    R + (y - R x) / mean(x), with R = sum(y) / sum(x). NaN throughout where the sum of x is 0.
    """
    total = denominator.sum()
    if total == 0:
        return np.full(len(numerator), np.nan)
    ratio = numerator.sum() / total
    return np.asarray(ratio + (numerator - ratio * denominator) / denominator.mean(), dtype=np.float64)


def two_proportions(hits_c: Numbers, count_c: Numbers, hits_t: Numbers, count_t: Numbers) -> Comparison:
    """z-test of two proportions with the pooled variance; nobody or everybody in both arms is p = 1."""
    first, n_c, second, n_t = (
        np.asarray(each, dtype=np.float64) for each in (hits_c, count_c, hits_t, count_t)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        pooled = (first + second) / (n_c + n_t)
        error = np.sqrt(pooled * (1 - pooled) * (1 / n_c + 1 / n_t))
        effect = second / n_t - first / n_c
        p_value = 2 * stats.norm.sf(np.abs(effect) / error)
    p_value = np.where((error == 0) & (effect == 0), 1.0, p_value)
    return Comparison(effect, error, np.full_like(effect, np.inf), p_value)


def newcombe_interval(
    hits_c: float, count_c: float, hits_t: float, count_t: float, critical: float
) -> tuple[float, float]:
    """Interval of the difference of two proportions from each one's Wilson interval: never beyond [-1, 1]."""
    if not np.isfinite(critical):
        return -1.0, 1.0
    (low_c, high_c), (low_t, high_t) = (
        _wilson(hits, count, critical) for hits, count in ((hits_c, count_c), (hits_t, count_t))
    )
    first, second = hits_c / count_c, hits_t / count_t
    down = np.sqrt((second - low_t) ** 2 + (high_c - first) ** 2)
    up = np.sqrt((high_t - second) ** 2 + (first - low_c) ** 2)
    return float(second - first - down), float(second - first + up)


def _wilson(hits: float, count: float, critical: float) -> tuple[float, float]:
    share, square = hits / count, critical**2
    middle = (share + square / (2 * count)) / (1 + square / count)
    reach = critical / (1 + square / count) * np.sqrt(share * (1 - share) / count + square / (4 * count**2))
    return middle - reach, middle + reach


def cuped(values: Floats, treated: npt.NDArray[np.bool_], before: Floats) -> Floats:
    """Values less what the customers' own figures from before the experiment explain (CUPED).

    Args:
        values: [customers].
        treated: which arm.
        before: [customers, covariates], known before anybody was assigned: the arm cannot have moved them.

    The slopes are those within the arms, so that the difference of the adjusted means is the estimate of the
    analysis of covariance. The mean over both arms stays as it is.
    """
    centred, inside = before - before.mean(axis=0), values.astype(np.float64).copy()
    within = before.astype(np.float64).copy()
    for arm in (treated, ~treated):
        within[arm] -= within[arm].mean(axis=0)
        inside[arm] -= inside[arm].mean()
    # scaled, so that money in minor units and counts stand in one well-conditioned problem
    scale = within.std(axis=0)
    used = scale > 0
    if not used.any():
        return values.astype(np.float64)
    slopes = np.linalg.lstsq(within[:, used] / scale[used], inside, rcond=None)[0] / scale[used]
    return np.asarray(values - centred[:, used] @ slopes, dtype=np.float64)


def sample_ratio_p_value(control: int, treatment: int, share: float) -> float:
    """Exact two-sided p-value that so many of all came into the treatment by its intended share."""
    if control + treatment == 0:
        return float("nan")
    return float(stats.binomtest(treatment, control + treatment, share).pvalue)
