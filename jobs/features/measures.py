"""The measures of a window from its count, its sum and its sum of squares, as plain numbers.

In: amounts in minor units, as whole numbers in doubles: exact, whatever the order in which they were added,
while a window's sum of squares stays below 2**53 (3.6 million payments of 500.00). Out: major units.
Spark says the same in jobs/features/windows.py; tests hold the two together.
"""

from __future__ import annotations

import math

from jobs.features.declarations import Measure

SMALLEST_DEVIATION = 1.0  # major units: a z-score of equal amounts stays finite


def measure(name: Measure, count: float, total: float, squares: float) -> float:
    """One measure of a window; NaN where it is null."""
    if name == "count":
        return float(count)
    if name == "amount_sum":
        return total / 100
    if name == "amount_mean":
        return total / count / 100 if count else math.nan
    if name == "amount_deviation":
        if count < 2:
            return math.nan
        # of equal amounts both products are the same real number, so their difference is 0
        return math.sqrt(max(count * squares - total * total, 0.0) / (count * (count - 1))) / 100
    raise AssertionError(f"no measure of sums: {name}")
