"""Slices of the labelled rows, by the names that a contract uses."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

SMALL_MINOR, LARGE_MINOR = 1_000, 20_000  # amounts of the slices, in minor units

# slice of the contract -> which rows belong to it
SLICES: dict[str, Callable[[pd.DataFrame], pd.Series]] = {
    "amount_small": lambda rows: rows["amount_minor"] < SMALL_MINOR,
    "amount_large": lambda rows: rows["amount_minor"] >= LARGE_MINOR,
    "night": lambda rows: rows["is_night"] == 1,
    "new_terminal": lambda rows: (rows["terminal_missing"] == 1) | (rows["terminal_count_30d"] == 0),
}
