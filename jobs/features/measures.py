"""The measures of a window from its count, its sum and its sum of squares, as plain numbers.

In: amounts in minor units, as whole numbers in doubles: exact, whatever the order in which they were added,
while a window's sum of squares stays below 2**53 (3.6 million payments of 500.00). Out: major units.
Spark says the same in jobs/features/windows.py; tests hold the two together.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from jobs.features.declarations import Measure

SMALLEST_DEVIATION = 1.0  # major units: a z-score of equal amounts stays finite


def count_of(count: float, _total: float, _squares: float) -> float:
    """How many."""
    return float(count)


def sum_of(_count: float, total: float, _squares: float) -> float:
    """Their sum."""
    return total / 100


def mean_of(count: float, total: float, _squares: float) -> float:
    """Their mean; NaN of nothing."""
    return total / count / 100 if count else math.nan


def deviation_of(count: float, total: float, squares: float) -> float:
    """Their sample deviation; NaN below two."""
    if count < 2:
        return math.nan
    # of equal amounts both products are the same real number, so their difference is 0
    return math.sqrt(max(count * squares - total * total, 0.0) / (count * (count - 1))) / 100


OF_SUMS: dict[Measure, Callable[[float, float, float], float]] = {
    "count": count_of,
    "amount_sum": sum_of,
    "amount_mean": mean_of,
    "amount_deviation": deviation_of,
}
