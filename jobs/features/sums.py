"""Sums of windows and the measures that follow from them, as Spark columns.

Amounts and their squares are summed as whole numbers of minor units: exact in any order. A sum beyond 64 bits
is null, which the checks of a build refuse: 2.3 million payments of 20,000.00 by one key in one build would
come to that, or nine of the largest amount that a contract may allow.
The same measures as plain numbers: jobs/features/measures.py.
"""

from __future__ import annotations

from datetime import timedelta

from pyspark.sql import Column, Window, WindowSpec
from pyspark.sql import functions as F  # noqa: N812 - the name every Spark reader knows

# the sums that a measure needs, in the order in which `measured` takes them
FIGURES: dict[str, tuple[str, ...]] = {
    "count": ("count",),
    "amount_sum": ("amount",),
    "amount_mean": ("count", "amount"),
    "amount_deviation": ("count", "amount", "squares"),
    "risk": ("count", "frauds"),
}


def squared(name: str) -> Column:
    """The square of a whole number; of one above 30 million major units so much that no sum takes it."""
    whole = F.col(name).cast("bigint")
    return F.coalesce(F.try_multiply(whole, whole), F.lit(2**63 - 1))


def total(values: Column | str) -> Column:
    """The sum, null beyond 64 bits."""
    return F.try_sum(values)


def measured(measure: str, *sums: Column) -> Column:
    """A measure in major units from the sums that FIGURES names; null where one is."""
    found = [each.cast("double") for each in sums]
    if measure == "count":
        return found[0]
    if measure == "amount_sum":
        return found[0] / F.lit(100.0)
    if measure == "amount_mean":
        count, amount = found
        return F.try_divide(amount, count) / F.lit(100.0)
    if measure == "risk":
        count, frauds = found
        return F.coalesce(F.try_divide(frauds, count), F.lit(0.0))
    if measure == "amount_deviation":
        count, amount, squares = found
        # of equal amounts both products are the same real number, so their difference is 0
        spread = F.greatest(count * squares - amount * amount, F.lit(0.0))
        return F.when(count >= 2, F.sqrt(spread / (count * (count - 1))) / F.lit(100.0))
    raise AssertionError(f"no measure of sums: {measure}")


def microseconds(window: timedelta) -> int:
    """The length of a window."""
    return window // timedelta(microseconds=1)


def everything_until(keys: list[str], distance: int, *, current_included: bool = False) -> WindowSpec:
    """All rows of the keys up to `distance` microseconds before the row's time `at`.

    Two of them make a window: [t - w, t), which is strictly before the row, or with the current row included
    (t - w, t], where of the rows of one instant those up to it count, by transaction_id.
    """
    in_order = Window.partitionBy(*keys).orderBy("at")
    if not current_included:
        return in_order.rangeBetween(Window.unboundedPreceding, -distance - 1)
    if distance:
        return in_order.rangeBetween(Window.unboundedPreceding, -distance)
    in_turn = Window.partitionBy(*keys).orderBy("at", "transaction_id")
    return in_turn.rowsBetween(Window.unboundedPreceding, Window.currentRow)
