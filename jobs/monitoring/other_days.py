"""A share of a day, or of an hour, beside the same share of other days: what has no limit of its own.

In: the day's share, those of other days, and what chance makes of the rows behind both. Out: a `Figure`.
A day alerts outside the prediction interval of the others at `performance.proxy_significance` that changed
by `business_change_alert` as well, and whose rows and theirs are not alike by chance. Fewer days than a week
say nothing yet.
Source: the interval of a further observation, e.g. Hahn and Meeker 1991, section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from jobs.conf.policy import Policy
from jobs.monitoring.figures import ALERT, OK, UNKNOWN, Figure, finite

FEWEST_DAYS = 7


class Share(NamedTuple):
    """So many of so many rows."""

    cases: int
    rows: int

    @property
    def value(self) -> float:
        """NaN of no rows."""
        return self.cases / self.rows if self.rows else float("nan")


def usual_range(values: Sequence[float], significance: float) -> tuple[float, float]:
    """Between what a further day lies, given days like it; needs two of them."""
    known = np.asarray(values, dtype=np.float64)
    width = float(
        stats.t.isf(significance / 2, len(known) - 1) * known.std(ddof=1) * np.sqrt(1 + 1 / len(known))
    )
    return float(known.mean()) - width, float(known.mean()) + width


def against_days(
    metric: str,
    value: float,
    days: Sequence[float],
    policy: Policy,
    *,
    chance: float,
    subject: str = "all",
    only_above: bool = False,
) -> Figure:
    """A share of a day beside the same share of other days; shares are compared by their square roots.

    The root makes the spread of a count independent of its size, so that rare events have an interval.
    `chance` is the p-value that its rows and theirs are alike: days that all show nothing have no spread,
    and a few rows show what they like.
    """
    if len(days) < FEWEST_DAYS:
        detail = f"{len(days)} days to compare with, needed {FEWEST_DAYS}"
        return Figure(metric=metric, subject=subject, value=finite(value), status=OK, detail=detail)
    if not np.isfinite(value):
        return Figure(metric=metric, subject=subject, status=UNKNOWN, detail="no value on this day")
    low, high = usual_range(list(np.sqrt(days)), policy.performance.proxy_significance)
    middle = float(np.mean(days))
    change = (value - middle) / middle if middle else (0.0 if value == 0 else float("inf"))
    outside = np.sqrt(value) > high or (np.sqrt(value) < low and not only_above)
    far = abs(change) >= policy.performance.business_change_alert
    rare = chance < policy.performance.proxy_significance
    detail = f"{value:.4g}, other days {middle:.4g} and within {max(low, 0.0) ** 2:.4g} to {high**2:.4g}"
    return Figure(metric=metric, subject=subject, value=finite(value), threshold=finite(high**2),
                  status=ALERT if outside and far and rare else OK, detail=detail)  # fmt: skip


def share_beside(metric: str, today: Share, days: Sequence[Share], policy: Policy) -> Figure:
    """A share that only alerts where it rises, beside the same share of the days before."""
    before = Share(sum(each.cases for each in days), sum(each.rows for each in days))
    return against_days(
        metric, today.value, [each.value for each in days], policy,
        chance=shares_alike(today, before), only_above=True,
    )  # fmt: skip


def shares_alike(first: Share, second: Share) -> float:
    """p-value that two shares are one: Fisher's exact test."""
    table = [[each.cases, each.rows - each.cases] for each in (first, second)]
    return float(stats.fisher_exact(table).pvalue)


def alike_by_chance(first: pd.Series, second: pd.Series) -> float:
    """p-value that two samples have one mean: of 0 and 1 an exact test, of other numbers Welch's."""
    if first.isin((0.0, 1.0)).all() and second.isin((0.0, 1.0)).all():
        return shares_alike(*(Share(int(each.sum()), len(each)) for each in (first, second)))
    found = float(stats.ttest_ind(first, second, equal_var=False).pvalue)
    return found if np.isfinite(found) else float(first.mean() == second.mean())
