"""How many customers an experiment needs, for means (and ratios) and for proportions.

In: what varies, the smallest change worth finding, two-sided alpha, power, the treatment's share of
customers.
Out: customers of control and of treatment, rounded up. Normal approximation; for proportions with the
pooled variance under no difference (Fleiss, Levin and Paik, 2003, chapter 4).
Errors: SluiceError where the change is 0, or moves a proportion out of (0, 1).
"""

from __future__ import annotations

from math import ceil, sqrt
from typing import NamedTuple

from scipy import stats

from jobs.core import SluiceError


class Sizes(NamedTuple):
    """Customers of each arm."""

    control: int
    treatment: int


def for_means(
    deviation: float, change: float, *, alpha: float, power: float, share: float, factor: float = 1.0
) -> Sizes:
    """To find an absolute change of a mean of values with this standard deviation.

    `factor`: how many times more several looks need.
    """
    if change == 0:
        raise SluiceError("sample size: a change of 0 cannot be found")
    reach = stats.norm.isf(alpha / 2) + stats.norm.isf(1 - power)
    return _split((reach * deviation / change) ** 2 / (share * (1 - share)) * factor, share)


def for_proportions(
    base: float, change: float, *, alpha: float, power: float, share: float, factor: float = 1.0
) -> Sizes:
    """To find an absolute change of a proportion."""
    new = base + change
    if change == 0 or not 0 < base < 1 or not 0 < new < 1:
        raise SluiceError(f"sample size: a proportion cannot go from {base:g} to {new:g}")
    pooled = share * new + (1 - share) * base
    null = stats.norm.isf(alpha / 2) * sqrt(pooled * (1 - pooled) * (1 / share + 1 / (1 - share)))
    other = stats.norm.isf(1 - power) * sqrt(base * (1 - base) / (1 - share) + new * (1 - new) / share)
    return _split(((null + other) / change) ** 2 * factor, share)


def _split(total: float, share: float) -> Sizes:
    return Sizes(ceil(total * (1 - share)), ceil(total * share))
