"""Faults of a feed, on the text of a file: what a gate must let through with a quarantine, and what not.

In: a frame of text as it goes to the file, under the standard names. Out: the same with faults, in order.
"""

from __future__ import annotations

from datetime import date

import numpy as np
import pandas as pd

from jobs.simulator.world import FAULTS, generator

BROKEN_SHARE = 0.02
DUPLICATE_SHARE = 0.05


def break_rows(seed: int, day: date, text: pd.DataFrame) -> pd.DataFrame:
    """About 2 % broken rows, a quarter of them in each of four ways: the gate stays open."""
    random = generator(seed, FAULTS, day)
    text = text.copy()
    count = max(4, round(len(text) * BROKEN_SHARE))
    chosen = random.choice(len(text), size=min(count, len(text)), replace=False)
    negative, garbled, missing, worded = np.array_split(chosen, 4)
    text.loc[negative, "amount_minor"] = "-" + text.loc[negative, "amount_minor"]
    text.loc[garbled, "event_time"] = text.loc[garbled, "event_time"].str.replace("T", "T4", n=1)
    text.loc[missing, "customer_id"] = ""
    text.loc[worded, "amount_minor"] = "twelve"
    return text


def fail_feed(seed: int, day: date, text: pd.DataFrame) -> pd.DataFrame:
    """A sender gone wrong: 5 % of the rows twice and a third without their customer."""
    random = generator(seed, FAULTS, day)
    text = text.copy()
    anonymous = random.choice(len(text), size=len(text) // 3, replace=False)
    text.loc[anonymous, "customer_id"] = ""
    copies = random.choice(len(text), size=round(len(text) * DUPLICATE_SHARE), replace=False)
    return pd.concat([text, text.iloc[np.sort(copies)]], ignore_index=True)
