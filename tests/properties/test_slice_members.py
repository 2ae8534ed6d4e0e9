"""Slices that are counted at once have the counts that each has by itself."""

from __future__ import annotations

from datetime import date

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.conf.policy import load_policy
from jobs.evaluation.slices import SLICES
from jobs.monitoring.comparison import compare_column, reference_days
from jobs.monitoring.slice_members import members_of
from jobs.monitoring.statistics import as_floats, bin_counts, quantile_edges

POLICY = load_policy().drift.model_copy(update={"minimum_rows": 1, "slice_rows_min": 5})
DAY = date(2026, 3, 10)
NAMES = ("amount_small", "amount_large", "night", "morning", "quiet_customer")


def rows_of(count: int, days: int, generator: np.random.Generator) -> pd.DataFrame:
    hours = generator.integers(0, 24, count)
    back = pd.to_timedelta(generator.integers(0, days, count), unit="D")
    return pd.DataFrame(
        {
            "amount": np.where(generator.random(count) < 0.1, np.nan, generator.integers(0, 30, count)),
            "amount_minor": generator.integers(0, 40_000, count),
            "hour": hours,
            "is_night": (hours < 7).astype(float),
            "customer_count_30d": generator.integers(0, 60, count),
            "event_time": pd.Timestamp(DAY, tz="UTC") - back,
        }
    )


@given(st.integers(0, 2**32 - 1), st.integers(20, 200), st.integers(20, 200))
@settings(max_examples=25, deadline=None)
def test_slices_counted_at_once_have_the_counts_of_each(seed: int, known: int, new: int) -> None:
    generator = np.random.default_rng(seed)
    reference, current = rows_of(known, 28, generator), rows_of(new, 1, generator)
    days = reference_days(reference, DAY, POLICY.minimum_rows)
    members, small = members_of(days.rows, current, NAMES, POLICY.slice_rows_min)
    assert {*members.names, *small} == set(NAMES)
    since = date(2026, 1, 1)
    found = compare_column("amount", days, current, since, POLICY, members)
    assert isinstance(found, tuple)
    known_values, new_values = as_floats(days.rows["amount"]), as_floats(current["amount"])
    edges = quantile_edges(known_values, POLICY.bins)
    for place, name in enumerate(members.names):
        inside = SLICES[name](days.rows).to_numpy(np.bool_)
        now = bin_counts(new_values[SLICES[name](current)], edges)
        usual = [
            bin_counts(known_values[inside & (days.codes == day)], edges) for day in range(len(days.names))
        ]
        assert found[1].actual[place].tolist() == now.tolist()
        assert found[1].usual[place].tolist() == np.array(usual).tolist()
