"""Slices of the labelled rows, by the names that a contract uses.

Age is no feature: every window looks back 30 days at most. A customer or terminal is therefore new (nothing
known of it in 30 days), quiet (fewer known transactions than one a day) or settled; a pair is new where the
customer was not at the terminal in 30 days. Bands of the day are UTC hours and share it out with "night".
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

SMALL_MINOR, LARGE_MINOR = 1_000, 20_000  # amounts of the slices, in minor units
QUIET_COUNT = 30  # known transactions in 30 days; fewer are quiet


def _feature(rows: pd.DataFrame, name: str) -> pd.Series:
    """A feature; NaN, which no slice holds, in rows kept with a model that was built without it."""
    return rows[name] if name in rows else pd.Series(np.nan, index=rows.index)


def _new(entity: str) -> Callable[[pd.DataFrame], pd.Series]:
    return lambda rows: (rows[f"{entity}_missing"] == 1) | (rows[f"{entity}_count_30d"] == 0)


def _quiet(entity: str) -> Callable[[pd.DataFrame], pd.Series]:
    return lambda rows: rows[f"{entity}_count_30d"].between(1, QUIET_COUNT - 1)


# slice of the contract -> which rows belong to it
SLICES: dict[str, Callable[[pd.DataFrame], pd.Series]] = {
    "amount_small": lambda rows: rows["amount_minor"] < SMALL_MINOR,
    "amount_large": lambda rows: rows["amount_minor"] >= LARGE_MINOR,
    "night": lambda rows: rows["is_night"] == 1,
    "morning": lambda rows: rows["hour"].between(7, 11),
    "afternoon": lambda rows: rows["hour"].between(12, 17),
    "evening": lambda rows: rows["hour"].between(18, 23),
    "new_terminal": _new("terminal"),
    "quiet_terminal": _quiet("terminal"),
    "new_customer": _new("customer"),
    "quiet_customer": _quiet("customer"),
    "new_pair": lambda rows: _feature(rows, "pair_is_new_30d") == 1,
}
# the features by which they choose
SLICE_FEATURES: tuple[str, ...] = (
    "hour", "is_night", "terminal_missing", "terminal_count_30d", "customer_missing", "customer_count_30d",
    "pair_is_new_30d",
)  # fmt: skip
